"""Matches from the overlap network, and the looks that `register` takes one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems_pipeline import level

from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.geometry.transform import RigidTransform, rotation_angle
from deepgmr.networks import OverlapNetwork
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.propose.learned import match_nodes
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.trace import Trace
from deepgmr.plain import to_plain


@pytest.fixture(scope="module")
def network() -> OverlapNetwork:
    return Bundle.load().network


def airplane(count: int = 900) -> np.ndarray:
    points, _ = sample_shapes(1, count, generator=torch.Generator().manual_seed(11), families=["airplane"])
    return points[0].double().numpy()


def test_other_samples_of_a_surface_are_matched_in_place(network: OverlapNetwork) -> None:
    points = airplane()
    truth = RigidTransform.random(generator=torch.Generator().manual_seed(1), max_translation=1.0, dtype=torch.float64)
    source, target = level(points[:450]), level(truth.apply(torch.from_numpy(points[450:])).numpy())
    found = match_nodes(network, source, target)
    matches = found.matches
    assert len(matches.source) == network.config.nodes and (matches.scores.diff() <= 0).all()
    assert len(matches.source.unique()) == len(matches.source)
    moved = truth.to(torch.float32).apply(source.means[matches.source])
    right = (moved - target.means[matches.target]).norm(dim=-1) < 1.5 * found.gap
    assert right.float().mean() > 0.3  # chance is about .05, and half of the airplane mirrors the other
    assert 1.0 < found.gap / source.spacing < 4.0


def test_matches_do_not_depend_on_the_pose(network: OverlapNetwork) -> None:
    points = airplane()
    source, target = level(points[:450]), level(points[450:])
    turned = RigidTransform.random(generator=torch.Generator().manual_seed(2), max_translation=1.0, dtype=torch.float64)
    elsewhere = level(turned.apply(torch.from_numpy(points[:450])).numpy())
    first, second = (match_nodes(network, cloud, target) for cloud in (source, elsewhere))
    pairs = [set(zip(f.matches.source.tolist(), f.matches.target.tolist(), strict=True)) for f in (first, second)]
    assert len(pairs[0] & pairs[1]) > 0.7 * len(pairs[0])  # the side of some normals is a tie


def test_tiny_clouds_are_matched_too(network: OverlapNetwork) -> None:
    points = np.random.default_rng(0).normal(size=(6, 3))
    found = match_nodes(network, level(points), level(points[:4]))
    assert len(found.matches.source) == 6 and torch.isfinite(found.matches.scores).all()


@pytest.mark.parametrize("looks", ["looks", "detailed"])
@pytest.mark.parametrize("number", range(3))
def test_every_look_alone_finds_a_plain_answer(number: int, looks: str) -> None:
    points = airplane(8000)
    truth = RigidTransform.random(generator=torch.Generator().manual_seed(3), max_translation=1.0, dtype=torch.float64)
    target = truth.apply(torch.from_numpy(points[4000:])).numpy()
    registrar = Registrar.load()
    look = getattr(registrar.settings.search, looks)[number]
    trace, alone = Trace(), {"search.looks": [to_plain(look)], "search.detailed": [to_plain(look)]}
    answer = registrar.replace(**alone).register(points[:4000], target, trace=trace)
    error = rotation_angle(torch.from_numpy(answer.target_from_source[:3, :3]).mT @ truth.rotation)
    assert float(error) < 0.05, look
    assert trace.search is not None and [taken.settings for taken in trace.search.looks] == [look]


def test_a_look_for_detail_is_left_out_where_there_is_none() -> None:
    points = airplane(500)
    thorough = Registrar.load(preset="thorough")
    assert thorough.settings.search.looks[-1].detail
    assert thorough.register(points, points).stats.looks == 2
    many = airplane(8000)
    assert thorough.register(many[:4000], many[4000:]).stats.looks == 3


def test_what_the_network_says_of_motions_is_likeliest_at_the_truth_and_is_what_loops_give(
    network: OverlapNetwork,
) -> None:
    points = airplane()
    truth = RigidTransform.random(generator=torch.Generator().manual_seed(1), max_translation=1.0, dtype=torch.float64)
    source, target = level(points[:450]), level(truth.apply(torch.from_numpy(points[450:])).numpy())
    found = match_nodes(network, source, target)
    others = RigidTransform.random((30,), generator=torch.Generator().manual_seed(2), max_translation=1.0)
    pool = RigidTransform(
        torch.cat([truth.rotation.float()[None], others.rotation]),
        torch.cat([truth.translation.float()[None], others.translation]),
    )
    matched = found.makes_good(pool)
    assert int(matched.argmax()) == 0
    moved = found.source_nodes.numpy() @ truth.rotation.float().numpy().T + truth.translation.float().numpy()
    square = ((moved[:, None] - found.target_nodes.numpy()[None]) ** 2).sum(-1)
    meets, sides = np.exp(-square / (2 * (0.7 * found.gap) ** 2)), []
    for axis, likely in ((1, found.forth), (0, found.back)):
        sides.append(np.log((meets * likely.numpy()).sum(axis) + 0.02).mean())
    assert float(matched[0]) == pytest.approx(np.mean(sides), rel=1e-4)
