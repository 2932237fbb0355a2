"""What each choice buys: short trainings of equal length, and the 2020 solver against ours on one trained network.

    python scripts/ablation.py --data ModelNet40/ --suite modelnet_noisy.h5 --steps 200

Prints Markdown tables; `--json FILE` keeps the numbers. Every row changes one thing of the first row.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgmr import metrics
from deepgmr.datasets.suites.fixed import PairSuite, read_suite
from deepgmr.geometry.procrustes import nearest_rotation
from deepgmr.geometry.transform import RigidTransform
from deepgmr.io import checkpoint
from deepgmr.mixture import GaussianMixture
from deepgmr.mixture.solver import solve_rigid
from deepgmr.networks import PRESETS as NETWORKS
from deepgmr.networks import DeepGMR
from deepgmr.training import DEEPGMR_PRESETS, PairTask, TrainingConfig, train


def rows(base: TrainingConfig) -> dict[str, TrainingConfig]:
    """The trainings by the name of what they change."""
    network = base.network
    changed = {"moments, J = 32, mean distance (base)": base}
    for features in ("rri", "xyz", "tnet"):
        changed[f"features: {features}"] = replace(base, network=replace(network, features=features))
    ordered = replace(network, features="rri", order="distance")
    changed["features: rri, in the order of the 2020 code"] = replace(base, network=ordered)
    for components in (8, 16, 64):
        changed[f"J = {components}"] = replace(base, network=replace(network, components=components))
    changed["no landmarks"] = replace(base, network=replace(network, landmarks=0))
    changed["loss: pose (the paper's)"] = replace(base, losses={"pose": 1.0})
    changed["loss: KL (same index, both ways)"] = replace(base, losses={"kl_symmetric": 1.0})
    changed["loss: pose + KL"] = replace(base, losses={"pose": 1.0, "kl_symmetric": 0.1})
    changed["loss: mean distance + KL"] = replace(base, losses={"distance": 1.0, "kl_symmetric": 0.1})
    changed["the paper's network, features and loss"] = replace(base, network=NETWORKS["paper"], losses={"pose": 1.0})
    return changed


@torch.no_grad()
def measure(model: DeepGMR, suite: PairSuite) -> dict[str, float]:
    """Mean distance and recall of the network alone on a suite."""
    errors = []
    for source, target, truth in zip(suite.sources, suite.targets, suite.transforms, strict=True):
        points = torch.as_tensor(source).float()
        answer = model(points[None], torch.as_tensor(target).float()[None]).motion[0]
        errors.append(
            metrics.mean_point_distance(
                points, answer, RigidTransform.from_matrix(torch.as_tensor(truth)).to(points.dtype)
            )
        )
    error = torch.stack(errors)
    return {
        "mean distance": float(error.mean()),
        "recall@.2": float(metrics.recall(error, 0.2)),
        "recall@.05": float(metrics.recall(error, 0.05)),
    }


def solve_as_released(source: GaussianMixture, target: GaussianMixture) -> RigidTransform:
    """The 2020 code: centroids weighted by pi alone, the cross-covariance by pi / sigma^2, sigma^2 the whole trace."""
    pi = source.weights.unsqueeze(-1)
    source_centre, target_centre = ((pi * m.means).sum(-2, keepdim=True) for m in (source, target))
    weight = pi / (3 * target.variances).unsqueeze(-1)
    cross = (target.means - target_centre).mT @ (weight * (source.means - source_centre))
    rotation = nearest_rotation(cross)
    translation = target_centre.squeeze(-2) - (rotation @ source_centre.mT).squeeze(-1)
    return RigidTransform(rotation, translation)


def objective(source: GaussianMixture, target: GaussianMixture, motion: RigidTransform) -> Tensor:
    """What both solvers say they minimise (B): sum_j pi_j / sigma_j^2 |R mu_j + t - nu_j|^2."""
    weight = source.weights / target.variances
    return (weight * (motion.apply(source.means) - target.means).square().sum(-1)).sum(-1)


@torch.no_grad()
def compare_solvers(model: DeepGMR, suite: PairSuite, *, sigma: float, seed: int = 0) -> dict[str, float]:
    """Both solvers on the mixtures of one trained network, the clean shapes of a suite under fresh noise."""
    generator = torch.Generator().manual_seed(seed)
    cost: list[float] = []
    moved: list[list[float]] = []
    ours: list[float] = []
    released: list[float] = []
    for source, transform in zip(suite.sources, suite.transforms, strict=True):
        points = torch.as_tensor(source).double()
        truth = RigidTransform.from_matrix(torch.as_tensor(transform).double())
        pair = [points, truth.apply(points)]
        noisy = [
            (c + (sigma * torch.randn(c.shape, generator=generator, dtype=c.dtype)).clamp(-5 * sigma, 5 * sigma))[None]
            for c in pair
        ]
        prediction = model(noisy[0], noisy[1])
        p, q = prediction.source_mixture, prediction.target_mixture
        answers = [solve_rigid(p, q).target_from_source, solve_as_released(p, q)]
        values = [float(objective(p, q, answer)) for answer in answers]
        cost.append(values[1] / values[0])
        for answer, distances in zip(answers, (ours, released), strict=True):
            distances.append(float(metrics.mean_point_distance(points, answer[0], truth)))
        moved.append([float(metrics.displacement(points.mean(0), answer[0], truth)) for answer in answers])
    shifts = np.array(moved)
    return {
        "cost ratio (median)": float(np.median(cost)),
        "mean distance, ours": float(np.mean(ours)),
        "mean distance, 2020": float(np.mean(released)),
        "centroid error, ours": float(shifts[:, 0].mean()),
        "centroid error, 2020": float(shifts[:, 1].mean()),
    }


def markdown(table: list[dict[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table."""
    names = list(table[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in table:
        cells = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of ModelNet40 in its official HDF5 layout")
    parser.add_argument("--suite", required=True, help="noisy fixed pairs, e.g. modelnet_noisy.h5")
    parser.add_argument("--clean-suite", help="clean fixed pairs, for the comparison of the solvers")
    parser.add_argument("--weights", default="deepgmr", help="the trained network for the comparison of the solvers")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", help="train only the rows whose name contains this")
    parser.add_argument("--json", help="keep the numbers here")
    given = parser.parse_args()
    found: dict[str, Any] = {"steps": given.steps, "trainings": [], "solvers": []}

    if given.clean_suite:
        model, suite = checkpoint.load(given.weights), read_suite(given.clean_suite)
        assert isinstance(model, DeepGMR)
        for sigma in (0.005, 0.01, 0.02, 0.03):
            found["solvers"].append({"noise": sigma} | compare_solvers(model, suite, sigma=sigma))
        print(
            f"### The solver of 2020 against ours, mixtures of `{given.weights}`\n\n{markdown(found['solvers'])}\n",
            flush=True,
        )

    suite = read_suite(given.suite)
    base = DEEPGMR_PRESETS["deepgmr-unseen"]
    base = replace(
        base,
        start="",
        data=replace(base.data, categories=40),
        optimiser=replace(base.optimiser, steps=given.steps, warmup=given.steps // 10),
    )
    clouds = PairTask.from_modelnet(base, given.data).clouds
    for name, config in rows(base).items():
        if given.only and given.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            result = train(config, out=folder, task=PairTask(config, clouds))
            seconds = time.process_time() - start
            model = checkpoint.load(result.checkpoint)
        assert isinstance(model, DeepGMR)
        size = sum(parameter.numel() for parameter in model.parameters())
        row = {
            "training": name,
            **measure(model, suite),
            "parameters": size,
            "CPU ms a pair": 1e3 * seconds / (given.steps * config.optimiser.batch),
        }
        found["trainings"].append(row)
        print(markdown([row]).splitlines()[-1], flush=True)
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=1))
    if found["trainings"]:
        print(f"\n### {given.steps} steps of {base.optimiser.batch} pairs each\n\n{markdown(found['trainings'])}")
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
