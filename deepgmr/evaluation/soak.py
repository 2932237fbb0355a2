"""Many registrations of mixed sizes in one process: memory that stays, latency by size, and nothing raised.

Scans of 200 to 100,000 points of procedural halls meet one another, and every third time a prepared map.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.datasets.worlds.halls import hall_pair
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.pipeline.registrar import Registrar

STUDY = "soak"
SIZES = (200, 1_000, 5_000, 20_000, 100_000)
SHARES = (0.3, 0.3, 0.2, 0.15, 0.05)  # of the registrations
WARM = 0.2  # share of the registrations after which memory should no longer grow
MAPS = 2  # prepared scans that are met again and again
NOISE = 0.002  # metres
PERCENTILES = (50, 90, 99, 99.9)


def measure(
    registrations: int, *, seed: int = 0, registrar: Registrar | None = None, watch: Watch | None = None
) -> Result:
    """The resident memory (MB), the statuses, what was raised, and the latency (s, wall and processor) by size."""
    registrar, watch, rng = registrar or Registrar.load(), watch or Watch(), np.random.default_rng(seed)
    halls = [hall_pair(1.0, max(SIZES), rng) for _ in range(MAPS)]
    maps = [registrar.prepare(target) for _, target, _ in halls]
    wall: dict[int, list[float]] = {size: [] for size in SIZES}
    busy: dict[int, list[float]] = {size: [] for size in SIZES}
    memory, statuses, errors = [resident()], dict[str, int](), list[str]()
    for number in range(registrations):
        size, (source, target, _) = int(rng.choice(SIZES, p=SHARES)), halls[number % MAPS]
        cloud = source[rng.choice(len(source), size, replace=False)] + rng.normal(0, NOISE, (size, 3))
        other: Any = target[rng.choice(len(target), size, replace=False)] if number % 3 else maps[number % MAPS]
        start, used = time.perf_counter(), time.process_time()
        try:
            status = registrar.register(cloud, other).status.value
        except Exception as error:
            status = "raised"
            errors.append(f"{type(error).__name__}: {error}")
        wall[size].append(time.perf_counter() - start)
        busy[size].append(time.process_time() - used)
        statuses[status] = statuses.get(status, 0) + 1
        memory.append(resident())
        watch.progress("registering", (number + 1) / registrations)
    warm = memory[int(WARM * registrations)]
    return {
        "study": STUDY,
        "provenance": provenance(registrations=registrations, seed=seed, bundle=registrar.bundle.id),
        "statuses": statuses,
        "errors": errors[:20],
        "resident": {
            "start": memory[0],
            "warm": warm,
            "end": memory[-1],
            "most": max(memory),
            "growth": memory[-1] - warm,
        },
        "wall": {str(size): _latency(values) for size, values in wall.items() if values},
        "processor": {str(size): _latency(values) for size, values in busy.items() if values},
    }


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


def markdown(result: Result) -> str:
    """A row a size, for the processor's time; then memory and statuses."""
    rows = [{"points": size} | found for size, found in result["processor"].items()]
    memory, statuses = result["resident"], ", ".join(f"{count} {name}" for name, count in result["statuses"].items())
    return (
        f"Processor seconds a registration\n\n{as_table(rows, form='.3f')}\n\n"
        f"Resident memory: {memory['warm']:.0f} MB warm, {memory['end']:.0f} MB at the end, {memory['most']:.0f} MB at most. "
        f"Answers: {statuses}."
    )
