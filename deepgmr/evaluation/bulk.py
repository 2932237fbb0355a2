"""What `deepgmr bulk` costs beside a bare loop, and how it scales: the same pairs, one way after the other.

Small parts of procedural shapes, so that what is not registration weighs as much as it ever will; each target is met by
several sources, as maps are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.bulk import bulk
from deepgmr.datasets.pairs.kinds import cases
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.pipeline.registrar import Registrar

STUDY = "bulk"
WAYS = ("loop", "local 1", "local 2")
POINTS = 300  # of a cloud
SHAPES = 200  # files that the pairs are made of


def measure(*, pairs: int = 10_000, seed: int = 0, ways: Sequence[str] = WAYS, watch: Watch | None = None) -> Result:
    """A row a way: pairs a second, seconds of a worker a pair, and what that is beside the bare loop."""
    watch = watch or Watch()
    registrar = Registrar.load()
    result: Result = {
        "study": STUDY,
        "provenance": provenance(pairs=pairs, seed=seed, points=POINTS, bundle=registrar.bundle.id),
        "ways": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        table = draw(Path(folder), pairs, seed)
        for number, way in enumerate(ways):
            watch.progress(way, number / len(ways))
            result["ways"].append(_row(registrar, Path(folder), table, way, result["ways"]))
            watch.keep(result)
    return result


def draw(folder: Path, pairs: int, seed: int) -> list[tuple[str, str]]:
    """Clouds as files, a table of pairs of them (`pairs.parquet`), and the pairs. Each target comes again and again."""
    import pyarrow
    from pyarrow import parquet

    rng, named = np.random.default_rng(seed), list[tuple[str, str]]()
    for number, case in enumerate(cases(SHAPES, seed, kinds=("crop70",))):
        names = tuple(str(folder / f"{number}{end}.npy") for end in ("s", "t"))
        for name, cloud in zip(names, (case.source, case.target), strict=True):
            np.save(name, cloud.numpy()[rng.permutation(len(cloud))[:POINTS]])
        named.append((names[0], names[1]))
    chosen = [named[number % SHAPES] for number in range(pairs)]
    columns = {"source": [source for source, _ in chosen], "target": [target for _, target in chosen]}
    parquet.write_table(pyarrow.table(columns), folder / "pairs.parquet")
    return chosen


def _row(
    registrar: Registrar, folder: Path, table: Sequence[tuple[str, str]], way: str, before: list[Result]
) -> Result:
    engine, _, count = way.partition(" ")
    workers = int(count or 1)
    start = time.perf_counter()
    if engine == "loop":
        scans: dict[str, Any] = {}
        for source, target in sorted(table, key=lambda pair: pair[1]):
            if target not in scans:
                scans = {target: registrar.prepare(target)}  # what a careful loop does
            registrar.register(source, scans[target])
    else:
        bulk(folder / "pairs.parquet", folder / f"{engine}{workers}.parquet", engine=engine, workers=workers)
    seconds = time.perf_counter() - start
    spent = seconds * workers / len(table)
    bare = before[0]["seconds a pair"] if before else spent
    return {
        "way": way,
        "pairs": len(table),
        "seconds": seconds,
        "pairs a second": len(table) / seconds,
        "seconds a pair": spent,
        "beside the loop": spent / bare,
    }


def markdown(result: Result) -> str:
    """The table of ways."""
    formats = {"seconds": ".0f", "pairs a second": ".1f", "seconds a pair": ".4f"}
    return as_table(result["ways"], formats, form=".2f")
