"""How far a registration is, and whether it may go on: looked at between its steps and within its long loops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from deepgmr.errors import Cancelled, InvalidConfig

Progress = Callable[[str, float], Any]


class TimeUp(Exception):
    """The time given is over: the search stops, and what it has found is the answer. Never leaves `register`."""


class Pace:
    """Within, `check` says to stop: by `TimeUp` after so many seconds, by `Cancelled` once the caller wants no more."""

    def __init__(self, timeout: float | None = None, progress: Progress | None = None) -> None:
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if timeout is not None and not (number and timeout > 0):
            raise InvalidConfig(f"timeout must be a positive number of seconds, got {timeout!r}")
        self.timeout = timeout
        self._end = math.inf if timeout is None else time.monotonic() + timeout
        self._progress = progress
        self._at = "", 0.0

    def __enter__(self) -> Pace:
        self._before = _pace.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        """What remains to be done is done whatever the time."""
        _pace.reset(self._before)
        self._end = math.inf

    def report(self, stage: str, done: float) -> None:
        """Tell the caller that a stage has begun, and the fraction of the whole that is done; the time does not matter."""
        self._at = stage, done
        if self._progress is not None and self._progress(stage, done) is False:
            raise Cancelled(f"stopped by `progress` while {stage}")

    def check(self) -> None:
        """Tell the caller again; raise `TimeUp` if the time is over."""
        self.report(*self._at)
        if time.monotonic() > self._end:
            raise TimeUp


_pace: ContextVar[Pace | None] = ContextVar("pace", default=None)  # of this thread's registration


def check() -> None:
    """Raise `TimeUp` or `Cancelled` if the registration that this is part of is to stop."""
    pace = _pace.get()
    if pace is not None:
        pace.check()
