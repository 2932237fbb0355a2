"""The ranking and the confidence of a bundle, fitted on procedural pairs with the Registrar that will use them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from deepgmr import __version__, metrics
from deepgmr.datasets.pairs.kinds import KINDS, MORE_KINDS, Case, cases
from deepgmr.errors import InvalidCheckpoint, InvalidConfig
from deepgmr.geometry.transform import RigidTransform, so3_exp
from deepgmr.io.checkpoint import load
from deepgmr.io.disk import check_writable, replacing, writing
from deepgmr.io.origin import commit
from deepgmr.networks.overlap import OverlapNetwork
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.judge import FEATURES, Confidence, Evidence, ceiling, features
from deepgmr.pipeline.near import fitted
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.rank import RANKED, Ranking
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.settings import JudgeSettings, Settings
from deepgmr.pipeline.trace import Clock, Search, Trace

EVERY_KIND = (*KINDS, *MORE_KINDS)
FOLDS = 5  # what is said of a fit is measured on pairs that were left out of it
# Degrees and sizes by which an initial motion is off: about and along any direction ...
INITIALS = ((2, 0.01), (5, 0.03), (10, 0.1), (20, 0.2), (60, 0.4))
# ... and those that surfaces face most, where walls still meet walls and a fit does not move.
STUCK = ((0, 0.04), (0, 0.1), (0, 0.2), (90, 0.0), (180, 0.0))
_ENDS = {1: (0.0, None), -1: (None, 0.0), 0: (None, None)}  # of weights of a sign
_PRIOR = 1.28  # pairs that the ridge on scaled regressors counts for

Progress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Ranked:
    """The candidates of a pair that were ranked at one level."""

    terms: np.ndarray  # (H, len(RANKED))
    rights: np.ndarray  # (H,) bool


@dataclass(frozen=True, eq=False)
class Outcome:
    """One pair: the evidence of its answer, and the terms of every candidate that was ranked."""

    kind: str
    evidence: Evidence
    right: bool
    detailed: bool  # whether there was more detail than is searched
    ranked: Ranked | None  # where it was decided
    earlier: tuple[Outcome, ...] = ()  # what would have been answered after each look but the last
    initials: tuple[Outcome, ...] = ()  # of initial motions that were off, fitted without a search


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was fitted to N pairs, and how well it does on those that were left out."""

    ranking: Ranking | None  # None where no pair had right and wrong candidates
    confidence: Confidence
    held: np.ndarray  # (N,) what the confidence says of pairs that it was not fitted to
    right: np.ndarray  # (N,) whether their answers are right
    kinds: np.ndarray  # (N,) of pair
    first_right: np.ndarray  # (R,) of the pairs with right and wrong candidates, whether the first is right


def calibrate(
    bundle: Bundle,
    *,
    pairs: int = 100,
    seed: int = 0,
    rounds: int = 2,
    kinds: Sequence[str] = EVERY_KIND,
    workers: int = 1,
    command: str = "",
    progress: Progress | None = None,
) -> Bundle:
    """The bundle with its ranking and its confidence fitted anew, on `pairs` pairs of each kind.

    The evidence depends on the ranking it was gathered with, so the pairs are registered again with the new one, for
    so many rounds, by so many processes. Raises `InvalidConfig` for a number of pairs, rounds or workers below one, or
    an unknown kind.
    """
    if min(pairs, rounds, workers) < 1:
        raise InvalidConfig(
            f"calibration needs at least one pair, round and worker, got {pairs}, {rounds} and {workers}"
        )
    unknown = [kind for kind in kinds if kind not in EVERY_KIND]
    if unknown:
        raise InvalidConfig(f"unknown kind of pair `{unknown[0]}`; the kinds are {', '.join(EVERY_KIND)}")
    for number in range(rounds):
        outcomes = _gathered(bundle, pairs, seed, kinds, workers, progress, number / rounds, 1 / rounds)
        last = number == rounds - 1  # the last evidence was gathered with the ranking that is kept
        bundle, table = refitted(bundle, outcomes, ranking=rounds == 1 or not last)
    told = {
        "commit": commit(),
        "pairs_a_kind": pairs,
        "seed": seed,
        "rounds": rounds,
        "command": command,
        **table,
    }
    return replace(bundle, provenance={**bundle.provenance, "version": __version__, "calibration": told}, id="")


