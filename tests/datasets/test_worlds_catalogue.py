"""What every world promises: pairs of any size, always the same, that the truth lays onto each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepgmr.datasets.worlds.catalogue import WORLDS
from deepgmr.datasets.worlds.planned import any_pose
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import is_rigid

POINTS = 3000


def moved(motion: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points.astype(float) @ motion[:3, :3].T + motion[:3, 3]


@pytest.mark.parametrize("name", WORLDS)
def test_the_truth_lays_the_source_onto_the_target(name: str) -> None:
    plan = WORLDS[name].plan(np.random.default_rng(5))
    source, target = plan.clouds(POINTS)
    assert source.dtype == target.dtype == np.float32
    assert target.shape == (POINTS, 3) and source.shape == (POINTS // 4 if name == "parts" else POINTS, 3)
    assert is_rigid(plan.target_from_source[None]).all() and plan.degrees > 0 and plan.metres > 0
    tree, laid = cKDTree(target), moved(plan.target_from_source, source)
    right = np.sort(tree.query(laid)[0])[: len(laid) // 4].mean()
    centre, wrong = laid.mean(axis=0), []
    for seed in range(5):  # other motions about the middle of the source
        turn = any_pose(np.random.default_rng(seed), 0.0)
        wrong.append(np.sort(tree.query(moved(turn, laid - centre) + centre)[0])[: len(laid) // 4].mean())
    assert right < 0.8 * np.median(wrong)


@pytest.mark.parametrize("name", WORLDS)
def test_clouds_are_always_the_same_and_of_any_size(name: str) -> None:
    plan, again, other = (WORLDS[name].plan(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(plan.target_from_source, again.target_from_source)
    assert not np.allclose(plan.target_from_source, other.target_from_source)
    first = plan.clouds(500)
    for found in (plan.clouds(500), again.clouds(500)):
        assert all(np.array_equal(a, b) for a, b in zip(first, found, strict=True))
    assert not np.array_equal(first[0][:100], first[1][:100])
    more = plan.clouds(2500)[1]
    assert len(more) == 2500
    # The larger cloud is of the same place.
    assert np.median(cKDTree(more).query(first[1])[0]) < 0.05 * np.linalg.norm(np.ptp(more, axis=0))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("halls", {"scale": 0.2}),
        ("floors", {"rooms": 1}),
        ("warehouses", {"bays": 2}),
        ("streets", {"beams": 5}),
        ("streets", {"near": 50, "far": 20}),
        ("fragments", {"low": 0.5, "high": 0.2}),
        ("fragments", {"frames": 0}),
        ("stands", {"apart": 1.5}),
        ("stands", {"alike": -0.1}),
        ("forests", {"size": 2}),
        ("caves", {"length": 2}),
        ("parts", {"parts": 1}),
        ("shots", {"apart": 0}),
        ("shots", {"apart": 200}),
        ("pieces", {"least": 0}),
        ("pieces", {"least": 1.5}),
    ],
)
def test_impossible_worlds_are_named(name: str, options: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig):
        WORLDS[name].plan(np.random.default_rng(0), **options)
