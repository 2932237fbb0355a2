"""Every number that decides how many scans are put together."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from deepgmr.errors import InvalidConfig
from deepgmr.plain import from_plain, to_plain

_SHARES = ("least", "doubt", "sure", "surest", "certain", "chance", "meeting", "missed")
_MAY_BE_ZERO = ("harder", "alternatives")


@dataclass(frozen=True)
class AlignmentSettings:
    """Lengths are in sizes of the scans, the median over all of them."""

    first: int = 4  # the most alike that every scan is tried with at first
    dozens: int = 40  # scans up to which every pair may be tried ...
    nearest: int = 12  # ... and of more, the most alike of every scan
    held: int = 3  # accepted edges from which a scan needs no more
    doubt: float = 0.9  # probability below which two scans may as well lie otherwise to one another ...
    sure: float = 0.99  # ... and from which they need no other way between them
    vague: float = 0.05  # radian or lengths, a deviation from which they may as well be tried, too
    meeting: float = 0.3  # share of both of two scans that must meet, as placed, for a try to be worth it
    sketch: int = 300  # components of a scan that are asked whether they do
    found_at: float = 0.27  # such a share at which a search finds what is right every second time ...
    found_within: float = 0.07  # ... around which it rises from seldom to mostly ...
    missed: float = 0.05  # ... but it fails at least so often
    drawn: int = 3000  # components of a scan that the answer keeps to be drawn
    a_round: int = 2  # pairs that a scan is tried in, a round ...
    rounds: int = 30  # ... of so many at most
    harder: int = 3  # pairs of a scan that are searched with every look, where the scans are still in parts
    least: float = 0.5  # probability from which two parts are one
    chance: float = 0.5  # probability that an answer which is wrong agrees with others that are, where shapes repeat
    voices: float = 8.0  # power of the share that meets, of what two answers about the same count for as one
    hardly: float = 3.0  # nats by which a place may be worse that is told more precisely
    vaguer: float = 2.0  # times the deviation by which others tell the same from which an answer does not pull
    alternatives: int = 3  # of an answer that are considered
    beyond: float = (
        22.5  # squared deviations, of six numbers, from which motions do not agree: one right one in a thousand
    )
    widened: float = 2.0  # times the standard deviations of an answer that it may be off by ...
    floor_degrees: float = 0.5  # ... and these beside them ...
    floor: float = 0.01  # ... lengths
    surest: float = 0.99  # most that one answer is believed
    certain: float = 0.9999  # probability from which a tie is not looked at again
    starts: int = 4  # trees, the likeliest and others drawn, from which the best is sought
    sweeps: int = 20  # over the edges of a tree, at most
    candidates: int = 64  # places of a part that are weighed at a time
    settlings: int = 4  # times that poses are fitted to what agrees with them
    iterations: int = 50  # of the pose graph
    robust: float = 3.0  # times what is typical, in deviations, from which an edge counts for less there ...
    closest: float = 0.1  # ... and that is at least so many

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = 1.0 if name in _SHARES else math.inf
            if not math.isfinite(value) or not 0 <= value <= most or (value == 0 and name not in _MAY_BE_ZERO):
                upper = " and at most 1" if most == 1.0 else ""
                raise InvalidConfig(f"`alignment.{name}` must be a finite number above 0{upper}, got {value}")

    def replace(self, **changes: Any) -> AlignmentSettings:
        """Other settings. Raises `InvalidConfig` for an unknown name or a value of another type."""
        return from_plain(AlignmentSettings, to_plain(self) | changes, where="alignment.")