def started(bundle: Bundle, *, network: str | Path | None = None, settings: str | Path | None = None) -> Bundle:
    """A bundle with another overlap network, or with the settings of a TOML file, before it is calibrated.

    Raises `InvalidCheckpoint` or `InvalidConfig`, naming the file.
    """
    if network is not None:
        model = load(network)
        if not isinstance(model, OverlapNetwork):
            raise InvalidCheckpoint(f"{network}: holds a {type(model).__name__}; a bundle needs an overlap network")
        provenance = {**bundle.provenance, "network": dict(getattr(model, "provenance", {}))}
        bundle = replace(bundle, network=model, provenance=provenance)
    if settings is not None:
        try:
            text = Path(settings).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"{settings}: cannot be read ({error}); give a TOML file") from None
        bundle = replace(bundle, settings=Settings.from_toml(text))
    return bundle


def _gathered(
    bundle: Bundle,
    pairs: int,
    seed: int,
    kinds: Sequence[str],
    workers: int,
    progress: Progress | None,
    start: float,
    share: float,
) -> list[Outcome]:
    """The outcomes of all pairs, kind after kind."""
    jobs = [(bundle, kind, pairs, seed) for kind in kinds]
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else None
    with pool or nullcontext():
        gathered = []
        for i, rows in enumerate(pool.map(_of_kind, jobs) if pool else map(_of_kind, jobs)):
            gathered += rows
            if progress is not None:
                progress(f"calibrating: {kinds[i]}", start + share * (i + 1) / len(jobs))
        return gathered


def _of_kind(job: tuple[Bundle, str, int, int]) -> list[Outcome]:
    bundle, kind, pairs, seed = job
    registrar = Registrar(bundle)
    rng = np.random.default_rng([seed, *kind.encode()])
    return [outcome(registrar, case, rng) for case in cases(pairs, seed, kinds=[kind])]


def outcome(registrar: Registrar, case: Case, rng: np.random.Generator) -> Outcome:
    """Register a pair, and judge its answer, every candidate on the way to it, and what becomes of it if disturbed."""
    trace = Trace()
    answer = registrar.register(case.source, case.target, max_rotation_degrees=case.max_rotation_degrees, trace=trace)
    search = trace.search
    assert search is not None
    motions, terms = (search.poses, search.pose_terms) if search.detailed else (search.candidates, search.terms)
    right = case.judge(answer.target_from_source)
    return Outcome(
        case.kind,
        answer.evidence,
        right,
        search.detailed,
        Ranked(
            torch.stack([getattr(terms, name) for name in RANKED], dim=-1).double().numpy(),
            np.array([case.judge(matrix) for matrix in search.pair.undo(motions)]),
        ),
        tuple(_earlier(search, case)),
        tuple(_initials(search, case, rng)) if right else (),
    )


def _earlier(search: Search, case: Case) -> Iterator[Outcome]:
    for look in search.looks[:-1]:
        assert look.pose is not None and look.evidence is not None
        yield Outcome(case.kind, look.evidence, case.judge(search.pair.undo(look.pose)), search.detailed, None)


def _initials(search: Search, case: Case, rng: np.random.Generator) -> Iterator[Outcome]:
    """What becomes of a right answer if it is off by a little or a lot, and fitted."""
    answer, levels = search.poses[0], search.levels
    centre = answer.apply(levels[0].means.double().mean(0, keepdim=True))[0]
    faced = torch.from_numpy(np.linalg.eigh(levels[1].axes.T @ levels[1].axes)[1].T.copy())
    for degrees, distance in (*INITIALS, *STUCK):
        turn, shift = (torch.from_numpy(rng.normal(size=3)) for _ in range(2))
        if (degrees, distance) in STUCK:
            turn, shift = faced[rng.integers(3)], faced[rng.integers(3)]
        rotation = so3_exp(math.radians(degrees) * turn / turn.norm())
        off = RigidTransform(rotation, centre - rotation @ centre + distance * shift / shift.norm())
        prior = Prior(off @ answer, reach=search.settings.initial.reach)
        polished, evidence = fitted(replace(search, prior=prior, clock=Clock()))
        judged = case.judge(search.pair.undo(polished.target_from_source))
        yield Outcome(case.kind, evidence, judged, search.detailed, None)


