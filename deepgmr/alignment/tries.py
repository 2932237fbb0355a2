"""Pairs of scans that are tried, by the same processes from the first to the last, and what the answers say together."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepgmr.alignment.bonds import Bond, bond
from deepgmr.alignment.meeting import Sketches
from deepgmr.alignment.plan import Pairs
from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.alignment.settled import World, believed
from deepgmr.errors import InvalidConfig
from deepgmr.pipeline.answer import Failure, Registration
from deepgmr.pipeline.batch import jobs
from deepgmr.pipeline.jobs import Job, Shelf
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.scan import Scan
from deepgmr.pipeline.settings import preset
from deepgmr.pipeline.workers import Pool

Told = Callable[[str, float], None]

_WORTH = 8  # pairs for which it pays to start a process


class Glances:
    """Registers at one look, or with all."""

    def __init__(self, registrar: Registrar) -> None:
        self.every = registrar
        self.one = Registrar(registrar.bundle, preset("fast", registrar.settings))

    def prepare(self, cloud: Any, **options: Any) -> Scan:
        return self.every.prepare(cloud, **options)

    def register(self, source: Any, target: Any, *, hard: bool = False) -> Registration:
        return (self.every if hard else self.one).register(source, target)


@dataclass(eq=False)
class Tries:
    """Pairs that were tried, and what the answers say together."""

    scans: list[Scan]
    registrar: Registrar
    settings: AlignmentSettings
    workers: int
    left: int  # pairs that may still be tried
    told: Told
    answers: dict[tuple[int, int], Registration | Failure] = field(default_factory=dict)
    _pool: Pool | None = None

    def __post_init__(self) -> None:
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 1:
            raise InvalidConfig(f"workers must be a whole number from 1, got {self.workers!r}")
        self.size = float(np.median([scan.size for scan in self.scans]))
        self.sketches = Sketches(self.scans, self.settings)
        self._glances = Glances(self.registrar)
        self._shelf = Shelf(self._glances)

    def made(self, pairs: Pairs, hard: bool) -> Pairs:
        """Try pairs, as many as may be; those that were."""
        pairs = pairs[: max(self.left, 0)]
        self.left -= len(pairs)
        workers = min(self.workers, len(pairs) // _WORTH)
        if self._pool is None and workers > 1:
            self._pool = Pool(self._glances, workers - 1)  # this one works, too
        # copies, which keep nothing: what is derived from a scan lives as long as somebody holds on to it
        clouds = ((copy(self.scans[second]), copy(self.scans[first])) for first, second in pairs)
        drawn = jobs(self._glances, clouds, {"hard": hard}, copied=False)
        alone = ((n, self._shelf.answer(job) if isinstance(job, Job) else job) for n, job in drawn)
        found = alone if self._pool is None else self._pool.answers(drawn, own=self._shelf)
        for done, (number, answer) in enumerate(found, start=1):
            self.answers[pairs[number]] = answer
            self.told(f"registering {len(self.answers)} pairs", 0.1 + 0.8 * done / len(pairs))
        return pairs

    def close(self) -> None:
        """The processes are ended."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def confidence(self, pair: tuple[int, int]) -> float:
        return self.answers[pair].confidence

    @property
    def bonds(self) -> list[Bond]:
        """Of the pairs that have an answer, in their order."""
        return [
            bond(*pair, (self.scans[pair[0]], self.scans[pair[1]]), answer, self.size, self.settings)
            for pair, answer in sorted(self.answers.items(), key=lambda each: each[0])
            if isinstance(answer, Registration)
        ]

    def world(self, *, starts: int, seed: int) -> World:
        asked = self.sketches.missed, self.sketches.alike
        return believed(self.bonds, len(self.scans), self.size, self.settings, *asked, starts=starts, seed=seed)
