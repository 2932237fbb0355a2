"""Throughput of the closed-form solver: one batched call against a loop over scipy's `align_vectors`.

    python scripts/benchmark_solver.py [--problems 10000] [--components 16] [--threads 1]

Each side is timed several times and the best run counts. The batched call is `solve_rigid`, covariance of the
answer included; scipy's is asked for the rotation only. Both are given the same float64 problems, and their
rotations are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy
import torch
from scipy.spatial.transform import Rotation

from deepgmr.geometry.procrustes import weighted_procrustes
from deepgmr.geometry.transform import RigidTransform, rotation_angle
from deepgmr.mixture import GaussianMixture
from deepgmr.mixture.solver import solve_rigid


def make_pairs(count: int, components: int, dtype: torch.dtype) -> tuple[GaussianMixture, GaussianMixture]:
    """Random heteroscedastic mixtures and their moved, noisy images."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(count, components, generator=generator, dtype=torch.float64).add(0.1)
    weights = weights / weights.sum(-1, keepdim=True)
    variances = 0.01 * torch.rand(count, components, generator=generator, dtype=torch.float64).add(0.1)
    means = torch.randn(count, components, 3, generator=generator, dtype=torch.float64)
    truth = RigidTransform.random((count,), generator=generator, max_translation=1.0, dtype=torch.float64)
    noise = torch.randn(means.shape, generator=generator, dtype=torch.float64) * variances.sqrt().unsqueeze(-1)
    covariances = variances[..., None, None] * torch.eye(3, dtype=torch.float64)
    source = GaussianMixture(weights, means, covariances)
    target = GaussianMixture(weights, truth.apply(means) + noise, covariances)
    return source.to(dtype), target.to(dtype)


def scipy_loop(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rotations by scipy, one problem after the other; it aligns vectors, so the centroids are taken off first."""
    rotations = np.empty((len(source), 3, 3))
    for i in range(len(source)):
        total = weights[i].sum()
        a, b = source[i] - weights[i] @ source[i] / total, target[i] - weights[i] @ target[i] / total
        rotations[i] = Rotation.align_vectors(b, a, weights=weights[i])[0].as_matrix()
    return rotations


def best_time(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15, help="runs of the batched call; the loop gets two")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    source, target = make_pairs(options.problems, options.components, torch.float64)
    weights = source.weights / target.variances
    arrays = source.means.numpy(), target.means.numpy(), weights.numpy()
    peer = torch.from_numpy(scipy_loop(*arrays))
    ours = solve_rigid(source, target).target_from_source.rotation
    disagreement = math.degrees(rotation_angle(peer.mT @ ours).max().item())

    seconds = {"scipy loop, float64": best_time(partial(scipy_loop, *arrays), 2)}
    for dtype in (torch.float64, torch.float32):
        p, q, w = source.to(dtype), target.to(dtype), weights.to(dtype)
        name = str(dtype).removeprefix("torch.")
        points_only = partial(weighted_procrustes, p.means, q.means, w)
        seconds[f"solve_rigid, {name}"] = best_time(partial(solve_rigid, p, q), options.repeats)
        seconds[f"weighted_procrustes, {name}"] = best_time(points_only, options.repeats)

    loop = seconds["scipy loop, float64"]
    if options.json:
        record = {
            "problems": options.problems,
            "components": options.components,
            "threads": options.threads,
            "largest_disagreement_degrees": disagreement,
            "seconds": seconds,
            "ratio": {name: loop / value for name, value in seconds.items()},
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "scipy": scipy.__version__},
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(record, indent=1))
        return
    print(f"{options.problems} problems of {options.components} components, {options.threads} thread(s)")
    print(f"largest disagreement with scipy: {disagreement:.1e} degrees")
    for name, value in seconds.items():
        print(f"{name:32} {value * 1e3:9.1f} ms   {loop / value:6.1f}x")


if __name__ == "__main__":
    main()
