"""An initial motion: taken up where it fits, searched beyond where it does not, and never relied on for nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import deepgmr
from deepgmr.datasets.pairs.kinds import Case, cases
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import so3_exp
from deepgmr.pipeline.propose.given import _spread
from deepgmr.pipeline.scan import Pair, Scan


@pytest.fixture(scope="module", params=["crop70", "forest"])
def case(request: pytest.FixtureRequest) -> Case:
    return next(cases(1, 3, kinds=[request.param]))


@pytest.fixture(scope="module")
def searched(case: Case) -> deepgmr.Registration:
    answer = deepgmr.register(case.source, case.target)
    assert case.judge(answer.target_from_source)
    return answer


def nudged(motion: np.ndarray, degrees: float, distance: float, about: np.ndarray) -> np.ndarray:
    """The motion, turned a little about where it puts a point, and shifted."""
    change = np.eye(4)
    change[:3, :3] = so3_exp(torch.tensor([0.0, np.radians(degrees), 0.0], dtype=torch.float64)).numpy()
    middle = motion[:3, :3] @ about + motion[:3, 3]
    change[:3, 3] = middle - change[:3, :3] @ middle + [distance, 0.0, 0.0]
    return change @ motion


def test_one_that_fits_is_refined_and_nothing_is_searched_for(case: Case, searched: deepgmr.Registration) -> None:
    initial = nudged(searched.target_from_source, 1.0, 0.01, case.source.mean(0).double().numpy())
    answer = deepgmr.register(case.source, case.target, initial=initial)
    assert answer.stats.looks == 0 and any("initial motion fits" in note for note in answer.notes)
    assert case.judge(answer.target_from_source)
    points = case.source.double().numpy()
    put = [points @ m[:3, :3].T + m[:3, 3] for m in (answer.target_from_source, searched.target_from_source)]
    assert np.abs(put[0] - put[1]).max() < 0.01 * np.ptp(points, axis=0).max()
    assert not any(step in answer.stats.milliseconds for step in ("network", "histograms", "correlation"))


def test_one_that_does_not_fit_costs_nothing_but_time(case: Case, searched: deepgmr.Registration) -> None:
    initial = nudged(searched.target_from_source, 150.0, 0.3, case.source.mean(0).double().numpy())
    answer = deepgmr.register(case.source, case.target, initial=initial)
    assert answer.stats.looks > 0 and any("does not fit" in note for note in answer.notes)
    assert case.judge(answer.target_from_source)


def test_unrelated_clouds_are_not_made_sure_of_by_an_initial_motion() -> None:
    for case in cases(6, 5, kinds=["unrelated"]):
        answer = deepgmr.register(case.source, case.target, initial=np.eye(4))
        assert answer.confidence < 0.9


def test_the_largest_rotation_holds_for_what_an_initial_motion_becomes(
    case: Case, searched: deepgmr.Registration
) -> None:
    initial = nudged(searched.target_from_source, 4.0, 0.0, case.source.mean(0).double().numpy())
    answer = deepgmr.register(case.source, case.target, initial=initial, max_rotation_degrees=1.0)
    turn = answer.target_from_source[:3, :3] @ initial[:3, :3].T
    assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) <= 1.0 + 1e-6


def test_the_spread_of_a_covariance_is_how_far_it_moves_points() -> None:
    """Against draws: points spread alike in all directions, far from the origin."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4000, 3)) * 2.0 + [300.0, -40.0, 7.0]
    pair = Pair(Scan.of(points), Scan.of(points))
    half = 1e-3 * rng.normal(size=(6, 6))
    change = np.eye(6)  # a perturbation about the middle of the cloud, told about the origin
    x, y, z = pair.target.origin
    change[3:, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
    covariance = change @ half @ half.T @ change.T
    drawn = rng.multivariate_normal(np.zeros(6), covariance, size=2000)
    moved = [np.cross(w, points[::40]) + v for w, v in zip(drawn[:, :3], drawn[:, 3:], strict=True)]
    expected = np.sqrt(np.mean([(m**2).sum(1).mean() for m in moved])) / pair.scale
    assert _spread(covariance, pair) == pytest.approx(expected, rel=0.05)


def test_a_covariance_that_is_none_is_refused(case: Case) -> None:
    for wrong in (np.eye(3), -np.eye(6), np.full((6, 6), np.nan)):
        with pytest.raises(InvalidConfig, match="initial_covariance must be"):
            deepgmr.register(case.source, case.target, initial=np.eye(4), initial_covariance=wrong)
    with pytest.raises(InvalidConfig, match="give both"):
        deepgmr.register(case.source, case.target, initial_covariance=np.eye(6))
