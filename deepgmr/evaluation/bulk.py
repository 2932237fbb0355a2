"""What `deepgmr bulk` costs beside a bare loop, and what it leaves behind: the same pairs, by every way.

Small parts of procedural shapes, so that what is not registration weighs as much as it ever will; each target is met by
ten sources, as maps are. The pairs come in blocks, and every way answers a block before the next begins, in turns, so that
whatever else the machine does falls on all alike; seconds of the processors are counted beside those of the clock, which
other work stretches.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr.bulk import bulk, read_pairs
from deepgmr.bulk.node import Node
from deepgmr.bulk.parts import Parts
from deepgmr.datasets.pairs.kinds import Case, cases
from deepgmr.datasets.suites.fixed import nearest_rigid
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.evaluation.running import processor_seconds
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.registrar import Registrar

STUDY = "bulk"
WAYS = ("loop", "local 1", "local 2")
POINTS = 300  # of a cloud
SOURCES = 10  # that meet a target
BLOCKS = 4
OFF = 0.02  # radian and lengths: a standard deviation of what is known of a motion, where something is
Spent = tuple[float, float]  # seconds of the clock, and of the processors
Named = tuple[str, str, list[float] | None]  # files of a source and a target, and what is known of the motion
_PART = 256  # answers, as a part holds at most


def measure(
    *, pairs: int = 3_000, seed: int = 0, ways: Sequence[str] = WAYS, known: bool = False, watch: Watch | None = None
) -> Result:
    """A row a way: pairs a second, CPU time a pair, and what that is beside the first way; and what is kept.

    If `known`, the motion of every pair is known nearly: it is refined, and nothing is searched for.
    """
    watch = watch or Watch()
    registrar = Registrar.load()
    size = max(pairs // BLOCKS, 2)
    about = provenance(
        pairs=size * BLOCKS, blocks=BLOCKS, seed=seed, points=POINTS, known=known, bundle=registrar.bundle.id
    )
    result: Result = {"study": STUDY, "provenance": about, "ways": [], "kept": []}
    starts: dict[str, list[Spent]] = {way: [] for way in ways}
    spent: dict[str, list[Spent]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        result["tables"] = [_tables(Path(folder))]
        for block in range(BLOCKS):
            place = Path(folder, str(block))
            place.mkdir()
            table = write_pairs(place, size, seed * BLOCKS + block, known=known)
            for turn in range(len(ways)):
                way = ways[(block + turn) % len(ways)]
                watch.progress(f"block {block + 1}: {way}", (block * len(ways) + turn) / BLOCKS / len(ways))
                start, seconds = _timed(registrar, place, table, way)
                starts[way].append(start)
                spent[way].append(seconds)
            done = size * (block + 1)
            result["ways"] = _rows(done, starts, spent)
            result["kept"] = [
                _kept(registrar, place, table, output) for output in sorted(place.glob("local*.parquet"))[:1]
            ]
            watch.keep(result)
    return result


def write_pairs(folder: Path, pairs: int, seed: int, *, known: bool = False) -> list[Named]:
    """Clouds as files, tables of all and of two pairs of them (all.parquet, two.parquet), and the pairs."""
    import pyarrow
    from pyarrow import parquet

    rng, named = np.random.default_rng(seed), list[Named]()
    noise = torch.Generator().manual_seed(seed)
    for number, case in enumerate(cases(-(-pairs // SOURCES), seed, kinds=("crop70",))):
        target = str(folder / f"{number}.npy")
        np.save(target, case.target.numpy()[rng.permutation(len(case.target))[:POINTS]])
        for other in range(min(SOURCES, pairs - len(named))):
            source = str(folder / f"{number}-{other}.npy")
            np.save(source, case.source.numpy()[rng.permutation(len(case.source))[:POINTS]])
            named.append((source, target, _nearly(case, noise) if known else None))
    for name, chosen in (("all", named), ("two", named[:2])):
        columns = dict(zip(("source", "target", "initial"), map(list, zip(*chosen, strict=True)), strict=True))
        if not known:
            del columns["initial"]
        parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet")
    return named


def _nearly(case: Case, generator: torch.Generator) -> list[float]:
    """A motion near the true one, as tables have it."""
    off = RigidTransform.exp(OFF * torch.randn(6, generator=generator, dtype=torch.float64))
    matrix = (off @ RigidTransform.from_matrix(torch.from_numpy(case.target_from_source))).matrix
    return nearest_rigid(matrix.numpy()[None])[0].ravel().tolist()


def _timed(registrar: Registrar, folder: Path, table: Sequence[Named], way: str) -> tuple[Spent, Spent]:
    """What two pairs take, nearly all of it the start of the workers, and what all pairs do."""
    engine, _, count = way.partition(" ")
    spent = []
    for name in ("two", "all"):
        start, before = time.perf_counter(), processor_seconds()
        if engine == "loop":
            _loop(registrar, table[:2] if name == "two" else table)
        else:
            output = folder / f"{engine}{count}-{name}.parquet"
            bulk(folder / f"{name}.parquet", output, engine=engine, workers=int(count or 1))
        spent.append((time.perf_counter() - start, processor_seconds() - before))
    return spent[0], spent[1]


def _loop(registrar: Registrar, table: Sequence[Named]) -> None:
    scans: dict[str, Any] = {}
    for source, target, initial in table:
        if target not in scans:
            scans = {target: registrar.prepare(target)}  # what a careful loop does
        known = None if initial is None else np.reshape(initial, (4, 4))
        registrar.register(source, scans[target], initial=known)


def _rows(pairs: int, starts: dict[str, list[Spent]], spent: dict[str, list[Spent]]) -> list[Result]:
    less = {
        way: (np.array(spent[way]) - np.array(starts[way]))[:, 1] for way in spent
    }  # of the pairs beyond the first two
    bare, rows = next(iter(less.values())), list[Result]()
    for way, computed in less.items():
        clock = np.array(spent[way])[:, 0]
        start, begun = np.median(starts[way], axis=0).tolist()
        rows.append(
            {
                "way": way,
                "pairs": pairs,
                "seconds": float(clock.sum()),
                "pairs a second": pairs / float(clock.sum()),
                "CPU ms a pair": 1e3 * float(computed.sum()) / (pairs - 2 * len(computed)),
                "beside the loop": float(computed.sum() / bare.sum()),
                "least": float((computed / bare).min()),
                "most": float((computed / bare).max()),
                "seconds to start": start,
                "CPU seconds to start": begun,
            }
        )
    return rows


def _kept(registrar: Registrar, folder: Path, table: Sequence[Named], output: Path) -> Result:
    """What the answers of a block weigh and take to be kept, how unlike its pairs are, and what a worker held."""
    from pyarrow import parquet

    output = folder / output.name.replace("-two", "-all")
    answers = parquet.read_table(output)
    seconds = np.array(answers["seconds"])
    node = Node("default", "default", str(folder / "cache"), frozenset([table[0][1]]))
    node.prepare(table[0][1], role="target")
    (scan,) = (folder / "cache").glob("*.scan.safetensors")
    rows = answers.slice(0, _PART).to_pylist()
    parts = Parts(str(folder / "parts.parquet"), answers.schema.field("id").type)
    parts.check()
    start = time.perf_counter()
    for _ in range(10):
        parts.write(rows)
    written = (time.perf_counter() - start) / 10
    weight = next((folder / "parts.parquet.parts").glob("*.parquet")).stat().st_size
    start = time.perf_counter()
    parts.merge([row["id"] for row in rows])
    merged = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "median seconds": float(np.median(seconds)),
        "p99 seconds": float(np.quantile(seconds, 0.99)),
        "most seconds": float(seconds.max()),
        "answers a part": len(rows),
        "part ms": 1e3 * written,
        "part bytes an answer": weight / len(rows),
        "merge ms a part": 1e3 * merged / 10,
        "cloud bytes": Path(table[0][0]).stat().st_size,
        "map bytes": scan.stat().st_size,
        "worker MB": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6,
    }


def _tables(folder: Path) -> Result:
    """What a table of many pairs takes before the first and after the last is answered: answers that are made up."""
    import pyarrow
    from pyarrow import parquet

    rng, count, started = np.random.default_rng(0), 50_000, list[float]()
    columns = {end: [f"s3://bucket/{end}/{number:09d}.ply" for number in range(count)] for end in ("source", "target")}
    parquet.write_table(pyarrow.table(columns), folder / "many.parquet")
    started.append(time.process_time())
    asks, kind = read_pairs(str(folder / "many.parquet"))
    started.append(time.process_time())
    parts = Parts(str(folder / "answers.parquet"), kind)
    parts.check()
    row = {"status": "ok", "confidence": 0.9, "seconds": 0.1, "overlap": 0.5, "notes": [], "bundle": "0" * 12}
    for start in range(0, count, _PART):
        motions, covariances = rng.normal(size=(_PART, 16)).tolist(), rng.normal(size=(_PART, 36)).tolist()
        numbers = zip(range(start, min(start + _PART, count)), motions, covariances, strict=False)
        parts.write([row | {"id": n, "target_from_source": m, "covariance": c} for n, m, c in numbers])
    started.append(time.process_time())
    parts.done()
    started.append(time.process_time())
    parts.merge([ask.id for ask in asks])
    started.append(time.process_time())
    names = ("read", "keep", "find again", "merge")
    spent = {f"CPU ms to {name} 1,000": 1e6 * float(s) / count for name, s in zip(names, np.diff(started), strict=True)}
    return {"pairs": count, **spent, "bytes an answer": (folder / "answers.parquet").stat().st_size / count}


def markdown(result: Result) -> str:
    """The table of ways, and what is kept."""
    return "\n\n".join([ways(result), *(as_table(result[part], form=".3g") for part in ("kept", "tables"))])


def parts(result: Result) -> dict[str, str]:
    """What a page may ask for by name."""
    return {"scale": scale(result)}


def scale(result: Result) -> str:
    """What 1e8 such pairs on a thousand cores would come to, by multiplication: nothing of it was run."""
    kept, table = result["kept"][0], result["tables"][0]
    way = next(row for row in result["ways"] if row["way"] == "local 1")
    pairs, cores, each = 1e8, 1e3, way["CPU ms a pair"] / 1e3
    rate = cores / each
    driver = {name: pairs / 1e3 * table[f"CPU ms to {name} 1,000"] / 3.6e6 for name in ("read", "find again", "merge")}
    rows = [
        ("computing", f"1e8 x {1e3 * each:.0f} ms / 1,000", f"{pairs * each / cores / 3600:.1f} h"),
        ("starting 1,000 workers", f"{way['CPU seconds to start']:.1f} s of a core each", "once"),
        ("answers", f"1,000 / {1e3 * each:.0f} ms", f"{rate:,.0f} a second"),
        ("requests for clouds", f"a source each, a map for {SOURCES} pairs", f"{rate * (1 + 1 / SOURCES):,.0f} a second"),
        ("bytes of clouds", f"{kept['cloud bytes']:,} a cloud", f"{rate * 1.1 * kept['cloud bytes'] / 1e6:,.0f} MB/s"),
        ("parts", f"at most {_PART} answers in one", f"{pairs / _PART:,.0f} files or more"),
        ("answers kept", f"{table['bytes an answer']:.0f} bytes each", f"{pairs * table['bytes an answer'] / 1e9:.0f} GB"),
        *((f"{name}, in one process", f"1e8 x {table[f'CPU ms to {name} 1,000']:.1f} us", f"{spent:.2f} h")
          for name, spent in driver.items()),
    ]  # fmt: skip
    return as_table([dict(zip(("what", "arithmetic", "comes to"), row, strict=True)) for row in rows])


def ways(result: Result) -> str:
    """The table of ways."""
    formats = {key: ".1f" for key in ("pairs a second", "CPU ms a pair", "seconds to start", "CPU seconds to start")}
    formats["seconds"] = ".0f"
    return as_table(result["ways"], formats, form=".2f")
