"""Fit the confidence: register procedural pairs, regress success on the evidence, print coefficients and calibration.

    python scripts/calibrate.py --pairs 100

Nothing but procedural shapes and scenes is used. Half of the pairs fit, the other half measure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize

from deepgmr import metrics
from deepgmr.confidence import Evidence, features
from deepgmr.datasets.pairs import PROTOCOLS, Crop, Disjoint, Jitter, Move, Outliers, Thin, make_pairs
from deepgmr.datasets.scenes import KINDS, scene_pairs
from deepgmr.datasets.shapes import sample_shapes
from deepgmr.registration import register
from deepgmr.transform import RigidTransform

ANYWHERE = Move("uniform", 180.0, "box", 0.5)
SHAPES = {
    "noisy": PROTOCOLS["noisy"],
    "resampled": PROTOCOLS["resampled"],
    "crop70": PROTOCOLS["crop70_180"],
    "crop50": PROTOCOLS["crop50_180"],
    "crop70 resampled": (Disjoint(1024), Crop(0.7, 512, shared=0.45), ANYWHERE, Jitter()),
    "crop50 resampled": (Disjoint(1024), Crop(0.5, 384, shared=0.3), ANYWHERE, Jitter(0.005)),
    "thin": (Disjoint(1024), Crop(0.8, 700, shared=0.5), Thin(400), ANYWHERE, Jitter(0.005)),
    "outliers": (Disjoint(1024), Crop(0.8, 700, shared=0.5), ANYWHERE, Jitter(0.005), Outliers((0.0, 0.3))),
}
SCENE_POINTS = 4096
Row = tuple[str, Evidence, bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="pairs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="keep the evidence of every pair as JSON")
    parser.add_argument("--load", type=Path, help="use evidence kept before instead of registering")
    arguments = parser.parse_args()
    if arguments.load:
        rows = [(kind, Evidence(**e), right) for kind, e, right in json.loads(arguments.load.read_text())]
    else:
        rows = list(outcomes(arguments.pairs, arguments.seed))
    if arguments.save:
        arguments.save.write_text(json.dumps([(kind, vars(e), right) for kind, e, right in rows]))
    report(rows)


def outcomes(count: int, seed: int) -> Iterator[Row]:
    """The evidence of every answer, and whether it was right."""
    for index, (kind, steps) in enumerate(SHAPES.items()):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        shapes, _ = sample_shapes(count, 2048, generator=generator)
        pairs = make_pairs(shapes, steps, generator=generator)
        for i in range(count):
            answer = register(pairs.source[i], pairs.target[i])
            found, truth = motion(answer.target_from_source), pairs.target_from_source[i].to(torch.float64)
            distance = metrics.symmetric_distance(shapes[i].double()[::2], found, truth)
            yield kind, answer.evidence, bool(distance < 0.05)
    generator = torch.Generator().manual_seed(1000 * seed + 400)
    shapes, _ = sample_shapes(2 * count, 700, generator=generator)
    for i in range(count):  # nothing to find: another shape, or a formless cloud
        other = shapes[count + i] if i % 4 else 0.5 * torch.randn(700, 3, generator=generator)
        yield "unrelated", register(shapes[i], other).evidence, False
    for index, kind in enumerate(KINDS):
        generator = torch.Generator().manual_seed(1000 * seed + 500 + index)
        pairs = scene_pairs(count, SCENE_POINTS, kind=kind, generator=generator)
        for i in range(count):
            answer = register(pairs.source[i], pairs.target[i])
            found, truth = motion(answer.target_from_source), pairs.target_from_source[i].to(torch.float64)
            cloud = pairs.source[i].double()
            size = (cloud - cloud.mean(0)).square().sum(-1).mean().sqrt()
            turned = metrics.rotation_error(found, truth) < np.radians(5)
            yield kind, answer.evidence, bool(turned & (metrics.displacement(cloud.mean(0), found, truth) < 0.1 * size))


def motion(matrix: np.ndarray) -> RigidTransform:
    return RigidTransform.from_matrix(torch.from_numpy(matrix))


def report(rows: list[Row]) -> None:
    x = np.array([list(features(e).values()) for _, e, _ in rows])
    y = np.array([right for _, _, right in rows], dtype=float)
    kinds = np.array([kind for kind, _, _ in rows])
    fitting = np.arange(len(rows)) % 2 == 0
    weights = fit(x[fitting], y[fitting])
    held = torch.from_numpy(probability(x[~fitting], weights)), torch.from_numpy(y[~fitting] > 0.5)
    print(f"{len(rows)} pairs, held-out half: AUC {float(metrics.roc_auc(*held)):.3f}, ", end="")
    print(f"expected calibration error {float(metrics.calibration_error(*held)):.3f}")
    print("| kind | right | mean confidence |\n| --- | ---: | ---: |")
    for kind in dict.fromkeys(kinds):
        mine = (kinds == kind) & ~fitting
        print(f"| {kind} | {y[mine].mean():.3f} | {probability(x[mine], weights).mean():.3f} |")
    weights = fit(x, y)
    print(f"\n_INTERCEPT = {weights[0]:.3f}")
    print(
        "_COEFFICIENTS = {"
        + ", ".join(f'"{n}": {w:.3f}' for n, w in zip(features(rows[0][1]), weights[1:], strict=True))
        + "}"
    )


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