def refitted(bundle: Bundle, outcomes: Sequence[Outcome], *, ranking: bool = True) -> tuple[Bundle, dict[str, Any]]:
    """The bundle with the models fitted anew, the ranking only if `ranking`, and what the card says of them.

    Pairs with more detail than is searched have models of their own; where there is no such pair, those stay.
    """
    fits = {}
    for detailed, prefix in ((False, ""), (True, "detailed_")):
        rows = [row for row in outcomes if row.detailed is detailed]
        if not rows:
            continue
        fits[detailed] = found = fit(rows, bundle.settings.judge)
        changes: dict[str, Any] = {f"{prefix}confidence": found.confidence}
        if ranking and found.ranking is not None:
            changes[f"{prefix}ranking"] = found.ranking
        bundle = replace(bundle, **changes)
    initials = [row for pair in outcomes for row in pair.initials]
    if initials:
        told = fit(initials, bundle.settings.judge)
        bundle = replace(bundle, initial_confidence=told.confidence)
    held = np.concatenate([found.held for found in fits.values()])
    right = np.concatenate([found.right for found in fits.values()])
    kinds = np.concatenate([found.kinds for found in fits.values()])
    ranked = [found.first_right for found in fits.values()]
    first = np.concatenate(ranked) if ranked else np.zeros(0)
    return bundle, {
        "ranked": {"pairs": len(first), "first_right": float(first.mean()) if len(first) else None},
        "all": _quality(held, right),
        "initial": _quality(told.held, told.right) if initials else None,
        "kinds": {kind: _quality(held[kinds == kind], right[kinds == kind]) for kind in dict.fromkeys(kinds.tolist())},
    }


def fit(outcomes: Sequence[Outcome], settings: JudgeSettings) -> Calibration:
    """Both models, and what they are worth on pairs that were left out of the fit.

    The confidence says when to stop, too, so it is fitted to what would have been answered after every look.
    """
    ranked = (pair.ranked for pair in outcomes)
    open_ = [row for row in ranked if row is not None and row.rights.any() and not row.rights.all()]
    rows = [*outcomes, *(early for row in outcomes for early in row.earlier)]
    fold = np.array([*range(len(outcomes)), *(i for i, row in enumerate(outcomes) for _ in row.earlier)]) % FOLDS
    x = np.array([[features(row.evidence, settings)[name] for name in FEATURES] for row in rows])
    y = np.array([row.right for row in rows], dtype=float)
    ceilings = np.array([ceiling(row.evidence) for row in rows])
    held, signs = np.zeros(len(rows)), list(FEATURES.values())
    for left_out in range(FOLDS):
        mine = fold == left_out
        if mine.any() and not mine.all():
            weights = fit_logistic(x[~mine], y[~mine], signs)
            held[mine] = np.minimum(_logistic(weights[0] + x[mine] @ weights[1:]), ceilings[mine])
    weights = fit_logistic(x, y, signs)
    return Calibration(
        Ranking(dict(zip(RANKED, fit_ranking(open_).tolist(), strict=True))) if open_ else None,
        Confidence(float(weights[0]), dict(zip(FEATURES, weights[1:].tolist(), strict=True))),
        held[: len(outcomes)],
        y[: len(outcomes)],
        np.array([row.kind for row in outcomes]),
        _first_right(open_) if open_ else np.zeros(0),
    )


def fit_ranking(rows: Sequence[Ranked]) -> np.ndarray:
    """Weights (len(RANKED),) of a multinomial logistic regression on which of a pair's candidates are right.

    A weight is of its sign in `RANKED`, or zero, as in `fit_logistic`.
    """
    if not rows:
        raise InvalidConfig("no pair had right and wrong candidates, so there is nothing to rank; give more pairs")
    spread = np.concatenate([row.terms for row in rows]).std(0) + 1e-9
    most, ridge = max(len(row.rights) for row in rows), _PRIOR / len(rows)
    x, there, right = np.zeros((len(rows), most, len(RANKED))), np.zeros((len(rows), most)), np.zeros((len(rows), most))
    for i, row in enumerate(rows):
        x[i, : len(row.rights)] = row.terms / spread
        there[i, : len(row.rights)], right[i, : len(row.rights)] = 1, row.rights

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logit = np.where(there > 0, x @ w, -np.inf)
        odds = np.exp(logit - logit.max(1, keepdims=True))
        every, good = odds.sum(1), (odds * right).sum(1) + 1e-300
        pull = odds / every[:, None] - odds * right / good[:, None]
        value = np.log(every / good).mean() + 0.5 * ridge * (w**2).sum()
        return value, (pull[..., None] * x).sum(1).mean(0) + ridge * w

    bounds = [_ENDS[sign] for sign in RANKED.values()]
    return minimize(loss, np.zeros(len(RANKED)), jac=True, method="L-BFGS-B", bounds=bounds).x / spread


