"""Metrics against NumPy and SciPy written out by hand."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import mannwhitneyu

from deepgmr import metrics
from deepgmr.errors import InvalidInput
from deepgmr.geometry.transform import RigidTransform, so3_exp


@pytest.fixture
def motions(generator: torch.Generator) -> tuple[RigidTransform, RigidTransform]:
    def draw() -> RigidTransform:
        return RigidTransform.random((3, 4), generator=generator, max_translation=2.0, dtype=torch.float64)

    return draw(), draw()


def test_rotation_error_is_the_angle_between(motions: tuple[RigidTransform, RigidTransform]) -> None:
    a, b = motions
    found = metrics.rotation_error(a, b)
    assert found.shape == (3, 4)
    for i in np.ndindex(3, 4):
        expected = oracles.angle_between(a.rotation[i].numpy(), b.rotation[i].numpy())
        assert found[i].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("angle", [1e-9, 1e-5, 0.1, math.pi - 1e-6, math.pi])
def test_rotation_error_keeps_its_digits_near_zero_and_pi(angle: float) -> None:
    turn = RigidTransform(so3_exp(torch.tensor([0.0, angle, 0.0], dtype=torch.float64)), torch.zeros(3).double())
    still = RigidTransform.identity(dtype=torch.float64)
    assert metrics.rotation_error(turn, still).item() == pytest.approx(angle, rel=1e-6)


def test_distances_match_a_loop(motions: tuple[RigidTransform, RigidTransform], generator: torch.Generator) -> None:
    a, b = motions
    points = torch.randn(3, 4, 50, 3, generator=generator, dtype=torch.float64)
    mean, nearest = metrics.mean_point_distance(points, a, b), metrics.symmetric_distance(points, a, b)
    for i in np.ndindex(3, 4):
        cloud, one, two = points[i].numpy(), a.matrix[i].numpy(), b.matrix[i].numpy()
        moved, truth = (cloud @ m[:3, :3].T + m[:3, 3] for m in (one, two))
        assert mean[i].item() == pytest.approx(np.linalg.norm(moved - truth, axis=1).mean())
        assert nearest[i].item() == pytest.approx(cKDTree(truth).query(moved)[0].mean())
        assert metrics.translation_error(a, b)[i].item() == pytest.approx(np.linalg.norm(one[:3, 3] - two[:3, 3]))


def test_symmetric_distance_forgives_a_symmetry_and_nothing_else() -> None:
    cube = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=torch.float64)
    still = RigidTransform.identity(dtype=torch.float64)
    for degrees, right in ((90.0, True), (45.0, False)):
        angle = torch.tensor([0.0, 0.0, math.radians(degrees)], dtype=torch.float64)
        turn = RigidTransform(so3_exp(angle), torch.zeros(3).double())
        assert (metrics.symmetric_distance(cube, turn, still).item() < 1e-9) is right
        assert metrics.mean_point_distance(cube, turn, still).item() > 0.5


def test_displacement_does_not_depend_on_the_origin(generator: torch.Generator) -> None:
    a, b = (RigidTransform.random(generator=generator, max_translation=1.0, dtype=torch.float64) for _ in range(2))
    point = torch.randn(3, generator=generator, dtype=torch.float64)
    far = RigidTransform(torch.eye(3).double(), torch.tensor([1e3, -2e3, 5e2]).double())
    moved = metrics.displacement(far.apply(point[None])[0], a @ far.inverse(), b @ far.inverse())
    assert moved.item() == pytest.approx(metrics.displacement(point, a, b).item(), abs=1e-8)


def test_overlap_counts_points_within_the_radius() -> None:
    source = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]])
    target = torch.tensor([[0.05, 0, 0], [1.2, 0, 0], [2, 0, 0]])
    still = RigidTransform.identity()
    assert metrics.overlap(source, target, still, radius=0.1).item() == 0.5
    batch = metrics.overlap(source.expand(2, 4, 3), target.expand(2, 3, 3), still, radius=torch.tensor([0.1, 0.3]))
    assert batch.tolist() == [0.5, 0.75]


def test_recall_is_strict_and_counts_missing_answers_as_misses() -> None:
    assert metrics.recall(torch.tensor([0.1, 0.2, float("nan"), 0.0]), 0.2).item() == 0.5


def test_roc_auc_is_mann_whitney(generator: torch.Generator) -> None:
    confidence = (torch.rand(300, generator=generator) * 20).round() / 20  # many ties
    success = torch.rand(300, generator=generator) < confidence
    right, wrong = confidence[success].numpy(), confidence[~success].numpy()
    expected = mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    assert metrics.roc_auc(confidence, success).item() == pytest.approx(expected)


def test_roc_auc_of_one_class_is_not_a_number() -> None:
    assert metrics.roc_auc(torch.tensor([0.1, 0.9]), torch.tensor([True, True])).isnan()


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.05, 0.05, 0.95, 0.95, 1.0])
    success = torch.tensor([False, True, True, True, True])
    # Lowest bin: stated .05, true .5, two of five; highest: stated .9667, true 1, three of five.
    assert metrics.calibration_error(confidence, success).item() == pytest.approx(0.4 * 0.45 + 0.6 * (0.1 / 3))


def test_a_calibrated_confidence_has_a_small_error_and_a_boast_a_large_one(generator: torch.Generator) -> None:
    confidence = torch.rand(20_000, generator=generator)
    success = torch.rand(20_000, generator=generator) < confidence
    assert metrics.calibration_error(confidence, success).item() < 0.02
    assert metrics.calibration_error(confidence.sqrt(), success).item() > 0.1


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.mean_point_distance(torch.zeros(0, 3), RigidTransform.identity(), RigidTransform.identity()),
        lambda: metrics.symmetric_distance(torch.zeros(5, 2), RigidTransform.identity(), RigidTransform.identity()),
        lambda: metrics.roc_auc(torch.zeros(3), torch.zeros(2, dtype=torch.bool)),
        lambda: metrics.roc_auc(torch.zeros(3), torch.zeros(3)),
        lambda: metrics.calibration_error(torch.tensor([1.5]), torch.tensor([True])),
    ],
)
def test_bad_input_is_named(call) -> None:
    with pytest.raises(InvalidInput):
        call()


def test_the_information_distance_is_that_of_what_corresponds(
    motions: tuple[RigidTransform, RigidTransform], generator: torch.Generator
) -> None:
    truth = motions[0]
    twist = 0.02 * torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    estimate = truth @ RigidTransform.exp(twist)
    points = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    rows = np.array([np.hstack([np.eye(3), -2 * np.cross(np.eye(3), point)]) for point in points.numpy()])
    information = torch.from_numpy(np.einsum("nij,nik->jk", rows, rows)).expand(3, 4, 6, 6)
    found = metrics.information_distance(estimate, truth, information)
    apart = torch.linalg.vector_norm(estimate.apply(points) - truth.apply(points), dim=-1)
    assert torch.allclose(found, apart.square().mean(-1).sqrt(), rtol=0.02)
    assert float(metrics.information_distance(truth, truth, information).max()) < 1e-6
    half = RigidTransform(so3_exp(torch.tensor([0.0, 0.0, math.pi], dtype=torch.float64)), torch.zeros(3).double())
    flat = torch.eye(6, dtype=torch.float64)
    still = RigidTransform.identity(dtype=torch.float64)
    assert float(metrics.information_distance(half, still, flat)) == pytest.approx(1.0)  # the whole quaternion


def test_wrong_and_sure_counts_wrong_answers_above_the_bar() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.9, 0.2])
    success = torch.tensor([True, False, False, False])
    assert float(metrics.wrong_and_sure(confidence, success)) == 0.25
    assert float(metrics.wrong_and_sure(confidence, success, sure=0.5)) == 0.5
