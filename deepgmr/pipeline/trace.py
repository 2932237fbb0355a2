"""One registration as it goes: what was proposed, look by look, what became of it, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.answer import plain
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.judge import Evidence
from deepgmr.pipeline.propose.correlation import Turns, correlated_motions
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.propose.learned import LearnedMatches
from deepgmr.pipeline.propose.matches import Matches
from deepgmr.pipeline.rank import Terms
from deepgmr.pipeline.scan import Level, Pair
from deepgmr.pipeline.settings import LookSettings, RankSettings, Settings
from deepgmr.pipeline.stretch import Stretch
from deepgmr.pipeline.visibility import Views


class Clock:
    """Milliseconds a step; what runs within another step is counted there alone."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.milliseconds[step] = self.milliseconds.get(step, 0.0) + 1e3 * (time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class Look:
    """One look at a pair. Motions are in the frame of the pair."""

    settings: LookSettings
    proposed: dict[str, RigidTransform]  # (H,) by the room they come from
    hypotheses: RigidTransform  # (H,) those worth refining
    candidates: RigidTransform  # (H,) refined
    terms: Terms  # (H,) how the clouds meet under these
    pose: RigidTransform | None = None  # the foremost of all looks so far ...
    evidence: Evidence | None = None  # ... and what spoke for it


@dataclass(frozen=True, eq=False)
class Met:
    """The matches of one room in one look: places that may be the same one, best first. In the frame of the pair."""

    look: int  # from zero
    source: np.ndarray  # (M, 3) float64
    target: np.ndarray  # (M, 3) float64
    tolerance: float  # how much a right match may change a length

    @classmethod
    def of(cls, look: int, matches: Matches, levels: tuple[Level, Level], tolerance: float) -> Met:
        source, target = (level.points for level in levels)
        return cls(look, source[matches.source.numpy()], target[matches.target.numpy()], tolerance)


@dataclass(eq=False)
class Search:
    """All that is known of a pair so far."""

    pair: Pair
    levels: tuple[Level, Level]  # the source and the target, as they are searched
    prior: Prior
    settings: Settings
    clock: Clock
    bundle: Bundle
    views: Views = (None, None)  # of the source and the target, where their sensors' origins are known
    looks: list[Look] = field(default_factory=list)
    matches: list[Met] = field(default_factory=list)  # what the proposed motions were agreed from
    candidates: RigidTransform = field(default_factory=lambda: RigidTransform.identity((0,), dtype=torch.float64))
    terms: Terms = field(default_factory=Terms.none)  # (H,) how the clouds meet under the candidates
    finest: tuple[Level, Level] | None = None  # levels that the poses were last seen at
    least: float = 0.0  # frame units: no closer do surfaces have to meet there
    poses: RigidTransform = field(default_factory=lambda: RigidTransform.identity((0,), dtype=torch.float64))
    pose_terms: Terms = field(default_factory=Terms.none)  # (P,) how the clouds meet under the poses, at the finest
    evidence: Evidence | None = None  # for the first of the poses
    learned: LearnedMatches | None = None  # what the network says of the pair
    cell: float = 0.0  # frame units: of the grid of phase correlation, and so how far its motions may be off
    stretch: Stretch | None = None  # of the answer, where the scale is estimated ...
    share: float = 1.0  # ... and the share of the probability that the scales which were tried leave it
    overlap: float = 0.0  # share of all source components with a counterpart under the answer
    _fine: dict[int, tuple[Level, Level]] = field(default_factory=dict, repr=False)

    @cached_property
    def ranked(self) -> tuple[Level, Level]:
        """The levels that candidates are ranked at: the first that shows more than those that are searched, if any."""
        return next(self.finer(self.levels), self.levels)

    @property
    def detailed(self) -> bool:
        """Whether there is more detail than is searched."""
        return self.ranked is not self.levels

    @cached_property
    def rank(self) -> RankSettings:
        """How surfaces meet: components that are the points themselves lie as unevenly as chance has it."""
        return self.settings.rank if self.detailed else replace(self.settings.rank, stretch=1.0)

    def correlated(self, *, evident: bool) -> RigidTransform:
        """The motions (H,) of phase correlation, best first."""
        settings, levels = self.settings.correlation, self.ranked
        source, target = (level.axes[:: max(1, len(level) // settings.sampled)] for level in levels)
        turns = Turns.of(source, target, self.prior, settings, evident=evident)
        if self.detailed and (len(turns.rotations) or not evident):  # again: across a hundred metres a degree is two
            levels = self.fine(settings.components)
            source, target = (level.sampled_axes(settings.sampled) for level in levels)
            turns = Turns.of(source, target, self.prior, settings, evident=evident)
        motions, self.cell = correlated_motions(*levels, turns, settings)
        return motions

    def finer(self, levels: tuple[Level, Level]) -> Iterator[tuple[Level, Level]]:
        """Levels of more detail than these, one after the other, as long as a cloud has any."""
        settings, scans = self.settings.detail, (self.pair.source, self.pair.target)
        for components in settings.components:
            more = (min(components, len(scan.heaps)) / len(level) for scan, level in zip(scans, levels, strict=True))
            if max(more) >= settings.finer:
                levels = self.fine(components)
                yield levels

    def fine(self, components: int) -> tuple[Level, Level]:
        """Both clouds with about so many components each, or all they have."""
        if components not in self._fine:
            self._fine[components] = self.pair.fine(components, self.settings.detail.neighbours)
        return self._fine[components]


@dataclass(eq=False)
class Trace:
    """Handed to `register`, it keeps the search."""

    search: Search | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; motions in the units of the input. Empty before a registration."""
        search = self.search
        if search is None:
            return {}
        pair, undo = search.pair, search.pair.undo
        factor = pair.source.factor
        return plain(
            {
                "components": {
                    "source": (pair.scale * search.levels[0].points + pair.source.origin) / factor,
                    "target": pair.scale * search.levels[1].points + pair.target.origin,
                },
                "matches": [
                    {
                        "look": met.look,
                        "source": (pair.scale * met.source + pair.source.origin) / factor,
                        "target": pair.scale * met.target + pair.target.origin,
                        "tolerance": pair.scale * met.tolerance,
                    }
                    for met in search.matches
                ],
                "looks": [
                    {
                        "settings": vars(look.settings),
                        "proposed": {room: undo(motions) for room, motions in look.proposed.items()},
                        "hypotheses": undo(look.hypotheses),
                        "candidates": undo(look.candidates),
                        "terms": [look.terms.row(i) for i in range(len(look.terms))],
                    }
                    for look in search.looks
                ],
                "candidates": undo(search.candidates),
                "terms": [search.terms.row(i) for i in range(len(search.terms))],
                "poses": undo(search.poses),
                "pose_terms": [search.pose_terms.row(i) for i in range(len(search.pose_terms))],
                "evidence": vars(search.evidence) if search.evidence else None,
                "milliseconds": search.clock.milliseconds,
            }
        )


def joined(motions: list[RigidTransform]) -> RigidTransform:
    """All of the motions (H,) in a row, float64; there may be none."""
    parts = [RigidTransform.identity((0,)), *motions]
    return RigidTransform(
        torch.cat([motion.rotation.double() for motion in parts]),
        torch.cat([motion.translation.double() for motion in parts]),
    )
