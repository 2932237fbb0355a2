"""The numbers that a page tells in words: what speaks for and against, how precise, what was tried, how to repeat it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepgmr.geometry.transform import scale_of
from deepgmr.pipeline.judge import FEATURES, ceiling, features, logistic
from deepgmr.pipeline.settings import JudgeSettings, RankSettings
from deepgmr.plain import to_plain
from deepgmr.report.scene import Pose, Scene

BINS = 40
_WORDS = {  # of a feature of the confidence: what it asks, and the value that says nothing either way
    "standing": ("Stands apart from poses that put the shape elsewhere", "even odds"),
    "margin": ("Ahead of the best other pose", "a tie"),
    "lead": ("Far ahead of it", "a tie"),
    "log_overlap": ("Shared by both clouds", "everything shared"),
    "misfit": ("What meets, meets closely", "as close as by chance"),
    "looseness": ("So does everything within reach", "as close as by chance"),
    "relief": ("What meets has relief", "as flat as by chance"),
    "contradiction": ("Nothing fits nothing amid what fits", "nothing amiss"),
    "matched": ("Nodes meet the nodes that the network matched", "as is typical"),
    "log_observability": ("The geometry holds every direction", "as firmly as is typical"),
    "log_stray": ("Close to the initial motion", "as far as that may be off"),
}


@dataclass(frozen=True)
class Term:
    """One addend of the logit of the confidence, against the value that says nothing either way."""

    name: str
    words: str
    neutral: str
    value: str
    nats: float


def confidence_terms(scene: Scene) -> tuple[list[Term], float]:
    """The terms, and what the logit is where none of them says anything. Together they are the whole logit."""
    settings, confidence = scene.search.settings, scene.search.bundle.confidence
    found = features(scene.result.evidence, settings.judge)
    plainly = _neutral(settings.judge, settings.rank)
    values = _values(scene)
    terms = []
    for name in FEATURES:
        words, neutral = _WORDS.get(name, (name, "zero"))
        nats = confidence.weights[name] * (found[name] - plainly.get(name, 0.0))
        terms.append(Term(name, words, neutral, values.get(name, f"{found[name]:.3g}"), nats))
    base = confidence.intercept + sum(confidence.weights[name] * plainly.get(name, 0.0) for name in FEATURES)
    return sorted(terms, key=lambda term: -abs(term.nats)), base


def confidence_sum(scene: Scene) -> dict[str, float]:
    """The logit, its probability, and the ceiling that no such answer passes."""
    terms, base = confidence_terms(scene)
    logit = base + sum(term.nats for term in terms)
    return {"logit": logit, "probability": logistic(logit), "ceiling": ceiling(scene.result.evidence)}


def _neutral(judge: JudgeSettings, rank: RankSettings) -> dict[str, float]:
    def by_chance(name: str) -> float:
        return 0.5 * math.log(rank.by_chance[name])

    return {
        "standing": 0.0,
        "margin": 0.0,
        "log_overlap": math.log(1 + judge.least_overlap),
        **{name: by_chance(name) for name in ("misfit", "looseness", "relief")},
        "matched": math.log(judge.typical_matched),
        "log_observability": math.log10(judge.typical_observability),
    }


def _values(scene: Scene) -> dict[str, str]:
    evidence = scene.result.evidence
    margin = f"{evidence.margin:.1f} nats" if math.isfinite(evidence.margin) else "no other pose"
    return {
        "standing": f"{evidence.standing:.1f} nats",
        "margin": margin,
        "lead": margin,
        "log_overlap": f"{100 * min(evidence.source_overlap, evidence.target_overlap):.0f} %",
        **{name: f"{math.exp(getattr(evidence, name)):.2f} spacings" for name in ("misfit", "looseness", "relief")},
        "contradiction": f"{evidence.contradiction:.2f}",
        "matched": f"{math.exp(evidence.matched):.2f} of them",
        "log_observability": f"{evidence.observability:.2g}",
        "log_stray": f"{evidence.stray:.2f} times what it may be off" if evidence.stray else "searched for",
    }


@dataclass(frozen=True, eq=False)
class Precision:
    """One standard deviation along its own three axes, largest first: of the rotation, and of the place of the middle."""

    degrees: np.ndarray  # (3,)
    turn_axes: np.ndarray  # (3, 3), a row each, in the frame of the target
    lengths: np.ndarray  # (3,) input units
    shift_axes: np.ndarray  # (3, 3)
    shift: np.ndarray  # (3, 3) covariance of the place of the centre of the target, input units


def precision(scene: Scene) -> Precision:
    """Of the answer, about the centre of the target: about a far origin a turn would count as a shift."""
    covariance = scene.result.covariance_about(scene.target.origin)
    parts = []
    for block in (covariance[:3, :3], covariance[3:, 3:]):
        values, vectors = np.linalg.eigh((block + block.T) / 2)
        vectors = vectors * np.where(vectors[np.abs(vectors).argmax(axis=0), range(3)] < 0, -1.0, 1.0)  # one sign
        parts += [np.sqrt(np.maximum(values, 0.0))[::-1], vectors.T[::-1]]
    return Precision(np.degrees(parts[0]), parts[1], parts[2], parts[3], covariance[3:, 3:])


def histogram(pose: Pose, widest: float) -> dict[str, Any]:
    """Source places by their distance to the target: counts (BINS,) up to `widest`, and those beyond and alone."""
    gaps = pose.gaps
    counts, _ = np.histogram(gaps, bins=BINS, range=(0.0, widest))
    return {
        "counts": counts.tolist(),
        "beyond": int((gaps > widest).sum()),
        "alone": len(pose.source_gaps) - len(gaps),
        "median": float(np.median(gaps)) if len(gaps) else None,
        "rms": float(np.sqrt(np.mean(gaps**2))) if len(gaps) else None,
        "p95": float(np.quantile(gaps, 0.95)) if len(gaps) else None,
        "share": len(gaps) / len(pose.source_gaps),
    }


def widest_gap(scene: Scene) -> float:
    """Where scales of residuals end: a little beyond nearly all of the answer's, a round number."""
    gaps = scene.answer.gaps
    wanted = float(np.quantile(gaps, 0.97)) if len(gaps) else scene.reach
    wanted = min(max(wanted, 1e-4 * scene.reach), scene.reach)
    unit = 10.0 ** math.floor(math.log10(wanted)) if wanted > 0 else 1.0
    return next(float(f"{step * unit:.6g}") for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * unit >= wanted)


