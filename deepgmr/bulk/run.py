"""From a table of pairs to a table of answers."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from deepgmr.bulk.engines import ENGINES, local, on_ray
from deepgmr.bulk.node import Node
from deepgmr.bulk.pairs import Ask, read_pairs
from deepgmr.bulk.parts import Parts
from deepgmr.bulk.work import LIMIT
from deepgmr.errors import InvalidConfig
from deepgmr.pipeline.pace import Progress
from deepgmr.pipeline.registrar import Registrar

_SHARED = 3  # pairs from which a cloud is prepared for all of them
_CHUNK = 64  # pairs that an actor takes at a time


@dataclass(frozen=True)
class Summary:
    """What became of a table."""

    pairs: int
    before: int  # pairs that were answered already
    statuses: dict[str, int]  # of all pairs
    seconds: float  # that this run took
    workers: int

    @property
    def rate(self) -> float:
        """Pairs a second, of this run."""
        return (self.pairs - self.before) / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        said = ", ".join(f"{count:,} {status}" for status, count in sorted(self.statuses.items()))
        done = self.pairs - self.before
        speed = f"; {self.rate:,.1f} pairs/s, {self.workers / self.rate:.3g} worker seconds a pair" if done else ""
        return f"{self.pairs:,} pairs ({self.before:,} were answered before): {said}{speed}"


def bulk(
    pairs: str | Path,
    output: str | Path,
    *,
    engine: str = "local",
    workers: int = 1,
    limit: float = LIMIT,
    bundle: str = "default",
    preset: str = "default",
    cache: str | Path | None = None,
    address: str | None = None,
    chunk: int = _CHUNK,
    progress: Progress | None = None,
) -> Summary:
    """Register the pairs of a table (see `read_pairs`) and write a table of answers, a row a pair, in its order.

    output    a .parquet: the columns id, status, confidence, target_from_source (16 numbers, row by row), covariance (36),
              overlap, error, notes, seconds, bundle. Beside it, until all is answered, a folder of parts; where there is
              one, or the table itself, the pairs in it are not answered again
    engine    "local", processes of this machine; "ray", a Ray cluster, with the extra `deepgmr[ray]`
    workers   processes, or actors of Ray, that register
    limit     seconds after which a pair is given up as `timeout`, and its process ended
    cache     a folder on each machine for what it fetches and for maps that several pairs share; by default a temporary one
    address   of the Ray cluster; by default RAY_ADDRESS, or else one on this machine for as long as it takes
    chunk     pairs that an actor of Ray takes at a time
    progress  called with ("registering", fraction done)

    A pair that cannot be answered has its error in its row. Raises `InvalidFile` for a table that cannot be read or
    written, `InvalidConfig` for an unknown engine.
    """
    if engine not in ENGINES:
        raise InvalidConfig(f"unknown engine `{engine}`; the engines are {', '.join(ENGINES)}")
    if not (isinstance(workers, int) and workers >= 1 and chunk >= 1 and limit > 0):
        raise InvalidConfig(f"workers and chunk are from 1, limit above 0; got {workers}, {chunk} and {limit}")
    Registrar.load(bundle, preset=preset)  # what is wrong with it is raised here
    asks, id_type = read_pairs(str(pairs))
    parts = Parts(str(output), id_type)
    parts.check()
    known = parts.done()
    todo = sorted((ask for ask in asks if ask.id not in known), key=lambda ask: (ask.target, ask.source))
    done = before = len(asks) - len(todo)

    def told(_: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("registering", done / len(asks))

    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="deepgmr-") as folder:
        place = Path(cache or folder).absolute()
        place.mkdir(parents=True, exist_ok=True)
        node = Node(bundle, preset, str(place), _shared(todo))
        if todo and engine == "local":
            local(node, todo, parts, told, workers=workers, limit=limit)
        elif todo:
            on_ray(node, todo, parts, told, workers=workers, limit=limit, address=address, chunk=chunk)
    seconds = time.perf_counter() - start
    rows = parts.merge([ask.id for ask in asks])
    return Summary(len(asks), before, dict(Counter(row["status"] for row in rows)), seconds, workers)


def _shared(asks: list[Ask]) -> frozenset[str]:
    count = Counter(cloud for ask in asks for cloud in {ask.source, ask.target})
    return frozenset(cloud for cloud, times in count.items() if times >= _SHARED)
