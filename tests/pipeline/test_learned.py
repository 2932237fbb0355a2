"""Matches from the overlap network, and the looks that `register` takes one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deepgmr.pipeline.surface import Surface, surfaces

from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.geometry.transform import RigidTransform, rotation_angle
from deepgmr.io import checkpoint
from deepgmr.networks import OverlapNetwork
from deepgmr.pipeline import registrar as registration
from deepgmr.pipeline import search
from deepgmr.pipeline.registrar import EFFORTS, register


@pytest.fixture(scope="module")
def network() -> OverlapNetwork:
    loaded = checkpoint.load("overlap")
    assert isinstance(loaded, OverlapNetwork)
    return loaded


def airplane(count: int = 900) -> np.ndarray:
    points, _ = sample_shapes(1, count, generator=torch.Generator().manual_seed(11), families=["airplane"])
    return points[0].double().numpy()


def test_other_samples_of_a_surface_are_matched_in_place(network: OverlapNetwork) -> None:
    points = airplane()
    truth = RigidTransform.random(generator=torch.Generator().manual_seed(1), max_translation=1.0, dtype=torch.float64)
    source, target = Surface.of(points[:450]), Surface.of(truth.apply(torch.from_numpy(points[450:])).numpy())
    found = search.match_nodes(network, source, target)
    matches = found.matches
    assert len(matches.source) == network.config.nodes and (matches.scores.diff() <= 0).all()
    assert len(matches.source.unique()) == len(matches.source)
    moved = truth.to(torch.float32).apply(source.points[matches.source])
    right = (moved - target.points[matches.target]).norm(dim=-1) < 1.5 * found.gap
    assert right.float().mean() > 0.3  # chance is about .05, and half of the airplane mirrors the other
    assert min(found.source_overlap, found.target_overlap) > 0.8
    assert 1.0 < found.gap / source.spacing < 4.0


def test_a_part_is_expected_in_the_whole_but_not_the_whole_in_the_part(network: OverlapNetwork) -> None:
    points = airplane(1600)
    half = points[:800][points[:800, 0] > np.median(points[:800, 0])]
    found = search.match_nodes(network, Surface.of(half), Surface.of(points[800:]))
    assert found.source_overlap > found.target_overlap + 0.1


def test_matches_do_not_depend_on_the_pose(network: OverlapNetwork) -> None:
    points = airplane()
    source, target = Surface.of(points[:450]), Surface.of(points[450:])
    turned = RigidTransform.random(generator=torch.Generator().manual_seed(2), max_translation=1.0, dtype=torch.float64)
    elsewhere = Surface.of(turned.apply(torch.from_numpy(points[:450])).numpy())
    first, second = (search.match_nodes(network, surface, target) for surface in (source, elsewhere))
    pairs = [set(zip(f.matches.source.tolist(), f.matches.target.tolist(), strict=True)) for f in (first, second)]
    assert len(pairs[0] & pairs[1]) > 0.7 * len(pairs[0])  # the side of some normals is a tie


def test_tiny_clouds_are_matched_too(network: OverlapNetwork) -> None:
    points = np.random.default_rng(0).normal(size=(6, 3))
    found = search.match_nodes(network, Surface.of(points), Surface.of(points[:4]))
    assert len(found.matches.source) == 6 and torch.isfinite(found.matches.scores).all()


def test_every_look_alone_finds_a_plain_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    points = airplane(8000)
    truth = RigidTransform.random(generator=torch.Generator().manual_seed(3), max_translation=1.0, dtype=torch.float64)
    target = truth.apply(torch.from_numpy(points[4000:])).numpy()
    asked: list[int | None] = []

    def recorded(x: np.ndarray, y: np.ndarray, *, components: int | None = None) -> tuple[Surface, Surface]:
        asked.append(components)
        return surfaces(x, y, components=components)

    monkeypatch.setattr(registration, "surfaces", recorded)
    for effort in EFFORTS:
        monkeypatch.setattr(registration, "EFFORTS", (effort,))
        answer = register(points[:4000], target)
        error = rotation_angle(torch.from_numpy(answer.target_from_source[:3, :3]).mT @ truth.rotation)
        assert float(error) < 0.05, effort
    assert asked == [None, None, None, 5000]  # the finest look saw finer surfaces


def test_a_look_for_detail_is_left_out_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    finest = EFFORTS[-1]
    assert finest.detail
    monkeypatch.setattr(registration, "EFFORTS", (EFFORTS[0], finest))
    monkeypatch.setattr(registration, "_clear", lambda evidence: False)
    looks: list[object] = []
    propose = registration._propose
    monkeypatch.setattr(registration, "_propose", lambda *a: (looks.append(a[-1]), propose(*a))[1])
    points = airplane(500)
    register(points, points)
    assert looks == [EFFORTS[0]]
