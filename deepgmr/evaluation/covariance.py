"""Whether the stated covariance is true: squared Mahalanobis errors of right answers, and coverage of the ellipsoid.

With a true covariance the squares follow chi-squared with 6 degrees of freedom: their mean is 6, and 95 % of them lie
below 12.59, within the ellipsoid of 95 %. Fewer degrees where a direction is free: what is not known cannot be wrong.
An answer whose points lie further from where they belong than the points lie apart is in another minimum of the fit. No
residual shows that, and whether it may be so is what the confidence says: such answers are counted, and not among these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepgmr.datasets.pairs.kinds import KINDS, MORE_KINDS, cases, within_tolerance
from deepgmr.datasets.suites.named import read_named
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.answer import Registration
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.settings import LookSettings
from deepgmr.plain import to_plain

STUDY = "covariance"
WITHIN = 12.591587  # of chi-squared with 6 degrees of freedom 95 % lie below
MEASURED = tuple(kind for kind in (*KINDS, *MORE_KINDS) if kind not in ("unrelated", "twice", "shelves"))
APART = 1.5  # spacings of the source beyond which an answer is in another minimum
_POINTS = 6_000  # of the source that say so, as many as are fitted
FAR = np.radians(15.0)  # beyond it an answer is right by a symmetry, and its error is not that of a fit
_LOOK = to_plain(LookSettings(refined=1))


@dataclass(frozen=True, eq=False)
class Pair:
    """Two clouds, the motion between them, and how to tell whether an answer is right."""

    kind: str
    source: np.ndarray  # (N, 3)
    target: np.ndarray  # (M, 3)
    truth: np.ndarray  # (4, 4)
    judge: Any


def measure(
    *,
    pairs: int = 100,
    seed: int = 777,
    kinds: Sequence[str] = MEASURED,
    files: Sequence[str | Path] = (),
    search: bool = False,
    watch: Watch | None = None,
) -> Result:
    """A row a kind and a file, each of at most so many pairs.

    Without `search` a registration starts within 1.5 degrees and a hundredth of the size of the truth: what is measured
    is the covariance of the fit, whatever its confidence, and not the search.
    """
    watch = watch or Watch()
    registrar = Registrar.load()
    if not search:
        registrar = registrar.replace(**{"initial.clear": 1e-9, "search.looks": [_LOOK], "search.detailed": [_LOOK]})
    told = provenance(pairs=pairs, seed=seed, search=search)
    result: Result = {"study": STUDY, "provenance": told, "kinds": []}
    names: list[str] = [*kinds, *map(str, files)]
    for number, name in enumerate(names):
        watch.progress(name, number / len(names))
        drawn = _drawn(name, pairs, seed) if number < len(kinds) else _read(name, pairs)
        found = [_answered(registrar, pair, [seed, i], search) for i, pair in enumerate(drawn)]
        result["kinds"].append(summary(Path(name).name, found))
        watch.keep(result)
    return result


def markdown(result: Result) -> str:
    """The table of kinds."""
    formats = {"mean": ".1f", "median": ".1f", "within 95 %": ".2f", "free": ".2f", "elsewhere": ".2f"}
    return as_table(result["kinds"], formats)


def merged(results: Sequence[Result]) -> Result:
    """Several runs as one: the rows of all of them, with the provenance of the first."""
    return results[0] | {"kinds": [row for result in results for row in result["kinds"]]}


@dataclass(frozen=True)
class Found:
    """A right answer."""

    square: float  # its squared Mahalanobis error
    free: bool  # a direction is
    elsewhere: bool  # in another minimum of the fit


def summary(kind: str, found: Sequence[Found | None]) -> Result:
    """Of the answers to pairs of a kind; None for one that is not right."""
    right = [one for one in found if one is not None]
    values = np.array([one.square for one in right if not one.elsewhere])
    row: Result = {"kind": kind, "pairs": len(found), "right": len(right)}
    if len(values):
        row |= {
            "mean": float(values.mean()),
            "median": float(np.median(values)),
            "within 95 %": float(np.mean(values <= WITHIN)),
            "free": float(np.mean([one.free for one in right])),
            "elsewhere": float(np.mean([one.elsewhere for one in right])),
        }
    return row


def mahalanobis(answer: Registration, truth: np.ndarray) -> float:
    """The squared error of an answer against the true motion (4, 4), in the covariance it states."""
    assert answer.precision is not None
    twist = error_about(answer.precision.centre, answer.target_from_source, truth)
    return float(twist @ np.linalg.solve(answer.precision.covariance, twist))


def error_about(centre: np.ndarray, found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The twist (6,) about a point (3,) of the target whose exponential takes the motion found to the true one."""
    apart = truth @ np.linalg.inv(found)
    left, _, right = np.linalg.svd(apart[:3, :3])
    moved = apart[:3, :3] @ centre + apart[:3, 3] - centre
    motion = RigidTransform(torch.from_numpy(left @ right), torch.from_numpy(moved))
    return motion.log().numpy()


