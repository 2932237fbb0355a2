"""Where the time of `register` goes: milliseconds a pair in each step, on any suite.

    python scripts/profile_register.py ../shared/modelnet40/benchmark/modelnet_crop70_180.h5 ../shared/scans --pairs 50

Steps are timed by the wall clock, means over the pairs; what is in none of them is `other`. One thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from deepgmr.datasets.suites.fixed import PairSuite, read_suite
from deepgmr.pipeline import registrar as registration
from deepgmr.pipeline import search

STEPS: dict[str, tuple[Any, tuple[str, ...]]] = {  # where the functions are looked up when `register` runs
    "components": (registration, ("surfaces",)),
    "network": (search, ("match_nodes",)),
    "histograms": (search, ("describe", "match")),
    "consistency": (search, ("consistent_motions",)),
    "rotation grid": (search, ("grid_motions",)),
    "first look": (search, ("first_look",)),
    "refinement": (registration, ("refine_together",)),
    "ranking": (search, ("rank", "distinct")),
    "polish": (registration, ("polish",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", help="suites as `deepgmr evaluate` takes them")
    parser.add_argument("--pairs", type=int, default=50, help="of each suite, spread evenly")
    given = parser.parse_args()
    torch.set_num_threads(1)
    columns = {}
    for path in given.suites:
        suite = read_suite(path)
        rows = np.unique(np.linspace(0, len(suite) - 1, min(given.pairs, len(suite))).round().astype(int))
        columns[suite.name] = profile(suite.subset(rows))
    print("| step | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns))
    for step in (*STEPS, "other", "all"):
        print(f"| {step} | " + " | ".join(f"{column[step]:.1f}" for column in columns.values()) + " |")


def profile(suite: PairSuite) -> dict[str, float]:
    """Mean milliseconds a pair in each step."""
    spent = dict.fromkeys(STEPS, 0.0)
    registration.register(suite.sources[0], suite.targets[0])  # imports and weights are not what is timed
    with timed(spent):
        start = time.perf_counter()
        for source, target in zip(suite.sources, suite.targets, strict=True):
            registration.register(source, target)
        total = time.perf_counter() - start
    column = {step: 1e3 * seconds / len(suite) for step, seconds in spent.items()}
    whole = 1e3 * total / len(suite)
    return column | {"other": whole - sum(column.values()), "all": whole}


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Within, calls of the functions of every step add their seconds to it."""
    plain = [(place, name, getattr(place, name)) for place, names in STEPS.values() for name in names]
    for step, (place, names) in STEPS.items():
        for name in names:
            setattr(place, name, stopped(getattr(place, name), step, spent))
    try:
        yield
    finally:
        for place, name, function in plain:
            setattr(place, name, function)


def stopped(function: Callable[..., Any], step: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[step] += time.perf_counter() - start

    return call


if __name__ == "__main__":
    main()
