"""The confidence and the status: what they rise and fall with, and whether they keep their word on fresh pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import cuboid

from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.pipeline import judge as room
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.judge import Evidence, Status
from deepgmr.pipeline.registrar import register
from deepgmr.pipeline.settings import JudgeSettings

CONFIDENCE, SETTINGS = Bundle.load().confidence, JudgeSettings()


def confidence(evidence: Evidence) -> float:
    return CONFIDENCE.probability(evidence, SETTINGS)


def judge(evidence: Evidence) -> tuple[Status, float]:
    return room.judge(evidence, CONFIDENCE, SETTINGS)


GOOD = Evidence(
    score=0.4,
    standing=6.0,
    share=0.999,
    margin=6.0,
    source_overlap=0.9,
    target_overlap=0.8,
    misfit=-1.6,
    looseness=-1.5,
    relief=-0.6,
    contradiction=0.05,
    matched=-0.8,
    accidents=-200.0,
    observability=0.1,
)
POOR = replace(
    GOOD,
    standing=-4.0,
    share=0.9,
    margin=3.0,
    source_overlap=0.3,
    target_overlap=0.2,
    misfit=-0.3,
    looseness=-0.2,
    contradiction=0.2,
)


# -- what it rises and falls with ------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [GOOD, POOR])
@pytest.mark.parametrize(
    ("name", "sign"),
    [("target_overlap", 1), ("standing", 1), ("misfit", -1), ("looseness", -1), ("contradiction", -1)],
)
def test_confidence_follows_the_evidence(start: Evidence, name: str, sign: int) -> None:
    values = np.linspace(0.02, 0.8, 9) if name in ("target_overlap", "contradiction") else np.linspace(-3.5, 0.5, 9)
    found = [confidence(replace(start, **{name: float(value)})) for value in values]
    said = CONFIDENCE.weights.get(name, 1.0) != 0  # the fit may find that it says nothing more
    assert (sign * np.diff(found) >= 0).all() and (found[0] != found[-1]) == said
    assert all(0 < value < 1 for value in found)


def test_symmetry_costs_little_confidence_and_a_rival_elsewhere_much() -> None:
    assert confidence(GOOD) > 0.95
    assert confidence(GOOD) - 0.05 < confidence(replace(GOOD, margin=0.0)) < confidence(GOOD)
    assert 1 - confidence(replace(GOOD, standing=-4.0)) > 5 * (1 - confidence(GOOD))
    assert confidence(replace(GOOD, standing=0.0)) < confidence(GOOD)
    assert confidence(replace(GOOD, share=0.5)) == 0.5
    assert confidence(replace(GOOD, accidents=0.0)) == 0.5 and confidence(replace(GOOD, accidents=5.0)) < 0.01
    assert confidence(replace(GOOD, accidents=-40.0)) == confidence(GOOD)
    assert confidence(POOR) < 0.2


@pytest.mark.parametrize(
    "evidence",
    [
        replace(GOOD, standing=1e9, share=1.0, margin=float("inf")),
        replace(GOOD, score=0.0, source_overlap=0.0, target_overlap=0.0, observability=0.0, standing=-1e9),
        replace(GOOD, misfit=-50.0, looseness=-50.0),
    ],
)
def test_confidence_is_a_probability_at_the_ends(evidence: Evidence) -> None:
    status, probability = judge(evidence)
    assert 0 < probability < 1 and isinstance(status, Status)


@pytest.mark.parametrize(
    ("start", "change", "status"),
    [
        (GOOD, {}, Status.OK),
        (GOOD, {"margin": 0.2}, Status.AMBIGUOUS),
        (GOOD, {"margin": 0.2, "standing": 0.0, "share": 0.45}, Status.AMBIGUOUS),
        (GOOD, {"observability": 1e-5}, Status.DEGENERATE),
        (GOOD, {"observability": 0.01}, Status.OK),
        (GOOD, {"observability": 0.01, "margin": 0.2}, Status.DEGENERATE),
        (POOR, {"source_overlap": 0.05}, Status.LOW_OVERLAP),
        (POOR, {}, Status.UNCERTAIN),
    ],
)
def test_status_names_what_is_wrong(start: Evidence, change: dict[str, float], status: Status) -> None:
    evidence = replace(start, **change)
    found, probability = judge(evidence)
    assert found is status
    assert probability == confidence(evidence)
    assert str(found) == found.value and len(found.sentence) > 20


# -- on clouds -------------------------------------------------------------------------------------------------


def turned(seed: int, points: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return points @ (rotation * np.sign(np.linalg.det(rotation))).T + rng.normal(size=3)


@pytest.mark.parametrize("seed", range(4))
def test_a_symmetric_shape_is_surely_right_and_ambiguous(seed: int) -> None:
    answer = register(cuboid(800, seed), turned(seed, cuboid(800, 100 + seed)))
    assert answer.status is Status.AMBIGUOUS
    assert answer.confidence > 0.9
    assert answer.evidence.standing > 4 and answer.evidence.share > 0.99
    assert len(answer.alternatives) >= 3


def test_a_thing_that_stands_there_twice_is_found_with_half_the_confidence() -> None:
    doubted = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        shapes, _ = sample_shapes(1, 700, generator=torch.Generator().manual_seed(seed), families=["airplane"])
        points = shapes[0].double().numpy()
        target = np.concatenate([points, turned(seed, points) + np.array([4.0, 0.0, 0.0])])
        answer = register(points, target + 0.01 * rng.normal(size=target.shape))
        assert not answer.trusted
        doubted.append(answer.confidence)
    assert max(doubted) < 0.8 and 0.35 < np.mean(doubted) < 0.75


def scattered(count: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.normal(size=(count, 3))


def procedural_shape(rng: np.random.Generator) -> np.ndarray:
    shapes, _ = sample_shapes(1, 700, generator=torch.Generator().manual_seed(int(rng.integers(1000))))
    return shapes[0].double().numpy()


def sheet(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(300, 3)) * [1, 1, 0]


def rod(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, (300, 1)) * [[1.0, 2.0, -0.5]] + 0.01 * rng.normal(size=(300, 3))


def box(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, (300, 3))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *((scattered(count), procedural_shape) for count in (3, 4, 5, 8, 12, 20, 40)),
        *((scattered(count), scattered(count)) for count in (3, 5, 12, 40)),
        (procedural_shape, scattered(8)),
        *((one, other) for one in (sheet, rod, box) for other in (scattered(500), procedural_shape)),
        (scattered(300), scattered(300)),
        (sheet, box),
        (rod, sheet),
        (procedural_shape, procedural_shape),
    ],
)
def test_clouds_that_share_nothing_are_never_sure(source: Callable, target: Callable) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        answer = register(source(rng), target(rng))
        assert answer.confidence < 0.5, seed
        assert not answer.trusted


@pytest.mark.parametrize("count", [5, 12, 40])
def test_a_few_points_that_are_the_same_ones_are_sure(count: int) -> None:
    points = np.random.default_rng(count).normal(size=(count, 3))
    assert register(points, turned(1, points)).confidence > 0.99
