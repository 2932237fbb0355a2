"""Where the time of `register` goes: mean milliseconds a pair in each step, as every answer tells them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.datasets.suites.named import read_named
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.pipeline.registrar import Registrar

STUDY = "profile"


def measure(
    suites: Sequence[str | Path | PairSuite],
    *,
    pairs: int = 50,
    registrar: Registrar | None = None,
    watch: Watch | None = None,
) -> Result:
    """The profile of so many pairs of each suite, spread evenly, on one thread."""
    registrar, watch = registrar or Registrar.load(), watch or Watch()
    told = provenance(pairs=pairs, bundle=registrar.bundle.id)
    result: Result = {"study": STUDY, "provenance": told, "suites": {}}
    for number, item in enumerate(suites):
        suite = item if isinstance(item, PairSuite) else read_named(item)
        watch.progress(suite.name, number / len(suites))
        result["suites"][suite.name] = profile(suite.thinned(pairs), registrar)
        watch.keep(result)
    return result


def profile(suite: PairSuite, registrar: Registrar) -> dict[str, float]:
    """Mean milliseconds a pair in each step; `other` is in none of them, `all` is the wall clock."""
    registrar.register(suite.sources[0], suite.targets[0])  # imports and allocations are not what is timed
    spent: dict[str, float] = {}
    whole = 0.0
    for source, target in zip(suite.sources, suite.targets, strict=True):
        start = time.perf_counter()
        answer = registrar.register(source, target)
        whole += 1e3 * (time.perf_counter() - start)
        for step, milliseconds in answer.stats.milliseconds.items():
            spent[step] = spent.get(step, 0.0) + milliseconds
    steps = {step: value / len(suite) for step, value in spent.items()}
    return steps | {"other": whole / len(suite) - sum(steps.values()), "all": whole / len(suite)}


def markdown(result: Result) -> str:
    """A row a step, a column a suite."""
    columns = result["suites"]
    steps = dict.fromkeys(step for column in columns.values() for step in column)
    last = [step for step in ("other", "all") if step in steps]
    order = [step for step in steps if step not in last] + last
    rows = [{"step": step} | {suite: column.get(step, 0.0) for suite, column in columns.items()} for step in order]
    return as_table(rows, form=".1f")
