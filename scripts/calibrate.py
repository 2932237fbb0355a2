"""Fit the ranking of hypotheses and the confidence of the answer, one after the other, on procedural pairs.

    python scripts/calibrate.py --pairs 60 --save evidence.json

Every pair is registered. Its answer and alternatives say what tells the right hypothesis from the others (a multinomial
logistic model: `WEIGHTS` of `search/ranking.py`), and the evidence of its answer says how often such an answer is right
(a logistic model: `_INTERCEPT` and `_COEFFICIENTS` of `confidence.py`). Both are printed to be pasted. The evidence
depends on the ranking it was gathered with: where the weights of the ranking moved by much, paste them and run again.

Right means right up to the symmetry of the shape (ADD-S below .05 for shapes of radius one), or within 5 degrees and a
tenth of the cloud's size for scenes. Nothing but procedural shapes and scenes is used. What is said of calibration and
of the choice of hypotheses is measured on pairs that were left out of the fit, five-fold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from deepgmr import metrics
from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.datasets.pairs.protocols import PROTOCOLS, Crop, Disjoint, Jitter, Move, Outliers, Step, Thin, make_pairs
from deepgmr.datasets.worlds.scenes import scene_pairs
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.geometry.transform import RigidTransform, random_rotations
from deepgmr.pipeline import search
from deepgmr.pipeline.clouds import Frame
from deepgmr.pipeline.judge import Evidence, ceiling, features
from deepgmr.pipeline.refine import refine_together
from deepgmr.pipeline.registrar import register
from deepgmr.pipeline.search.ranking import WEIGHTS
from deepgmr.pipeline.surface import surfaces

Judge = Callable[[np.ndarray], bool]

ANYWHERE = Move("uniform", 180.0, "box", 0.5)
SHAPE_POINTS, SCENE_POINTS = 4096, 4096
FOLDS = 5
TERMS = tuple(WEIGHTS)


@dataclass(frozen=True)
class Seen:
    """Each cloud keeps `points` of what a distant scanner sees of it; the directions are up to two radians apart."""

    points: int
    cells: int = 24  # of the picture, a side

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        clouds: dict[str, list[torch.Tensor]] = {"source": [], "target": []}
        for i in range(len(pair)):
            facing = random_rotations((), generator=generator)  # rows: right, up, towards the scanner
            angle = torch.tensor(0.15 + 1.85 * float(torch.rand((), generator=generator)))
            towards = angle.cos() * facing[2] + angle.sin() * facing[1]
            turned = torch.stack([facing[0], torch.linalg.cross(towards, facing[0]), towards])
            for name, axes in (("source", facing), ("target", turned)):
                cloud, normals = getattr(pair, name)[i], getattr(pair, f"{name}_normals")[i]
                visible = torch.nonzero(self._visible(cloud @ axes.T, normals @ axes[2])).squeeze(-1)
                chosen = torch.randperm(len(visible), generator=generator)[torch.arange(self.points) % len(visible)]
                clouds[name].append(cloud[visible[chosen]])
        source, target = (torch.stack(rows) for rows in clouds.values())
        return replace(
            pair, source=source, target=target, source_normals=None, target_normals=None,
            source_index=None, target_index=None,
        )  # fmt: skip

    def _visible(self, cloud: torch.Tensor, slant: torch.Tensor) -> torch.Tensor:
        """Which points (n,) are turned towards the scanner and first in their cell of the picture."""
        pixel = ((cloud[:, :2] + 1) * (self.cells / 2)).long().clamp(0, self.cells - 1)
        cell = pixel[:, 0] * self.cells + pixel[:, 1]
        top = torch.full((self.cells**2,), -10.0).scatter_reduce(0, cell, cloud[:, 2], "amax")
        slope = (1 - slant.square()).clamp_min(0).sqrt() / slant.clamp_min(0.1)
        return (slant > 0.1) & (cloud[:, 2] > top[cell] - 3.0 / self.cells * slope - 0.02)


SHAPES: dict[str, tuple[Step, ...]] = {
    "clean": PROTOCOLS["clean"],
    "noisy": PROTOCOLS["noisy"],
    "resampled": PROTOCOLS["resampled"],
    "crop70": PROTOCOLS["crop70_180"],
    "crop50": PROTOCOLS["crop50_180"],
    "crop70_45": PROTOCOLS["crop70_45"],
    "crop70 resampled": (Disjoint(1024), Crop(0.7, 512, shared=0.45), ANYWHERE, Jitter()),
    "crop50 resampled": (Disjoint(1024), Crop(0.5, 384, shared=0.3), ANYWHERE, Jitter(0.005)),
    "thin": (Disjoint(1024), Crop(0.8, 700, shared=0.5), Thin(400), ANYWHERE, Jitter(0.005)),
    "outliers": (Disjoint(1024), Crop(0.8, 700, shared=0.5), ANYWHERE, Jitter(0.005), Outliers((0.0, 0.3))),
    "seen": (Disjoint(2048), Seen(900), ANYWHERE, Jitter((0.0, 0.01))),
}
SCENES = ("room", "street", "tabletop")
LIMITS = {"crop70_45": 80.0}  # degrees, told to `register`


@dataclass(frozen=True)
class Row:
    """One pair: the evidence of its answer, and the terms of the ranking for the answer and its alternatives."""

    kind: str
    evidence: Evidence
    right: bool
    terms: list[list[float]]  # (H, len(TERMS))
    rights: list[bool]  # (H,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="pairs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="keep the evidence of every pair as JSON")
    parser.add_argument("--load", type=Path, help="use evidence kept before instead of registering")
    arguments = parser.parse_args()
    if arguments.load:
        kept = json.loads(arguments.load.read_text())
        rows = [Row(**{**row, "evidence": Evidence(**row["evidence"])}) for row in kept]
    else:
        torch.set_num_threads(1)
        rows = [outcome(case) for case in cases(arguments.pairs, arguments.seed)]
    if arguments.save:
        arguments.save.write_text(json.dumps([asdict(row) for row in rows]))
    report_ranking(rows)
    report_confidence(rows)


# -- gathering -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Case:
    """One procedural pair, and how to tell whether an answer is right."""

    kind: str
    source: torch.Tensor  # (N, 3)
    target: torch.Tensor  # (M, 3)
    judge: Judge
    limit: float | None = None  # degrees, told to `register`


def cases(count: int, seed: int) -> Iterator[Case]:
    """`count` pairs of each kind."""
    for index, (kind, steps) in enumerate(SHAPES.items()):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        shapes, normals = sample_shapes(count, SHAPE_POINTS, generator=generator)
        pairs = make_pairs(shapes, steps, generator=generator, normals=normals)
        assert pairs.source_from_parent is not None
        for i in range(count):
            whole = pairs.source_from_parent[i].apply(shapes[i])
            judge = up_to_symmetry(whole, pairs.target_from_source[i])
            yield Case(kind, pairs.source[i], pairs.target[i], judge, LIMITS.get(kind))
    for index, kind in enumerate(SCENES):
        generator = torch.Generator().manual_seed(1000 * seed + 500 + index)
        pairs = scene_pairs(count, SCENE_POINTS, kind=kind, generator=generator)
        for i in range(count):
            judge = within_tolerance(pairs.source[i], pairs.target_from_source[i])
            yield Case(kind, pairs.source[i], pairs.target[i], judge)
    generator = torch.Generator().manual_seed(1000 * seed + 400)
    shapes, _ = sample_shapes(2 * count, 1800, generator=generator)
    for i in range(count):  # nothing to find: another shape, or a formless cloud
        other = shapes[count + i, :700] if i % 4 else 0.5 * torch.randn(700, 3, generator=generator)
        yield Case("unrelated", shapes[i, :700], other, lambda _: False)
    still = RigidTransform.identity(())
    for i in range(count // 4):  # two places are as good as each other: the same thing stands there twice
        turn = random_rotations((), generator=generator)
        again = shapes[i, 1200:] @ turn.T + torch.tensor([2.2, 0.0, 0.0])
        target = torch.cat([shapes[i, 600:1200], again])
        target = target + 0.005 * torch.randn(target.shape, generator=generator)
        yield Case("twice", shapes[i, :600], target, up_to_symmetry(shapes[i], still))


def outcome(case: Case) -> Row:
    """The evidence of the answer, and whether it was right."""
    answer = register(case.source, case.target, max_rotation_degrees=case.limit)
    matrices = np.stack([answer.target_from_source, *(other.target_from_source for other in answer.alternatives)])
    points = case.source.double().numpy(), case.target.double().numpy()
    frame = Frame.of(*points)
    x, y = surfaces(frame.source(points[0]).double().numpy(), frame.target(points[1]).double().numpy())
    # The answer was polished and the alternatives were not: bring all to the same stage.
    motions = refine_together(frame.enter(matrices), x, y, search.Prior())
    ranking = search.rank(motions, x, y)
    columns = {"score": ranking.scores} | {name: getattr(ranking, name) for name in TERMS if name != "score"}
    terms = torch.stack([columns[name] for name in TERMS], dim=-1).double()
    rights = [case.judge(matrix) for matrix in frame.undo(motions)]
    return Row(case.kind, answer.evidence, case.judge(matrices[0]), terms.tolist(), rights)


def up_to_symmetry(shape: torch.Tensor, truth: RigidTransform) -> Judge:
    """ADD-S below .05 of a shape (N, 3) that stands where the source does."""
    shape = shape.double()
    tree = cKDTree(truth.to(torch.float64).apply(shape).numpy())
    sample = shape[::6]
    return lambda matrix: bool(tree.query(motion(matrix).apply(sample).numpy())[0].mean() < 0.05)


def within_tolerance(cloud: torch.Tensor, truth: RigidTransform) -> Judge:
    cloud, truth = cloud.double(), truth.to(torch.float64)
    centre = cloud.mean(0)
    limit = 0.1 * (cloud - centre).square().sum(-1).mean().sqrt()

    def judge(matrix: np.ndarray) -> bool:
        found = motion(matrix)
        turned = metrics.rotation_error(found, truth) < np.radians(5)
        return bool(turned & (metrics.displacement(centre, found, truth) < limit))

    return judge


def motion(matrix: np.ndarray) -> RigidTransform:
    return RigidTransform.from_matrix(torch.from_numpy(matrix))


# -- fitting ---------------------------------------------------------------------------------------------------


def report_ranking(rows: list[Row]) -> None:
    """How often the right hypothesis comes first, with the present weights and with those fitted to other pairs."""
    open_ = [row for row in rows if any(row.rights) and not all(row.rights)]
    present, fitted = np.array(list(WEIGHTS.values())), np.zeros((FOLDS, len(TERMS)))
    for fold in range(FOLDS):
        fitted[fold] = fit_ranking([row for i, row in enumerate(open_) if i % FOLDS != fold])
    first = np.array(
        [[_right_first(row, present), _right_first(row, fitted[i % FOLDS])] for i, row in enumerate(open_)]
    )
    now, then = first.mean(0)
    print(
        f"{len(open_)} pairs with right and wrong hypotheses; the first is right in {now:.3f}, fitted anew in {then:.3f}"
    )
    weights = ", ".join(f'"{n}": {w:.1f}' for n, w in zip(TERMS, fit_ranking(open_), strict=True))
    print(f"WEIGHTS = {{{weights}}}\n")


def _right_first(row: Row, weights: np.ndarray) -> bool:
    return row.rights[int((np.array(row.terms) @ weights).argmax())]


def fit_ranking(rows: list[Row]) -> np.ndarray:
    """Multinomial logistic regression on which of a pair's hypotheses are right, slight ridge on scaled terms."""
    spread = np.concatenate([row.terms for row in rows]).std(0) + 1e-9
    most = max(len(row.rights) for row in rows)
    x, there, right = np.zeros((len(rows), most, len(TERMS))), np.zeros((len(rows), most)), np.zeros((len(rows), most))
    for i, row in enumerate(rows):
        x[i, : len(row.rights)] = np.array(row.terms) / spread
        there[i, : len(row.rights)], right[i, : len(row.rights)] = 1, row.rights

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logit = x @ w
        odds = np.exp(logit - logit.max(1, keepdims=True)) * there
        every, good = odds.sum(1), (odds * right).sum(1) + 1e-300
        pull = odds / every[:, None] - odds * right / good[:, None]
        value = np.log(every / good).mean() + 0.5e-3 * (w**2).sum()
        return value, (pull[..., None] * x).sum(1).mean(0) + 1e-3 * w

    return minimize(loss, np.zeros(len(TERMS)), jac=True).x / spread


