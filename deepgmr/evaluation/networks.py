"""The DeepGMR network beside the 2020 code's formulation: forward pass, training step, and solver.

The plain formulation is NumPy features with a loop over the points and one over their neighbours, the pooled description
repeated for every point and concatenated. It has the same weights and must give the same responsibilities, which is
checked before anything is timed. Quote the ratios: machines differ, and are noisy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepgmr import metrics
from deepgmr.datasets.pairs.protocols import PairBatch, make_pairs
from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.datasets.suites.named import read_named
from deepgmr.errors import InvalidConfig, InvalidInput
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.geometry.frames import unit_frame
from deepgmr.geometry.procrustes import nearest_rotation
from deepgmr.geometry.transform import RigidTransform
from deepgmr.io import checkpoint
from deepgmr.mixture import GaussianMixture
from deepgmr.mixture.solver import solve_rigid
from deepgmr.networks import PRESETS, DeepGMR
from deepgmr.networks.pointnet import place
from deepgmr.training import DEEPGMR_PRESETS as TRAININGS
from deepgmr.training import PairTask

STUDY = "networks"
NOISE = (0.005, 0.01, 0.02, 0.03)  # at which the solvers are compared
POINTS = 1024  # of a cloud
_APART = 1e-2  # responsibilities of the two forms, in different precisions


def measure(
    *,
    weights: str | Path = "deepgmr",
    device: str = "cpu",
    suite: str | Path | PairSuite | None = None,
    training: bool = True,
    repeats: int = 15,
    batch: int = 64,
    watch: Watch | None = None,
) -> Result:
    """Forward passes, batches and training steps; with a suite of clean pairs, also the solvers."""
    watch, on = watch or Watch(), torch.device(device)
    pair = make_pairs(bumpy_shapes(batch, POINTS), "noisy", generator=torch.Generator().manual_seed(2))
    model = network_of(weights).to(on)
    paper = DeepGMR(PRESETS["paper"]).eval()
    paper.calibrate(pair.source)
    paper.to(on)
    here = PairBatch(pair.source.to(on), pair.target.to(on), pair.target_from_source, pair.overlap)
    watch.progress("forward pass", 0.0)
    result: Result = {
        "study": STUDY,
        "provenance": provenance(weights=str(weights), device=device, points=POINTS, batch=batch),
        "forward": [
            compare_forward(f"`{weights}`", model, here, on, repeats=repeats),
            compare_forward("the paper's sizes", paper, here, on, repeats=repeats),
        ],
        "batched": [batched(model, here, on, precision=precision) for precision in ("fp32", "bf16")],
    }
    watch.keep(result)
    if training and on.type == "cpu":
        watch.progress("training steps", 0.5)
        result["training"] = compare_training(on)
    if suite is not None:
        clean = suite if isinstance(suite, PairSuite) else read_named(suite)
        watch.progress("solvers", 0.8)
        result["solvers"] = [{"noise": sigma} | compare_solvers(model, clean, sigma=sigma) for sigma in NOISE]
    return result


def markdown(result: Result) -> str:
    """A table of each part."""
    return "\n\n".join(parts(result).values())


def parts(result: Result) -> dict[str, str]:
    """The tables one by one: `forward`, `batched`, `training` and `solvers`, those that were measured."""
    found = [key for key in ("forward", "batched", "training", "solvers") if key in result]
    return {key: as_table(result[key], form=".3g" if key != "solvers" else ".4f") for key in found}


def network_of(weights: str | Path) -> DeepGMR:
    """A DeepGMR network by name or path. Raises `InvalidConfig` for another kind."""
    model = checkpoint.load(weights)
    if not isinstance(model, DeepGMR):
        raise InvalidConfig(f"{weights} holds a {type(model).__name__}, not a DeepGMR network")
    return model


# -- the plain formulation ---------------------------------------------------------------------------------------------


def plain_rri(cloud: np.ndarray, k: int, order: str) -> np.ndarray:
    """`deepgmr.networks.rri` of one cloud (N, 3), a point and a neighbour at a time."""
    out = np.zeros((len(cloud), 4 * k), dtype=np.float32)
    for i, p in enumerate(cloud):
        nearest = np.argsort(((cloud - p) ** 2).sum(1))[1 : k + 1]
        radius = np.linalg.norm(p)
        axis = p / radius
        radii, openings, across = np.zeros(k), np.zeros(k), np.zeros((k, 3))
        for n, j in enumerate(nearest):
            q = cloud[j]
            height = q @ axis
            across[n] = q - height * axis
            radii[n] = np.linalg.norm(q)
            openings[n] = math.atan2(np.linalg.norm(across[n]), height)
        sine = np.cross(across[:, None], across[None]) @ axis
        turn = np.arctan2(sine, across @ across.T) % (2 * np.pi)
        np.fill_diagonal(turn, np.inf)
        along = np.linalg.norm(across, axis=1) <= 5e-3  # straight above p: no direction, no part in the angles
        turn[:, along], turn[along] = np.inf, 0.0
        lists = [np.full(k, radius), radii, openings, turn.min(1)]
        out[i] = np.concatenate([np.sort(values) for values in lists] if order == "value" else lists)
    return out


def plain_moments(cloud: np.ndarray, scales: tuple[float, ...]) -> np.ndarray:
    """`deepgmr.networks.moments.local_moments` of one cloud (N, 3), a point and a scale at a time."""
    out = []
    squared = (cloud**2).sum(1)
    for p in cloud:
        axis = p / np.linalg.norm(p)
        numbers, leans, bends = [np.linalg.norm(p)], [], []
        distance = ((cloud - p) ** 2).sum(1)
        for h in reversed(scales):
            weight = np.exp(-distance / (2 * h * h))
            share = weight / weight.sum()
            mean = share @ cloud
            lean = (mean - p) / h
            spread = (cloud - mean).T @ ((cloud - mean) * share[:, None]) / h**2
            third = (share * squared) @ cloud
            bend, sideways = spread @ axis, np.cross(axis, lean)
            numbers += [np.log(weight.mean()), lean @ axis, lean @ lean, np.trace(spread), axis @ bend]
            numbers += [(spread**2).sum(), lean @ spread @ lean, sideways @ bend, sideways @ spread @ lean]
            numbers += [np.linalg.det(spread), np.linalg.norm(mean), third @ axis, sideways @ third]
            leans.append(lean)
            bends.append(bend)
        for a in range(len(scales)):
            for b in range(a):
                numbers += [leans[a] @ leans[b], np.cross(axis, leans[a]) @ leans[b], bends[a] @ leans[b]]
        out.append(numbers)
    return np.array(out, dtype=np.float32)


class Plain(nn.Module):
    """The weights of a `DeepGMR`, run as the 2020 code runs them: one cloud after the other, nothing shared."""

    def __init__(self, model: DeepGMR) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, target: Tensor) -> RigidTransform:
        frames = [unit_frame(cloud) for cloud in (source, target)]
        mixtures = [
            GaussianMixture.from_responsibilities(
                points * (scale / frames[1][2]).float()[:, None, None], self.logits(points).softmax(-1)
            )
            for points, _, scale in frames
        ]
        answer = solve_rigid(*mixtures).target_from_source
        shift = answer.translation.double() * frames[1][2].unsqueeze(-1)
        rotation = answer.rotation.double()
        translation = frames[1][1] + shift - (rotation @ frames[0][1].unsqueeze(-1)).squeeze(-1)
        return RigidTransform(rotation, translation).to(source.dtype)

    def logits(self, points: Tensor) -> Tensor:
        model, net, config = self.model, self.model.pointnet, self.model.config
        describe = (
            (lambda c: plain_rri(c, config.neighbours, config.order))
            if config.features == "rri"
            else (lambda c: plain_moments(c, config.scales))
        )
        raw = torch.from_numpy(np.stack([describe(cloud.cpu().double().numpy()) for cloud in points])).to(points.device)
        features = ((raw - model.feature_mean) / model.feature_deviation).clamp(-6, 6)
        local = net.encoder(features)
        values = local if net.pooled is None else net.pooled(local)
        pooled = values.max(dim=1).values
        if net.pooling == "max+mean":
            pooled = torch.cat([pooled, values.mean(dim=1)], dim=-1)
        pooled = pooled if net.pooled is None else pooled.relu()
        weight = torch.cat([net.local.weight, net.shared.weight], dim=1)
        repeated = pooled.unsqueeze(1).expand(-1, points.shape[1], -1)
        hidden = nn.functional.linear(torch.cat([local, repeated], dim=-1), weight, net.local.bias)
        if net.along is not None and net.landmarks is not None:
            hidden = hidden + net.along(place(net.landmarks, local, points))
        return net.head(net.decoder(net.entry(hidden)))


# -- timing ------------------------------------------------------------------------------------------------------------


def median_seconds(run: Callable[[], Any], *, repeats: int, device: torch.device) -> float:
    """The median over `repeats` runs, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bumpy_shapes(count: int, points: int) -> Tensor:
    """Bumpy closed surfaces (count, points, 3) without symmetry."""
    generator = torch.Generator().manual_seed(0)
    direction = nn.functional.normalize(torch.randn(count, points, 3, generator=generator), dim=-1)
    bumps = torch.randn(count, 1, 3, generator=generator)
    return direction * (1 + 0.3 * (2 * direction * bumps).sum(-1, keepdim=True).sin()) * torch.tensor([0.9, 0.7, 0.5])


