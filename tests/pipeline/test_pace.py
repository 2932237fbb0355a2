"""A registration that has to stop: by the clock, by the caller, by Ctrl-C."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from problems_pipeline import motion, moved, shape

from deepgmr import Registrar, Status, register
from deepgmr.errors import Cancelled, DeepGMRError, InvalidConfig, TimedOut
from deepgmr.pipeline.pace import Pace, TimeUp, check


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth, points = motion(4), shape(2, 2000)
    return points[::2], moved(truth, points[1::2]), truth.matrix.numpy()


def calls(clouds: tuple[np.ndarray, ...], **options: Any) -> int:
    seen: list[tuple[str, float]] = []
    register(*clouds[:2], progress=lambda *at: seen.append(at), **options)
    assert [share for _, share in seen] == sorted(share for _, share in seen)
    return len(seen)


def test_without_a_clock_nothing_stops() -> None:
    check()
    with Pace(), Pace(1e9):
        check()


def test_the_inner_of_two_counts_and_the_outer_goes_on() -> None:
    with Pace(1e9):
        inner = Pace(1e-9)
        time.sleep(0.001)
        with pytest.raises(TimeUp), inner:
            check()
        check()
    inner.check()  # what remains is done whatever the time


def at_call(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the time be over from the n-th look at the clock on."""
    ticks = iter(range(10**9))
    monkeypatch.setattr("deepgmr.pipeline.pace.time.monotonic", lambda: 0.0 if next(ticks) < number else 1e6)


def test_whenever_time_is_over_there_is_an_honest_answer_or_a_named_error(clouds, monkeypatch) -> None:
    whole, ends = register(*clouds[:2]), []
    last = calls(clouds)
    for number in {1, 2, 3, 4, 6, 10, last // 2, last - 4, last + 9}:
        at_call(monkeypatch, number)
        try:
            answer = register(*clouds[:2], timeout=1.0)
        except TimedOut as error:
            assert isinstance(error, DeepGMRError) and isinstance(error, TimeoutError) and "1 s" in str(error)
            ends.append("none")
            continue
        finally:
            monkeypatch.undo()
        rotation = answer.target_from_source[:3, :3]
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9) and np.isfinite(answer.target_from_source).all()
        assert np.isfinite(answer.covariance).all() and 0 <= answer.confidence <= 1
        if answer.status is Status.TIMEOUT:
            assert not answer.trusted
            ends.append("cut")
        else:
            assert answer.target_from_source.tobytes() == whole.target_from_source.tobytes()
            ends.append("whole")
    assert {"none", "cut", "whole"} == set(ends), ends


def test_what_the_caller_knew_is_the_least_of_answers(clouds, monkeypatch) -> None:
    source, target, truth = clouds
    at_call(monkeypatch, 1)
    answer = register(source, target, initial=truth, timeout=1.0)
    assert answer.status is Status.TIMEOUT and np.allclose(answer.target_from_source, truth, atol=1e-9)
    assert answer.confidence <= 0.5 and answer.to_dict()["status"] == "timeout"


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), "1", True])
def test_a_timeout_is_a_positive_number(clouds, timeout: Any) -> None:
    with pytest.raises(InvalidConfig, match="timeout"):
        register(*clouds[:2], timeout=timeout)


def test_a_caller_that_wants_no_more_is_heard_at_any_moment(clouds) -> None:
    last = calls(clouds)
    assert last > 20
    registrar = Registrar.load()
    scan = registrar.prepare(clouds[1])
    for number in (1, 2, 5, last // 2, last):
        left = iter(range(number - 1, -1, -1))
        with pytest.raises(Cancelled, match="stopped by `progress`"):
            registrar.register(clouds[0], scan, progress=lambda *_, left=left: next(left) > 0)
    answer = registrar.register(clouds[0], scan)  # and what was begun of the scan is as good as new
    assert answer.target_from_source.tobytes() == register(*clouds[:2]).target_from_source.tobytes()


def test_whatever_the_callback_raises_comes_through(clouds) -> None:
    def interrupt(stage: str, done: float) -> None:
        if stage == "polishing":
            raise KeyboardInterrupt

    scan = Registrar.load().prepare(clouds[1])
    with pytest.raises(KeyboardInterrupt):
        register(clouds[0], scan, progress=interrupt)
    check()  # nothing is left behind that would stop what comes next
    assert register(clouds[0], scan).confidence == register(*clouds[:2]).confidence