def report_confidence(rows: list[Row]) -> None:
    x = np.array([list(features(row.evidence).values()) for row in rows])
    y = np.array([row.right for row in rows], dtype=float)
    kinds = np.array([row.kind for row in rows])
    ceilings = np.array([ceiling(row.evidence) for row in rows])
    held = np.zeros(len(rows))
    fold = np.arange(len(rows)) % FOLDS
    for left_out in range(FOLDS):
        mine = fold == left_out
        held[mine] = np.minimum(probability(x[mine], fit(x[~mine], y[~mine])), ceilings[mine])
    auc, error = quality(held, y)
    print(f"{len(rows)} pairs, held out: ROC AUC {auc:.3f}, expected calibration error {error:.3f}")
    print("| kind | right | mean confidence | calibration error |\n| --- | ---: | ---: | ---: |")
    for kind in dict.fromkeys(kinds):
        mine = kinds == kind
        print(f"| {kind} | {y[mine].mean():.3f} | {held[mine].mean():.3f} | {quality(held[mine], y[mine])[1]:.3f} |")
    weights = fit(x, y)
    names = features(rows[0].evidence)
    coefficients = ", ".join(f'"{n}": {w:.3f}' for n, w in zip(names, weights[1:], strict=True))
    print(f"\n_INTERCEPT = {weights[0]:.3f}\n_COEFFICIENTS = {{{coefficients}}}")


def quality(confidence: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    pair = torch.from_numpy(confidence), torch.from_numpy(right > 0.5)
    return float(metrics.roc_auc(*pair)), float(metrics.calibration_error(*pair))


def probability(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(weights[0] + x @ weights[1:])))


def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logistic regression with a slight ridge on standardised regressors."""
    centre, spread = x.mean(0), x.std(0) + 1e-9
    z = np.hstack([np.ones((len(x), 1)), (x - centre) / spread])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logit = z @ w
        value = np.logaddexp(0, logit).mean() - (y * logit).mean() + 0.5e-3 * (w[1:] ** 2).sum()
        gradient = z.T @ (1 / (1 + np.exp(-logit)) - y) / len(y) + 1e-3 * np.r_[0.0, w[1:]]
        return value, gradient

    w = minimize(loss, np.zeros(z.shape[1]), jac=True).x
    return np.r_[w[0] - (w[1:] * centre / spread).sum(), w[1:] / spread]


if __name__ == "__main__":
    main()
