"""Matches inside patches that the network matched, and the motions of single pairs of patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems_pipeline import level, motion, moved, shape
from scipy.spatial import cKDTree
from scipy.special import softmax

from deepgmr.geometry.transform import RigidTransform, rotation_angle
from deepgmr.pipeline.agree import supports
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.propose.learned import LearnedMatches, match_nodes, nodes_in
from deepgmr.pipeline.propose.matches import Matches, mutual
from deepgmr.pipeline.propose.patches import match_inside, patch_motions
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import AgreeSettings, PatchSettings, ProposeSettings

SETTINGS, AGREE = PatchSettings(), AgreeSettings()


def halves(count: int = 2000, seed: int = 1) -> tuple[Level, Level, RigidTransform]:
    """Two samplings of one thing, and the motion between them."""
    truth, points = motion(seed), shape(11, count)
    return level(points[: count // 2]), level(moved(truth, points[count // 2 :])), truth


def found_in(source: Level, target: Level) -> tuple[LearnedMatches, Matches]:
    found = match_nodes(Bundle.load().network, source, target)
    return found, match_inside(found, source, target, SETTINGS, ProposeSettings())


def motions_of(source: Level, target: Level) -> tuple[RigidTransform, torch.Tensor]:
    tolerance = SETTINGS.tolerance * max(source.spacing, target.spacing)
    matches = found_in(source, target)[1]
    return patch_motions(matches, source, target, SETTINGS, AGREE, tolerance=tolerance)


def test_every_match_lies_within_its_pair_of_patches() -> None:
    source, target, _ = halves()
    found, matches = found_in(source, target)
    assert matches.source.shape == matches.target.shape == (SETTINGS.pairs, SETTINGS.matches)
    assert (matches.scores.diff(dim=1) <= 0).all()
    rows = torch.argsort(found.clearly.flatten(), descending=True, stable=True)[: SETTINGS.pairs]
    for cloud, chosen, index in (
        (source, matches.source, rows // found.clearly.shape[1]),
        (target, matches.target, rows % found.clearly.shape[1]),
    ):
        nodes = cloud.points[nodes_in(cloud, 128)[0].numpy()]
        patches = cKDTree(cloud.points).query(nodes, SETTINGS.members)[1]
        assert all(set(of.tolist()) <= set(patches[node]) for of, node in zip(chosen, index.tolist(), strict=True))


def test_the_clearest_pairs_are_best_both_ways() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(3, count, 6)) for count in (5, 7))
    a, b = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (a, b))
    logits = 20.0 * a @ b.swapaxes(1, 2)
    expected = softmax(logits, axis=1) * softmax(logits, axis=2)
    np.testing.assert_allclose(mutual(torch.from_numpy(a), torch.from_numpy(b), sharpness=20.0), expected, rtol=1e-10)


def test_the_motion_that_most_agree_with_is_the_true_one() -> None:
    for seed in range(3):
        source, target, truth = halves(seed=seed)
        motions, agreement = motions_of(source, target)
        best = motions.rotation[agreement.argmax()].double()
        assert float(rotation_angle(best.mT @ truth.rotation)) < 0.1


def test_exact_matches_of_one_patch_give_that_motion() -> None:
    """All others are chance."""
    source, _, truth = halves()
    target = level(moved(truth, source.points))
    generator = torch.Generator().manual_seed(0)
    nodes, around = nodes_in(source, 40)
    inside = torch.cat([nodes[:, None], around[:, :11]], dim=1)
    others = torch.randint(len(target), inside.shape, generator=generator)
    others[17] = inside[17]
    tolerance = SETTINGS.tolerance * source.spacing
    matches = Matches(inside, others, torch.ones(inside.shape))
    motions, agreement = patch_motions(matches, source, target, SETTINGS, AGREE, tolerance=tolerance)
    best = int(agreement.argmax())
    assert float(rotation_angle(motions.rotation[best].double().mT @ truth.rotation)) < 0.06  # chance pulls a little
    assert float(agreement[best]) > 11


def test_agreement_is_that_of_the_formula() -> None:
    source, target, _ = halves()
    motions, _ = motions_of(source, target)
    motions, tolerance = motions[:5], 0.1
    rows = torch.arange(20)
    a, b = source.means[rows].numpy(), target.means[rows].numpy()
    m, n = source.normals[rows].numpy(), target.normals[rows].numpy()
    rotation, translation = motions.rotation.numpy(), motions.translation.numpy()
    gap = np.linalg.norm(np.einsum("sij,mj->smi", rotation, a) + translation[:, None] - b, axis=-1)
    facing = np.maximum(np.einsum("sij,mj,mi->sm", rotation, m, n), 0)
    expected = np.exp(-((gap / (AGREE.meeting * tolerance)) ** 2)) * facing
    tensors = (torch.from_numpy(each) for each in (a, b, m, n))
    np.testing.assert_allclose(supports(motions, *tensors, tolerance=tolerance, settings=AGREE), expected, atol=1e-5)


def test_the_pose_does_not_matter() -> None:
    source, target, truth = halves()
    turned = motion(5)
    elsewhere = level(moved(turned, source.points))
    motions, agreement = motions_of(elsewhere, target)
    best = motions.rotation[agreement.argmax()].double() @ turned.rotation
    assert float(rotation_angle(best.mT @ truth.rotation)) < 0.1


@pytest.mark.parametrize("count", [4, 12, 40])
def test_few_components_are_enough(count: int) -> None:
    points = np.random.default_rng(0).normal(size=(count, 3))
    motions, agreement = motions_of(level(points), level(points[::-1].copy()))
    assert torch.isfinite(motions.rotation).all() and torch.isfinite(agreement).all() and len(agreement) > 0
