"""Answers to look at: the sample pair, and a box that has rivals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepgmr import Registrar, Registration, Trace

ROOT = Path(__file__).resolve().parent.parent.parent


def box(count: int, seed: int) -> np.ndarray:
    """Points (count, 3) on a box of 1 x 2 x 3: four motions put it onto itself."""
    rng = np.random.default_rng(seed)
    points, side = rng.uniform(-0.5, 0.5, (count, 3)), rng.integers(0, 3, count)
    points[np.arange(count), side] = np.sign(points[np.arange(count), side]) / 2
    return points * (1.0, 2.0, 3.0)


@pytest.fixture(scope="session")
def sampled() -> Registration:
    """The sample pair."""
    source, target = (ROOT / "data" / f"sample_{role}.ply" for role in ("source", "target"))
    registrar = Registrar.load("default")
    registrar.register(source, target)  # the first call of a process pays for imports, and pictures show the time
    return registrar.register(source, target, trace=Trace())


@pytest.fixture(scope="session")
def boxes() -> Registration:
    """Two samplings of a box, far from the origin and from one another."""
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    target = box(2500, 2) @ turn.T + (500_000.0, 4_000_000.0, 100.0)
    return Registrar.load("default").register(box(3000, 1), target, trace=Trace())
