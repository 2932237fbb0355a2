"""Hostile arrays end in an answer or in one named error; and what a long run of them found."""

from __future__ import annotations

import numpy as np
import pytest
from hostile import fuzz_arrays, registered

import deepgmr


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
