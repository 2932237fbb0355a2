"""What becomes of a source of another scale: noticed where a rigid motion was asked for, found where a similarity was.

Procedural pairs whose source is so many times too large. Of the rigid answers: how many are trusted, and how many are
told that another scale would fit better; at a ratio of one, how often that is said of a right answer. Of the similarities,
whose scale is drawn anew for every pair from a thirtieth to thirty: how many are right, and how many are so and sure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deepgmr.datasets.pairs.kinds import Case, cases
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.geometry.transform import scale_of
from deepgmr.pipeline.answer import Registration
from deepgmr.pipeline.judge import Status
from deepgmr.pipeline.registrar import Registrar

STUDY = "scales"
MEASURED = (
    *("clean", "noisy", "resampled", "crop70 resampled", "crop50 resampled", "thin", "outliers", "seen"),
    *("recrop70", "recrop50", "room", "tabletop", "hall", "fragments", "drive"),
)
RATIOS = (1.0, 1.05, 1.1, 1.2, 1.5)
WIDEST = 30.0  # ratio of the scales that are to be estimated
RIGHT = 0.05  # how far off a scale may be
SURE = 0.9


def measure(
    *,
    pairs: int = 40,
    seed: int = 777,
    kinds: Sequence[str] = MEASURED,
    ratios: Sequence[float] = RATIOS,
    watch: Watch | None = None,
) -> Result:
    """A row a kind and ratio (`noticed`), and one a kind (`estimated`)."""
    watch, registrar = watch or Watch(), Registrar.load()
    result: Result = {
        "study": STUDY,
        "provenance": provenance(pairs=pairs, seed=seed, bundle=registrar.bundle.id),
        "noticed": [],
        "estimated": [],
    }
    for number, kind in enumerate(kinds):
        watch.progress(kind, number / len(kinds))
        drawn = list(cases(pairs, seed, kinds=(kind,)))
        for ratio in ratios:
            result["noticed"].append({"kind": kind, "ratio": ratio, **_noticed(registrar, drawn, ratio)})
        result["estimated"].append({"kind": kind, **_estimated(registrar, drawn, np.random.default_rng(seed))})
        watch.keep(result)
    return result


def _noticed(registrar: Registrar, drawn: Sequence[Case], ratio: float) -> Result:
    answers = [registrar.register(ratio * case.source.double().numpy(), case.target) for case in drawn]
    named = [answer.status is Status.OTHER_SCALE for answer in answers]
    row: Result = {
        "pairs": len(drawn),
        "trusted": float(np.mean([answer.trusted for answer in answers])),
        "sure": float(np.mean([answer.confidence > SURE for answer in answers])),
        "noticed": float(np.mean(named)),
    }
    if ratio == 1:
        right = [case.judge(answer.target_from_source) for case, answer in zip(drawn, answers, strict=True)]
        row |= {"noticed, right": float(np.mean(np.logical_and(named, right)))}
    return row


def _estimated(registrar: Registrar, drawn: Sequence[Case], rng: np.random.Generator) -> Result:
    found = list(_similar(registrar, drawn, rng))
    right = np.array([one["right"] for one in found])
    sure = np.array([one["confidence"] > SURE for one in found])
    off = np.array([one["off"] for one in found])[right]
    return {
        "pairs": len(found),
        "right": float(right.mean()),
        "wrong and sure": float((sure & ~right).mean()),
        "trusted": float(np.mean([one["trusted"] for one in found])),
        "scale off": float(np.median(off)) if len(off) else math.nan,
        "scale off, 95 %": float(np.quantile(off, 0.95)) if len(off) else math.nan,
        "seconds": float(np.median([one["seconds"] for one in found])),
    }


def _similar(registrar: Registrar, drawn: Sequence[Case], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for case in drawn:
        points, scale = case.source.double().numpy(), math.exp(rng.uniform(-math.log(WIDEST), math.log(WIDEST)))
        start = time.process_time()
        answer = registrar.register(points / scale, case.target, estimate_scale=True)
        seconds = time.process_time() - start
        off = abs(math.log(answer.scale / scale))
        yield {
            "right": off < RIGHT and case.judge(_rigid(answer, points, scale)),
            "confidence": answer.confidence,
            "trusted": answer.trusted,
            "off": off,
            "seconds": seconds,
        }


def _rigid(answer: Registration, points: np.ndarray, scale: float) -> np.ndarray:
    """The motion (4, 4) of points (N, 3) of the true scale that turns them, and moves their middle, as the answer does."""
    motion = answer.target_from_source @ np.diag([1 / scale, 1 / scale, 1 / scale, 1.0])
    middle = points.mean(axis=0)
    there = motion[:3, :3] @ middle + motion[:3, 3]
    motion[:3, :3] /= scale_of(motion)
    motion[:3, 3] = there - motion[:3, :3] @ middle
    return motion


def markdown(result: Result) -> str:
    """Both tables."""
    return f"{noticed_table(result)}\n\n{estimated_table(result)}"


def parts(result: Result) -> dict[str, Any]:
    """What a page may show of it alone."""
    return {"told": noticed_table(result), "found": estimated_table(result)}


def noticed_table(result: Result) -> str:
    """A row a kind: what is trusted, and what is noticed, at each ratio."""
    rows: dict[str, Result] = {}
    for one in result["noticed"]:
        row = rows.setdefault(one["kind"], {"kind": one["kind"]})
        row[f"trusted at {one['ratio']:g}"] = one["trusted"]
        row[f"noticed at {one['ratio']:g}"] = one["noticed"]
    return as_table(list(rows.values()), form=".2f")


def estimated_table(result: Result) -> str:
    """A row a kind: similarities."""
    return as_table(result["estimated"], {"scale off": ".4f", "scale off, 95 %": ".4f"}, form=".2f")
