"""The algorithm box: from scans in no order to one frame, by trying pairs until what they say hangs together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.alignment.answer import Alignment
from deepgmr.alignment.plan import Plan
from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.alignment.solved import solved
from deepgmr.alignment.tries import Told, Tries
from deepgmr.errors import Cancelled, InvalidCloud, InvalidConfig, InvalidFile, InvalidInput
from deepgmr.pipeline.jobs import Given
from deepgmr.pipeline.pace import Progress
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.scan import Scan
from deepgmr.posegraph.looks import likeness, look_of


def align(
    scans: Sequence[Any],
    *,
    registrar: Registrar | None = None,
    settings: AlignmentSettings | None = None,
    workers: int = 1,
    budget: int | None = None,
    seed: int = 0,
    drop_invalid: bool = False,
    progress: Progress | None = None,
) -> Alignment:
    """Put scans that were taken in any order and in any poses into one frame.

    scans         what `register` takes, at least two
    registrar     what tries pairs of them; by default the default bundle
    settings      `AlignmentSettings`
    workers       processes that share the work
    budget        pairs that are tried at most; by default as many as it takes
    seed          of the points drawn on meshes, and of the trees from which the likeliest is sought
    drop_invalid  leave out points with NaN or infinite coordinates instead of raising
    progress      called often with (stage, fraction done); returns False to have `Cancelled` raised

    Pairs that look alike are tried first, then those that may tie parts to one another or make sure of what is not sure.
    Answers that contradict others are rejected, and a scan that nothing ties to others is left to itself. Deterministic,
    whatever the order of the scans and the number of workers, up to the frames of the components and the last digits.
    Raises `InvalidCloud` or `InvalidFile`, which name the scan, `InvalidInput` for fewer than two, or `InvalidConfig`.
    """
    _check(scans, budget)
    registrar, settings = registrar or Registrar.load("default"), settings or AlignmentSettings()
    told = _telling(progress)
    prepared = _prepared(scans, registrar, seed, drop_invalid, told)
    order = sorted(range(len(prepared)), key=lambda each: Given.of("scan", prepared[each], {}, copied=False).key)
    ordered = [prepared[each] for each in order]  # so that nothing hangs on the order in which they came
    left = 2 * len(ordered) ** 2 if budget is None else budget
    looks = np.array([look_of(copy(scan), registrar.settings.propose) for scan in ordered])
    with closing(Tries(ordered, registrar, settings, workers, left, told)) as tries:
        plan = Plan(tries.sketches, np.array([likeness(look, looks) for look in looks]), settings)
        pairs, hard = plan.first(), False
        for _ in range(settings.rounds):
            plan.tried.update(tries.made(pairs, hard))
            world = tries.world(starts=1, seed=seed)
            told(f"{len(world.components[0])} of {len(ordered)} scans in one frame", 0.9)
            pairs, hard = plan.more(world, tries.size), False  # what may be seen at a glance
            if not pairs:  # and then what may be with every look
                pairs, hard = plan.again(world.path, {pair: tries.confidence(pair) for pair in plan.tried}), True
            if not pairs or tries.left <= 0:
                break
    world = tries.world(starts=settings.starts, seed=seed)
    return solved(world, tries.answers, ordered, order, settings)


def _telling(progress: Progress | None) -> Told:
    """Who follows is told, and may stop it."""

    def told(stage: str, done: float) -> None:
        if progress is not None and progress(stage, done) is False:
            raise Cancelled("stopped by `progress`")

    return told


def _check(scans: Sequence[Any], budget: int | None) -> None:
    if isinstance(scans, str | Path) or not isinstance(scans, Sequence | np.ndarray):
        raise InvalidInput(f"scans must be a list of clouds or paths, got {type(scans).__name__}")
    if len(scans) < 2:
        raise InvalidInput(f"there must be at least two scans to put into one frame, got {len(scans)}")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 1):
        raise InvalidConfig(f"budget must be a whole number of pairs from 1, got {budget!r}")


def _prepared(scans: Sequence[Any], registrar: Registrar, seed: int, drop_invalid: bool, told: Told) -> list[Scan]:
    """Every scan, prepared once; a complaint names it."""
    prepared = []
    for number, scan in enumerate(scans):
        told("reading", 0.1 * number / len(scans))
        name = str(scan) if isinstance(scan, str | Path) else f"scan {number}"
        try:
            prepared.append(registrar.prepare(scan, role=name, drop_invalid=drop_invalid, seed=seed))
        except InvalidCloud as error:
            raise InvalidCloud(str(error) if name in str(error) else f"{name}: {error}", role=name) from None
    if not all(math.isfinite(scan.size) and scan.size > 0 for scan in prepared):
        raise InvalidFile("a scan has no size")
    return prepared
