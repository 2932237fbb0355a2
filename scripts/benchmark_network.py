"""One forward pass, and one training step, against the same network written plainly.

    python scripts/benchmark_network.py                      # the clouds are generated
    python scripts/benchmark_network.py --device cuda

The plain formulation is that of the 2020 code: NumPy features with a loop over the points and one over their
neighbours, the pooled description repeated for every point and concatenated. It has the same weights and must give the
same responsibilities, which is checked before anything is timed. Quote the ratios: machines differ, and are noisy.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepgmr.datasets.pairs.protocols import PairBatch, make_pairs
from deepgmr.geometry.frames import unit_frame
from deepgmr.geometry.transform import RigidTransform
from deepgmr.io import checkpoint
from deepgmr.mixture import GaussianMixture
from deepgmr.mixture.solver import solve_rigid
from deepgmr.networks import PRESETS, DeepGMR
from deepgmr.networks.pointnet import place
from deepgmr.training import DEEPGMR_PRESETS as TRAININGS
from deepgmr.training import PairTask

# -- the plain formulation ---------------------------------------------------------------------------------------------


def plain_rri(cloud: np.ndarray, k: int, order: str) -> np.ndarray:
    """`deepgmr.networks.features.rri` of one cloud (N, 3), a point and a neighbour at a time."""
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
    """`deepgmr.networks.features.local_moments` of one cloud (N, 3), a point and a scale at a time."""
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


def shapes(count: int, points: int) -> Tensor:
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


def compare_forward(name: str, model: DeepGMR, pair: PairBatch, device: torch.device) -> dict[str, Any]:
    """One pair through both forms; the answers must agree."""
    plain = Plain(model)
    source, target = pair.source[:1], pair.target[:1]
    with torch.inference_mode():
        # Responsibilities, not motions: an untrained network leaves the motion nearly free.
        ours, theirs = model(source, target).source_responsibilities, plain.logits(unit_frame(source)[0]).softmax(-1)
        apart = float((ours - theirs).abs().max())
        if apart > 1e-2:
            raise AssertionError(f"{name}: the two forms disagree by {apart:.3g}")
        fast = median_seconds(lambda: model(source, target), repeats=15, device=device)
        slow = median_seconds(lambda: plain(source, target), repeats=3, device=device)
    return {
        "forward pass": name,
        "ours (ms)": 1e3 * fast,
        "plain (ms)": 1e3 * slow,
        "ratio": slow / fast,
        "arithmetic alone (ms)": 1e3 * floor_seconds(model, source.shape[1], device),
        "responsibilities apart": apart,
    }


def batched(model: DeepGMR, pair: PairBatch, device: torch.device, *, precision: str) -> dict[str, Any]:
    """Pairs a second in batches, and the peak of memory on a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        seconds = median_seconds(lambda: model(pair.source, pair.target), repeats=3, device=device)
    row: dict[str, Any] = {"batch": len(pair), "precision": precision, "pairs/s": len(pair) / seconds}
    if device.type == "cuda":
        row["peak GPU MiB"] = torch.cuda.max_memory_allocated(device) / 2**20
    return row


def compare_training(device: torch.device) -> list[dict[str, Any]]:
    """Pairs a second of whole training steps, pairs made and features computed on the way."""
    clouds = shapes(64, 1024)
    speed = {}
    for name in ("deepgmr-unseen", "paper"):
        config = replace(TRAININGS[name], optimiser=replace(TRAININGS[name].optimiser, batch=16))
        speed[f"ours, preset `{name}`"] = 16 / _step_seconds(PairTask(config, clouds), device)
    config = replace(TRAININGS["paper"], optimiser=replace(TRAININGS["paper"].optimiser, batch=4, precision="fp32"))
    slow = speed["the paper's network, plain"] = 4 / _step_seconds(PairTask(config, clouds), device, plain=True)
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


def markdown(table: list[dict[str, Any]]) -> str:
    names = list(table[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in table:
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="deepgmr", help="the trained network to time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; by default what PyTorch takes")
    parser.add_argument("--json", help="keep the numbers here")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    generator = torch.Generator().manual_seed(2)
    pair = make_pairs(shapes(64, 1024), "noisy", generator=generator)
    model = checkpoint.load(given.weights, device=device)
    paper = DeepGMR(PRESETS["paper"]).eval()
    paper.calibrate(pair.source)
    paper.to(device)
    assert isinstance(model, DeepGMR)
    here = PairBatch(pair.source.to(device), pair.target.to(device), pair.target_from_source, pair.overlap)
    tables = {
        "forward": [
            compare_forward(f"bundled `{given.weights}`", model, here, device),
            compare_forward("the paper's sizes", paper, here, device),
        ],
        "batched": [batched(model, here, device, precision=p) for p in ("fp32", "bf16")],
    }
    if device.type == "cpu":
        tables["training"] = compare_training(device)
    machine = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"1,024 + 1,024 points, {device}, {machine}\n")
    print("\n\n".join(markdown(table) for table in tables.values()))
    if given.json:
        Path(given.json).write_text(json.dumps({"machine": machine, **tables}, indent=1))


if __name__ == "__main__":
    main()