def fit_logistic(x: np.ndarray, y: np.ndarray, signs: Sequence[int] | None = None) -> np.ndarray:
    """Intercept and weights (1 + F,) of a logistic regression of y (N,) on x (N, F), slight ridge on scaled ones.

    A weight is of its sign in `signs` (F,), +1 or -1, or zero; with a few hundred pairs, noise would turn some round.
    """
    centre, spread = x.mean(0), x.std(0)
    spread[spread < 1e-6] = np.inf  # what never changes says nothing
    z, ridge = np.hstack([np.ones((len(x), 1)), (x - centre) / spread]), _PRIOR / len(x)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logit = z @ w
        value = np.logaddexp(0, logit).mean() - (y * logit).mean() + 0.5 * ridge * (w[1:] ** 2).sum()
        gradient = z.T @ (_logistic(logit) - y) / len(y) + ridge * np.r_[0.0, w[1:]]
        return value, gradient

    bounds = [_ENDS[sign] for sign in (0, *(signs or [0] * x.shape[1]))]
    w = minimize(loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return np.r_[w[0] - (w[1:] * centre / spread).sum(), w[1:] / spread]


def place(folder: str | Path, name: str) -> Path:
    """Where a bundle of a name goes in a folder, which is made; raises `InvalidFile` if it cannot be written there."""
    path = Path(folder) / f"{name}.safetensors"
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    check_writable(path)
    return path


def write(folder: str | Path, bundle: Bundle, *, name: str = "default") -> Path:
    """Write the bundle and its card into a folder; returns the path of the bundle."""
    path = place(folder, name)
    bundle.save(path)
    with replacing(path.with_suffix(".md")) as stream:
        stream.write(card(Bundle.load(path), name).encode())
    return path


def card(bundle: Bundle, name: str) -> str:
    """What a bundle is, and how good, in words and tables (Markdown)."""
    told = bundle.provenance["calibration"]
    network = bundle.provenance.get("network", {})
    numbers = {
        "bundle": bundle.id,
        "deepgmr": f"{bundle.provenance.get('version', '')}, commit {told.get('commit') or '-'}",
        "network": ", ".join(f"{key} {network[key]}" for key in ("steps", "pairs", "commit") if key in network) or "-",
        "calibration": f"{told['pairs_a_kind']} procedural pairs of each kind, seed {told['seed']}, "
        f"{told['rounds']} rounds",
        "command": f"`{told['command']}`",
        "ranking": _told(bundle.ranking.weights),
        "confidence": f"{bundle.confidence.intercept:.3g}, {_told(bundle.confidence.weights)}",
        "ranking, detailed": _told(bundle.detailed_ranking.weights),
        "confidence, initial": f"{bundle.initial_confidence.intercept:.3g}, {_told(bundle.initial_confidence.weights)}",
        "confidence, detailed": f"{bundle.detailed_confidence.intercept:.3g}, "
        f"{_told(bundle.detailed_confidence.weights)}",
    }
    rows = {**told["kinds"], "all": told["all"]}
    columns = ("pairs", "right", "confidence", "ECE", "AUC", "wrong and sure")
    lines = [
        f"# {name}",
        "",
        "Settings, overlap network, ranking and confidence of `deepgmr.register`, fitted together. Procedural pairs only.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in numbers.items()),
        "",
        f"Of {told['ranked']['pairs']} pairs with right and wrong candidates the first is right in "
        f"{_cell(told['ranked']['first_right'])}. The confidence on pairs left out of its fit, {FOLDS} folds; wrong and "
        f"sure is the share of answers above {metrics.SURE} that are wrong:",
        "",
        "| kind | " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * len(columns),
        *(f"| {kind} | " + " | ".join(_cell(row[column]) for column in columns) + " |" for kind, row in rows.items()),
        "",
    ]
    return "\n".join(lines)


def _told(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.3g}" for key, value in weights.items())


def _first_right(rows: Sequence[Ranked]) -> np.ndarray:
    """Whether (R,) the first of a pair's candidates is right, by weights fitted to other pairs."""
    right = []
    for left_out in range(FOLDS):
        rest = [row for i, row in enumerate(rows) if i % FOLDS != left_out] or list(rows)
        weights = fit_ranking(rest)
        mine = [row for i, row in enumerate(rows) if i % FOLDS == left_out]
        right += [bool(row.rights[int((row.terms @ weights).argmax())]) for row in mine]
    return np.array(right)


def _quality(confidence: np.ndarray, right: np.ndarray) -> dict[str, float | None]:
    pair = torch.from_numpy(confidence), torch.from_numpy(right > 0.5)
    auc = float(metrics.roc_auc(*pair))
    return {
        "pairs": len(right),
        "right": float(right.mean()),
        "confidence": float(confidence.mean()),
        "ECE": float(metrics.calibration_error(*pair)),
        "AUC": None if np.isnan(auc) else auc,
        "wrong and sure": float(metrics.wrong_and_sure(*pair)),
    }


def _cell(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
