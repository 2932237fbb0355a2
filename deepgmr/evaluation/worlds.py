"""How long it takes to draw the pairs of procedural worlds: seconds of this process for both clouds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from deepgmr.datasets.suites.procedural import read_procedural
from deepgmr.datasets.worlds.catalogue import WORLDS
from deepgmr.evaluation.results import Result, Watch, as_table, provenance

STUDY = "worlds"
POINTS = (20_000, 500_000, 10_000_000)  # a cloud


def measure(*, points: Sequence[int] = POINTS, worlds: Sequence[str] = (), watch: Watch | None = None) -> Result:
    """A row a world, a column a number of points; pair 0 of seed 0, after a small one that is not counted."""
    watch, chosen = watch or Watch(), list(worlds or WORLDS)
    result: Result = {"study": STUDY, "provenance": provenance(points=list(points)), "rows": []}
    for number, world in enumerate(chosen):
        watch.progress(world, number / len(chosen))
        _seconds(world, 1_000)
        result["rows"].append({"world": world} | {told(count): _seconds(world, count) for count in points})
        watch.keep(result)
    return result


def _seconds(world: str, points: int) -> float:
    suite = read_procedural(f"{world}#{points}-1pairs")
    start = time.process_time()
    suite.sources[0], suite.targets[0]
    return time.process_time() - start


def told(points: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if points >= size and points % size == 0:
            return f"{points // size}{letter}"
    return str(points)


def markdown(result: Result) -> str:
    """A row a world."""
    return as_table(result["rows"], form=".2g")
