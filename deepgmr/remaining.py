"""Time left: from what is done of a job, said as a person would, and lines that grow rarer the longer it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST = 10.0  # seconds before the first line, and the least between two
LONGEST = 60.0  # seconds between two lines of a long job


def spoken(seconds: float) -> str:
    """A duration in hours, minutes and seconds: `2 h 05 min`, `3 min 20 s`, `41 s`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def remaining(elapsed: float, done: float) -> str:
    """What is left of a job (`about 3 min 20 s left`), or nothing where it is too early to tell."""
    if elapsed < 1.0 or not 0.02 <= done < 1.0:
        return ""
    return f"about {spoken(elapsed * (1 - done) / done)} left"


class Lines:
    """Called with (stage, share done); writes a line after `first` seconds, then one every so often.

    The pause between two lines is a tenth of the time that has passed, at least 10 and at most 60 seconds.
    """

    def __init__(
        self, write: Callable[[str], None], *, first: float = FIRST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._start = clock()
        self._due = self._start + first

    def __call__(self, stage: str, done: float) -> None:
        now = self._clock()
        if now < self._due:
            return
        elapsed = now - self._start
        self._due = now + min(LONGEST, max(FIRST, elapsed / 10))
        left = remaining(elapsed, done)
        self._write(f"{stage}: {100 * done:.0f} %, {spoken(elapsed)} so far{', ' if left else ''}{left}")
