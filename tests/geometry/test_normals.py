"""Samples of the directions of a surface."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deepgmr.geometry.normals import balanced


def axes_of(counts: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """So many axes (J, 3), of either sign, along each of a few directions; and which (J,)."""
    rng = np.random.default_rng(seed)
    directions = Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix()[: len(counts)]
    which = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return directions[which] * rng.choice([-1.0, 1.0], (len(which), 1)), which


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ([5000, 500, 400], 300, [100, 100, 100]),
        ([5000, 3000, 20], 320, [150, 150, 20]),  # what there is too little of is taken whole
        ([5000, 30, 20], 350, [300, 30, 20]),
        ([700, 700, 700], 300, [100, 100, 100]),
        ([900], 90, [90]),
    ],
)
def test_of_each_direction_there_is_as_many(counts: list[int], most: int, expected: list[int]) -> None:
    axes, which = axes_of(counts)
    chosen = balanced(axes, most)
    assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < len(axes)
    np.testing.assert_allclose(np.bincount(which[chosen], minlength=len(counts)), expected, atol=2)


def test_the_sign_of_an_axis_does_not_count() -> None:
    axes = np.random.default_rng(0).normal(size=(2000, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (2000, 1))
    np.testing.assert_array_equal(balanced(axes, 200), balanced(signs * axes, 200))


def test_of_as_many_as_there_are_all_are_taken() -> None:
    axes, _ = axes_of([300, 40, 5])
    for most in (345, 346, 1000):
        np.testing.assert_array_equal(balanced(axes, most), np.arange(345))


def test_what_is_chosen_is_spread_over_the_rows() -> None:
    """Rows come in the order of space, so no part of a wall is preferred."""
    chosen = balanced(np.tile([[0.0, 0.0, 1.0]], (3000, 1)), 100)
    np.testing.assert_allclose(np.diff(chosen), 30, atol=1)
