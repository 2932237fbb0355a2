"""The pool of scenes: made once, whole again after an interruption, and what `scene_pairs` makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from deepgmr.datasets.pairs import pool
from deepgmr.datasets.pairs.kinds import PLACES
from deepgmr.datasets.pairs.pool import POOLED, fill_pool
from deepgmr.datasets.worlds.planned import Planned
from deepgmr.errors import InvalidConfig


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CHUNK", 3)


def test_a_pool_is_filled_once_and_mended_where_it_is_incomplete(small: None, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = fill_pool(tmp_path, "tabletop", 5, 300, progress=lambda done, all: seen.append((done, all)))
    assert len(first) == 6 and seen == [(1, 2), (2, 2)]
    pairs = first.pairs(torch.tensor([4, 0]))
    assert pairs.source.shape == (2, 300, 3)
    victim = sorted(tmp_path.glob("*.overlap.npy"))[0]
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    victim.unlink()
    again = fill_pool(tmp_path, "tabletop", 5, 300).pairs(torch.tensor([4, 0]))
    assert torch.equal(pairs.source, again.source)
    assert torch.equal(pairs.target_from_source.matrix, again.target_from_source.matrix)
    second = [file for file in stamps if "0001" in file.name]
    assert all(file.stat().st_mtime_ns == stamps[file] for file in second) and second


def test_the_motions_of_a_pool_lay_the_scans_on_one_another(small: None, tmp_path: Path) -> None:
    pairs = fill_pool(tmp_path, "tabletop", 3, 1500).pairs(torch.arange(3))
    for i in range(3):
        moved = pairs.target_from_source[i].apply(pairs.source[i]).double().numpy()
        tree = cKDTree(pairs.target[i].double().numpy())
        spacing = np.median(tree.query(tree.data, 2)[0][:, 1])
        near = (tree.query(moved)[0] < 3 * spacing).mean()
        assert near > 0.6 * float(pairs.overlap[i])


@pytest.mark.parametrize("kind", [kind for kind in POOLED if kind in PLACES])
def test_pairs_of_places_are_as_planned_but_about_their_centres(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    plans = []

    class Kept:
        def plan(self, rng: np.random.Generator) -> tuple[Planned, int]:
            plans.append(PLACES[kind].plan(rng))
            return plans[-1]

    monkeypatch.setattr(pool, "PLACES", {kind: Kept()})
    pairs = fill_pool(tmp_path, kind, 3, 400).pairs(torch.arange(3))
    for i, (plan, _) in enumerate(plans):
        source, target = plan.clouds(400)
        assert np.abs(pairs.source[i].numpy() - (source - source.mean(0))).max() < 1e-4
        moved = source @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3] - target.mean(0)
        assert np.abs(pairs.target_from_source[i].apply(pairs.source[i]).numpy() - moved).max() < 1e-3
        assert np.abs(pairs.target[i].numpy() - (target - target.mean(0))).max() < 1e-4


def test_kinds_and_seeds_differ(small: None, tmp_path: Path) -> None:
    one, two = (fill_pool(tmp_path, "tabletop", 1, 200, seed=seed).pairs(torch.tensor([0])) for seed in (0, 1))
    assert not torch.equal(one.source, two.source)
    with pytest.raises(InvalidConfig, match="at least 1"):
        fill_pool(tmp_path, "tabletop", 0, 200)
