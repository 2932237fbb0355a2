"""Many registrations in one process: memory that stays, latency by kind of pair, and nothing raised.

Scans of 200 to 100,000 points of procedural halls meet one another, or a prepared map of their hall, with nothing known or
with the place about known. A tail is that of pairs of one kind: 200 points against a map of 100,000 are registered with
the map's detail, and take several times what two scans of 200 points do.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.datasets.worlds.halls import hall_pair
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.pipeline.registrar import Registrar

STUDY = "soak"
SIZES = (200, 1_000, 5_000, 20_000, 100_000)
SHARES = (0.6, 0.36, 0.02, 0.015, 0.005)  # of the pairs of two scans; in a map all sizes are as many ...
TRACKED_FROM = 2  # ... but a place is tracked by scans of the larger sizes, as a LiDAR has them
KINDS = {"two scans": 0.72, "in a map": 0.03, "in a map, tracked": 0.25}  # shares of the registrations
TRACKED = 0.1  # metres, standard deviation of the place that is known
WARM = 0.2  # share of the registrations after which memory should no longer grow, by its median over a tenth of them
MAPS = 2  # prepared scans that are met again and again
NOISE = 0.002  # metres
PERCENTILES = (50, 90, 99, 99.9)
COURSE = 200  # of the readings of memory, evenly spaced, that are told
KEPT = 500  # registrations after which what there is so far is kept


def measure(
    registrations: int,
    *,
    seed: int = 0,
    registrar: Registrar | None = None,
    watch: Watch | None = None,
    sizes: Sequence[int] = SIZES,
) -> Result:
    """The resident memory (MB), the statuses, what was raised, and the latency (s, wall and processor) by kind."""
    registrar, watch, rng = registrar or Registrar.load(), watch or Watch(), np.random.default_rng(seed)
    halls = [hall_pair(1.0, max(sizes), rng) for _ in range(MAPS)]
    maps = [registrar.prepare(target) for _, target, _ in halls]
    wall, busy, statuses, errors = dict[str, list[float]](), dict[str, list[float]](), dict[str, int](), list[str]()
    memory = [resident()]

    def found() -> Result:
        done = len(memory) - 1
        return {
            "study": STUDY,
            "provenance": told | {"registrations": done},
            "statuses": statuses,
            "errors": errors[:20],
            "resident": {"start": memory[0], "most": max(memory), "course": memory[:: max(1, done // COURSE)]},
            "wall": {kind: _latency(values) for kind, values in sorted(wall.items())},
            "processor": {kind: _latency(values) for kind, values in sorted(busy.items())},
        }

    told = provenance(seed=seed, bundle=registrar.bundle.id)
    for number in range(registrations):
        kind, (source, target, truth) = str(rng.choice(list(KINDS), p=list(KINDS.values()))), halls[number % MAPS]
        tracked = kind == "in a map, tracked"
        some = (sizes[TRACKED_FROM:] or sizes) if tracked else sizes
        size = int(rng.choice(some, p=SHARES if kind == "two scans" else None))
        cloud = source[rng.choice(len(source), size, replace=False)] + rng.normal(0, NOISE, (size, 3))
        other: Any = maps[number % MAPS]
        options: dict[str, Any] = {}
        if kind == "two scans":
            kind, other = f"two scans of {size:,}", target[rng.choice(len(target), size, replace=False)]
        elif tracked:
            options["initial"] = truth.copy()
            options["initial"][:3, 3] += rng.normal(0, TRACKED, 3)
        start, used = time.perf_counter(), time.process_time()
        try:
            status = registrar.register(cloud, other, **options).status.value
        except Exception as error:
            status = "raised"
            errors.append(f"{type(error).__name__}: {error}")
        wall.setdefault(kind, []).append(time.perf_counter() - start)
        busy.setdefault(kind, []).append(time.process_time() - used)
        statuses[status] = statuses.get(status, 0) + 1
        memory.append(resident())
        watch.progress("registering", (number + 1) / registrations)
        if (number + 1) % KEPT == 0:
            watch.keep(found())
    return found()


def _latency(seconds: list[float]) -> dict[str, float]:
    """Percentiles, and how many times the median the last of them is."""
    found = {f"p{share:g}": float(np.percentile(seconds, share)) for share in PERCENTILES}
    return {"registrations": len(seconds), **found, "tail": found["p99.9"] / found["p50"]}


def resident() -> float:
    """Megabytes that this process holds; where the system does not tell, the most it ever held."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def growth(course: Sequence[float]) -> tuple[float, float]:
    """The memory (MB) once it was warm, and at the end: medians over a tenth of the registrations."""
    tenth, begin = max(1, len(course) // 10), int(WARM * len(course))
    return float(np.median(course[begin : begin + tenth])), float(np.median(course[-tenth:]))


def markdown(result: Result) -> str:
    """A row a kind, for the processor's time; then memory and statuses."""
    rows = [{"pair": kind} | found for kind, found in result["processor"].items()]
    warm, end = growth(result["resident"]["course"])
    statuses = ", ".join(f"{count:,} {name}" for name, count in result["statuses"].items())
    return (
        f"Processor seconds a registration; `tail` is p99.9 over p50.\n\n{as_table(rows, {'tail': '.1f'})}\n\n"
        "Resident memory, as the median over a tenth of the registrations: "
        f"{warm:.0f} MB after a fifth of them, {end:.0f} MB at the end; {result['resident']['most']:.0f} MB at most. "
        f"Answers: {statuses}; {len(result['errors'])} raised."
    )
