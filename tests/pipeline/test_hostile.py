"""Hostile arrays end in an answer or in one named error; and what a long run of them found."""

from __future__ import annotations

import numpy as np
import pytest
from hostile import fuzz_arrays, pair, registered

import deepgmr
from deepgmr.datasets.pairs.kinds import cases


def test_hostile_arrays_end_in_an_answer_or_one_named_error(capfd: pytest.CaptureFixture[str]) -> None:
    report = fuzz_arrays(60, 7)
    assert report.findings == 0, report.text()
    assert report.files == 60 and 10 < report.refused < 60
    assert capfd.readouterr() == ("", "")


def test_clouds_whose_frames_lie_beyond_all_reach_of_one_another() -> None:
    """As they came they were 1e149 apart: small_gicp's answer for none at all was taken for an index."""
    source = np.array([[-1e149, -1, 0], [-1e149, -1, -1], [-1e149, 0, 0]])
    registered(deepgmr.Registrar.load(), source, np.array([[0.0, 0, 0], [-1, 0, -1], [-1, 2, 0]]), {})


def test_a_handful_of_points_is_registered_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    """small_gicp says on file descriptor 2 that a cloud of ten points or fewer is too small."""
    points = np.random.default_rng(0).normal(size=(200, 3))
    for few, many in ((points[:8], points), (points, points[:4]), (points[:4], points[:5])):
        registered(deepgmr.Registrar.load(), few, many, {})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [448, 718, 1897, 6872, 9084])
def test_free_turns_far_from_the_origin_leave_no_variance_below_zero(number: int) -> None:
    """Their variances times the squared way to the origin rounded away what the shifts hold."""
    source, target, options = pair(np.random.default_rng([13, number]))
    registered(deepgmr.Registrar.load(), source, target, options)


def test_points_beside_which_the_other_cloud_vanishes_are_named() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(size=(200, 3))
    source[::6] += 1e20 * rng.normal(size=source[::6].shape)
    with pytest.raises(deepgmr.errors.InvalidCloud, match="source: some of its points lie"):
        deepgmr.register(source, rng.normal(size=(300, 3)))


def test_the_same_points_at_another_scale_leave_disks_as_round_as_balls() -> None:
    """No direction of a normal held anything then, and the covariance overflowed."""
    for case in list(cases(16, 777, kinds=("clean",)))[12:]:
        registered(deepgmr.Registrar.load(), 1.05 * case.source.double().numpy(), case.target, {})