def elsewhere(source: np.ndarray, found: np.ndarray, truth: np.ndarray) -> bool:
    """Whether the points (N, 3) lie further from where they belong than they lie apart: to slide on a surface is not to."""
    points = np.random.default_rng(0).permutation(source)[:_POINTS]
    tree = cKDTree(points @ truth[:3, :3].T + truth[:3, 3])
    spacing = np.median(tree.query(tree.data, 2)[0][:, 1])
    return bool(tree.query(points @ found[:3, :3].T + found[:3, 3])[0].mean() > APART * spacing)


def _answered(registrar: Registrar, pair: Pair, seed: list[int], search: bool) -> Found | None:
    start = None if search else _nudged(pair, np.random.default_rng(seed))
    answer = registrar.register(pair.source, pair.target, initial=start)
    free, motion = bool(answer.free_directions), answer.target_from_source
    turned = Rotation.from_matrix((pair.truth @ np.linalg.inv(motion))[:3, :3]).magnitude()
    if not pair.judge(motion) or (turned > FAR and not free):
        return None
    return Found(mahalanobis(answer, pair.truth), free, elsewhere(pair.source, motion, pair.truth))


def _nudged(pair: Pair, rng: np.random.Generator) -> np.ndarray:
    """The truth, 1.5 degrees and a hundredth of the size off: standard deviations."""
    spread = pair.source - pair.source.mean(axis=0)
    centre = pair.truth[:3, :3] @ pair.source.mean(axis=0) + pair.truth[:3, 3]
    nudge = np.eye(4)
    nudge[:3, :3] = Rotation.from_rotvec(np.radians(1.5) * rng.normal(size=3) / np.sqrt(3)).as_matrix()
    shift = 0.02 * np.sqrt(np.square(spread).sum(axis=1).mean()) * rng.normal(size=3) / np.sqrt(3)
    nudge[:3, 3] = centre - nudge[:3, :3] @ centre + shift
    return nudge @ pair.truth


def _drawn(kind: str, pairs: int, seed: int) -> Iterator[Pair]:
    for case in cases(pairs, seed, kinds=(kind,)):
        assert case.target_from_source is not None
        yield Pair(kind, case.source.numpy(), case.target.numpy(), case.target_from_source, case.judge)


def _read(path: str, pairs: int) -> Iterable[Pair]:
    suite = read_named(path)
    for i in range(min(pairs, len(suite))):
        source, truth = np.asarray(suite.sources[i]), suite.transforms[i]
        told = suite.tolerance_degrees, suite.tolerance_translation
        limits = {name: float(v[i]) for name, v in zip(("degrees", "metres"), told, strict=True) if v is not None}
        judge = within_tolerance(torch.as_tensor(source), RigidTransform.from_matrix(torch.from_numpy(truth)), **limits)
        yield Pair(suite.name, source, np.asarray(suite.targets[i]), truth, judge)