def degrees(matrix: np.ndarray) -> float:
    """By how much a similarity (4, 4) turns."""
    cosine = (float(np.trace(matrix[:3, :3] / scale_of(matrix))) - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))


def apart(scene: Scene, pose: Pose) -> tuple[float, float]:
    """How far (degrees, input units) a pose puts the source from where the answer does: its turn, and its middle's way."""
    turn, here, there = np.eye(4), scene.answer.motion, pose.motion
    turn[:3, :3] = here[:3, :3].T @ there[:3, :3]
    return degrees(turn), float(np.linalg.norm(there[:3, 3] - here[:3, 3]))


def looks(scene: Scene) -> Iterator[dict[str, Any]]:
    """What each look proposed, refined, and found."""
    for number, look in enumerate(scene.search.looks):
        scores = look.terms.score
        yield {
            "number": number + 1,
            "matches": sum(len(met.source) for met in scene.search.matches if met.look == number),
            "proposed": {room: len(motions.translation) for room, motions in look.proposed.items()},
            "refined": len(scores),
            "best": float(scores.max()) if len(scores) else None,
        }


def changed_settings(scene: Scene) -> dict[str, Any]:
    """The settings that are not those of the bundle, by their dotted names."""
    ours, theirs = (dict(_flat(to_plain(each))) for each in (scene.search.settings, scene.search.bundle.settings))
    return {name: value for name, value in ours.items() if theirs.get(name) != value}


def python_lines(scene: Scene) -> str:
    """Lines of Python that repeat the registration."""
    prior, changed = scene.search.prior, changed_settings(scene)
    lines = ["import deepgmr", "", 'registrar = deepgmr.Registrar.load("default")']
    lines[-1] += f"  # the bundle {scene.search.bundle.id}"
    if changed:
        lines.append(f"registrar = registrar.replace(**{changed!r})")
    options = ["trace=deepgmr.Trace()"]
    if prior.max_rotation < math.pi:
        options.append(f"max_rotation_degrees={math.degrees(prior.max_rotation):.12g}")
    if prior.initial is not None:
        options.append(f"initial={scene.search.pair.undo(prior.initial).tolist()}")
    if scene.search.stretch is not None:
        options.append("estimate_scale=True")
    pair = scene.search.pair
    for role, scan, view in zip(("source", "target"), (pair.source, pair.target), scene.search.views, strict=True):
        if view is not None:
            options.append(f"{role}_origin={((pair.scale * view.origin.numpy() + scan.origin) / scan.factor).tolist()}")
    lines += [f"result = registrar.register(source, target, {', '.join(options)})", 'result.report("report.html")']
    return "\n".join(lines)


def _flat(table: Mapping[str, Any], room: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and key != "by_chance":
            yield from _flat(value, f"{room}{key}.")
        else:
            yield f"{room}{key}", json.loads(json.dumps(value))