def floor_seconds(model: DeepGMR, points: int, device: torch.device) -> float:
    """The matrix products of one pair alone, at the speed this device multiplies large float32 matrices."""
    products = 0.0
    for name, layer in model.pointnet.named_modules():
        if isinstance(layer, nn.Linear) and name != "shared":
            products += layer.weight.numel() * 2 * points
    a = torch.randn(4096, 512, device=device)
    b = torch.randn(512, 512, device=device)
    best = min(median_seconds(lambda: a @ b, repeats=10, device=device) for _ in range(3))
    return products / (a.shape[0] * b.numel() / best)


def compare_forward(name: str, model: DeepGMR, pair: PairBatch, device: torch.device, *, repeats: int = 15) -> Result:
    """One pair through both forms; the answers must agree. The plain form takes long: a fifth of the repeats."""
    plain = Plain(model)
    source, target = pair.source[:1], pair.target[:1]
    with torch.inference_mode():
        # Responsibilities, not motions: an untrained network leaves the motion nearly free.
        ours, theirs = model(source, target).source_responsibilities, plain.logits(unit_frame(source)[0]).softmax(-1)
        apart = float((ours - theirs).abs().max())
        if apart > _APART:
            raise InvalidInput(f"{name}: the two forms disagree by {apart:.3g}; nothing was timed")
        fast = median_seconds(lambda: model(source, target), repeats=repeats, device=device)
        slow = median_seconds(lambda: plain(source, target), repeats=max(1, repeats // 5), device=device)
    return {
        "forward pass": name,
        "ours (ms)": 1e3 * fast,
        "plain (ms)": 1e3 * slow,
        "ratio": slow / fast,
        "arithmetic alone (ms)": 1e3 * floor_seconds(model, source.shape[1], device),
        "responsibilities apart": apart,
    }


def batched(model: DeepGMR, pair: PairBatch, device: torch.device, *, precision: str) -> Result:
    """Pairs a second in batches, and the peak of memory on a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        seconds = median_seconds(lambda: model(pair.source, pair.target), repeats=3, device=device)
    row: Result = {"batch": len(pair), "precision": precision, "pairs/s": len(pair) / seconds}
    if device.type == "cuda":
        row["peak GPU MiB"] = torch.cuda.max_memory_allocated(device) / 2**20
    return row


def compare_training(device: torch.device, *, plain_batch: int = 4) -> list[Result]:
    """Pairs a second of whole training steps, pairs made and features computed on the way."""
    clouds = bumpy_shapes(64, POINTS)
    speed = {}
    for name in ("deepgmr-unseen", "paper"):
        config = replace(TRAININGS[name], optimiser=replace(TRAININGS[name].optimiser, batch=16))
        speed[f"ours, preset `{name}`"] = 16 / _step_seconds(PairTask(config, clouds), device)
    config = replace(
        TRAININGS["paper"], optimiser=replace(TRAININGS["paper"].optimiser, batch=plain_batch, precision="fp32")
    )
    slow = speed["the paper's network, plain"] = plain_batch / _step_seconds(
        PairTask(config, clouds), device, plain=True
    )
    return [{"training step": name, "pairs/s": value, "ratio to plain": value / slow} for name, value in speed.items()]


def _step_seconds(task: PairTask, device: torch.device, *, plain: bool = False) -> float:
    model = task.build(torch.Generator().manual_seed(0)).to(device)
    optimiser = torch.optim.AdamW(model.parameters())
    generator = torch.Generator().manual_seed(1)
    assert isinstance(model, DeepGMR)

    def step() -> None:
        batch = task.make_batch(generator, rank=0, processes=1)
        with torch.autocast(device.type, torch.bfloat16, enabled=task.config.optimiser.precision == "bf16"):
            if plain:
                error = Plain(model)(batch.source, batch.target).compose(batch.target_from_source.inverse()).matrix
                loss = (error - torch.eye(4)).square().mean()
            else:
                loss, _ = task.loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return median_seconds(step, repeats=2 if plain else 5, device=device)


# -- the solver of 2020 --------------------------------------------------------------------------------------


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
def compare_solvers(model: DeepGMR, suite: PairSuite, *, sigma: float, seed: int = 0) -> Result:
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
