"""Many registrations of mixed sizes in one process: memory that stays, latency by size, and nothing raised.

python scripts/soak.py --registrations 20000 --json soak.json
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from deepgmr.cli.studies import options, run

SIZES = (200, 1_000, 5_000, 20_000, 100_000)
SHARES = (0.3, 0.3, 0.2, 0.15, 0.05)  # of the registrations
WARM = 0.2  # share of the registrations after which memory should no longer grow
MAPS = 2  # prepared scans that are met again and again


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    import numpy as np

    from deepgmr.datasets.worlds.halls import hall_pair
    from deepgmr.evaluation.results import provenance
    from deepgmr.pipeline.registrar import Registrar

    registrar, rng = Registrar.load(given.bundle, preset=given.preset), np.random.default_rng(given.seed)
    halls = [hall_pair(1.0, max(SIZES), rng) for _ in range(MAPS)]
    maps = [registrar.prepare(target) for _, target, _ in halls]
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    busy: dict[int, list[float]] = {size: [] for size in SIZES}
    memory, statuses, errors = [resident()], dict[str, int](), list[str]()
    for number in range(given.registrations):
        size = int(rng.choice(SIZES, p=SHARES))
        source, target, _ = halls[number % MAPS]
        cloud = source[rng.choice(len(source), size, replace=False)] + rng.normal(0, 0.002, (size, 3))
        other: Any = maps[number % MAPS] if number % 3 == 0 else target[rng.choice(len(target), size, replace=False)]
        start, used = time.perf_counter(), time.thread_time()
        try:
            status = registrar.register(cloud, other).status.value
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            status = "raised"
        seconds[size].append(time.perf_counter() - start)
        busy[size].append(time.thread_time() - used)
        statuses[status] = statuses.get(status, 0) + 1
        memory.append(resident())
        watch("registering", (number + 1) / given.registrations)
    warm = memory[int(WARM * given.registrations)]
    return {
        "provenance": provenance(registrations=given.registrations, seed=given.seed),
        "statuses": statuses,
        "errors": errors[:20],
        "resident_mb": {
            "start": memory[0],
            "warm": warm,
            "end": memory[-1],
            "most": max(memory),
            "grown_after_warm_up": memory[-1] - warm,
        },
        "seconds": {str(size): latency(values) for size, values in seconds.items() if values},
        "cpu_seconds": {str(size): latency(values) for size, values in busy.items() if values},
    }


def latency(values: list[float]) -> dict[str, float]:
    """Percentiles, and how many times the median the 99.9th is."""
    import numpy as np

    found = {f"p{share:g}": float(np.percentile(values, share)) for share in (50, 90, 99, 99.9)}
    return {"count": len(values), **found, "tail": found["p99.9"] / found["p50"]}


def resident() -> float:
    """Megabytes that this process holds."""
    import resource
    from pathlib import Path

    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize() / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> int:
    parser = options(__doc__, "soak")
    parser.add_argument("--registrations", type=int, default=20_000, help="[default: 20000]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", default="default", help="by name or path")
    parser.add_argument("--preset", default="default")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
