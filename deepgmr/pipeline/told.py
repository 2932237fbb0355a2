"""The answer, in the units and the frames of the input, with what is to be said of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.answer import Alternative, Registration, Stats
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.clouds import size_note, unit_names
from deepgmr.pipeline.judge import Status
from deepgmr.pipeline.polish import Polished
from deepgmr.pipeline.precision import Precision
from deepgmr.pipeline.scan import Scan
from deepgmr.pipeline.trace import Search

_OTHER_FRONT_END = (
    "the settings under `scan` are not those of the bundle: neither its network nor its confidence was made for them"
)
_CHECKED = "the initial motion fits: it was refined, and nothing else was searched for"
_NOT_CHECKED = "the initial motion does not fit well enough to be relied on: other motions were searched for, too"


def told(search: Search, answer: Polished, status: Status, confidence: float, bundle: Bundle) -> Registration:
    """The answer that a search has come to, by a bundle."""
    evidence = search.evidence
    assert evidence is not None
    pair, settings = search.pair, search.settings
    rivals = slice(1, settings.judge.rivals + 1)
    others = zip(pair.undo(search.poses[rivals]), search.pose_terms.score[rivals].tolist(), strict=True)
    units = size_note(pair.size_ratio, settings.judge, doubtful=status is not Status.OK)
    precision = Precision.of(answer.uncertainty, search.stretch, scale=pair.scale, origin=pair.target.origin)
    motion, factor = answer.target_from_source, 1.0
    if search.stretch is not None:
        motion = RigidTransform.from_matrix(torch.from_numpy(search.stretch.matrix))
        factor = search.stretch.factor
    scale = pair.source.factor * factor
    return Registration(
        target_from_source=pair.undo(motion, factor),
        confidence=confidence,
        covariance=precision.about(np.zeros(3)),
        overlap=search.overlap,
        status=status,
        sentence=status.sentence if units is None or status is Status.OK else units,
        score=evidence.score,
        evidence=evidence,
        scale=scale,
        scale_deviation=precision.scale_deviation,
        precision=precision,
        stats=Stats(
            looks=len(search.looks),
            hypotheses=len(search.terms),
            components=(len(search.levels[0]), len(search.levels[1])),
            milliseconds=search.clock.milliseconds,
            bundle=bundle.id,
        ),
        alternatives=tuple(Alternative(matrix, score) for matrix, score in others),
        sketch=_sketch(search, answer.target_from_source),
        notes=(
            *([units] if units else []),
            *([] if search.prior.initial is None else [_CHECKED if not search.looks else _NOT_CHECKED]),
            *_scale_notes(scale if search.stretch is not None else None, evidence.scale, settings.scale.named),
            *_notes(source=pair.source, target=pair.target),
            *([] if settings.scan == bundle.settings.scan else [_OTHER_FRONT_END]),
        ),
    )


def _scale_notes(estimated: float | None, better: float, within: float) -> Iterator[str]:
    """What the scale of the source is, if it was estimated, or should be; with the units that differ by it."""
    factor = better if estimated is None else estimated
    if factor == 1:
        return
    names = unit_names(factor, within)
    said = (
        "would fit better about {} times as large" if estimated is None else "is about {} times as large in the target"
    )
    yield f"the source {said.format(f'{factor:.3g}')}{f' ({names}?)' if names else ''}"


def _sketch(search: Search, motion: RigidTransform) -> tuple[np.ndarray, np.ndarray]:
    """The components of the moved source (J, 3) and of the target (K, 3), float32."""
    source, target = (level.means for level in search.levels)
    return motion.to(source.dtype).apply(source).numpy(), target.numpy()


def _notes(**scans: Scan) -> Iterator[str]:
    """What was odd about the clouds."""
    for role, scan in scans.items():
        if scan.far:
            yield f"{scan.far:,} points of the {role} lie far outside the rest and were left out"
        if scan.coarse is not None:
            yield (
                f"the coordinates of the {role} come in steps of {scan.coarse:g}, all that float32 keeps so far from the "
                "origin; subtract an offset in double precision before storing them as float32"
            )
