"""The closed-form solver beside its peers: many problems in one batch, forward and with gradients, in one run.

`weighted_procrustes` (points) and `solve_rigid` (mixtures; variances and objective included), against roma
(`pip install 'deepgmr[benchmark]'`; left out where it is missing), the usual batched `torch.linalg.svd`, and a loop over
scipy's `align_vectors`. All get the same problems. The methods take turns and the best round of each counts, so that what
else the machine does falls on all alike. Errors are of the rotation, against the truth.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.geometry.procrustes import weighted_procrustes
from deepgmr.geometry.transform import RigidTransform, rotation_angle
from deepgmr.mixture import GaussianMixture
from deepgmr.mixture.solver import solve_rigid

Solver = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (R, t) of (weights, variances, both means)
DTYPES = (torch.float64, torch.float32)
STUDY = "solvers"


@dataclass(frozen=True, eq=False)
class Problems:
    """Matched isotropic mixtures (B, J), and the motions between them."""

    weights: Tensor  # (B, J)
    variances: Tensor  # (B, J) of the target
    source: Tensor  # (B, J, 3)
    target: Tensor  # (B, J, 3)
    rotation: Tensor  # (B, 3, 3)

    def arguments(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (self.weights.to(dtype), self.variances.to(dtype), self.source.to(dtype), self.target.to(dtype))

    def error(self, rotation: Tensor) -> Tensor:
        """Degrees (B,)."""
        return torch.rad2deg(rotation_angle(self.rotation.mT @ rotation.double()))


def make_problems(count: int, components: int, *, noise: float) -> Problems:
    """Random heteroscedastic mixtures and their moved images, `noise` deviations off."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(count, components, generator=generator, dtype=torch.float64).add(0.1)
    variances = 0.01 * torch.rand(count, components, generator=generator, dtype=torch.float64).add(0.1)
    means = torch.randn(count, components, 3, generator=generator, dtype=torch.float64)
    truth = RigidTransform.random((count,), generator=generator, max_translation=1.0, dtype=torch.float64)
    off = torch.randn(means.shape, generator=generator, dtype=torch.float64) * variances.sqrt().unsqueeze(-1)
    weights = weights / weights.sum(-1, keepdim=True)
    return Problems(weights, variances, means, truth.apply(means) + noise * off, truth.rotation)


def make_cubes(count: int) -> Problems:
    """Moved cubes: the three singular values coincide, where the derivative of a singular vector is undefined."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3).expand(count, 8, 3)
    truth = RigidTransform.random((count,), generator=generator, max_translation=1.0, dtype=torch.float64)
    even = torch.full((count, 8), 0.125, dtype=torch.float64)
    return Problems(even, even, corners, truth.apply(corners), truth.rotation)


# -- the solvers -------------------------------------------------------------------------------------------------


def our_points(weights: Tensor, variances: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    motion = weighted_procrustes(source, target, weights / variances).target_from_source
    return motion.rotation, motion.translation


def our_mixtures(weights: Tensor, variances: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    covariances = variances[..., None, None] * torch.eye(3, dtype=variances.dtype)
    p, q = (GaussianMixture(weights, means, covariances) for means in (source, target))
    motion = solve_rigid(p, q).target_from_source
    return motion.rotation, motion.translation


def batched_svd(weights: Tensor, variances: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Kabsch (1976) as it is usually written."""
    share = weights / variances
    share = (share / share.sum(-1, keepdim=True)).unsqueeze(-1)  # (B, J, 1)
    a, b = (share * source).sum(-2), (share * target).sum(-2)
    cross = (target - b.unsqueeze(-2)).mT @ (share * (source - a.unsqueeze(-2)))
    u, _, vt = torch.linalg.svd(cross)
    one = torch.ones_like(a[..., 0])
    rotation = (u * torch.stack([one, one, torch.linalg.det(u @ vt)], dim=-1).unsqueeze(-2)) @ vt
    return rotation, b - (rotation @ a.unsqueeze(-1)).squeeze(-1)


def roma_svd(weights: Tensor, variances: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    import roma

    rotation, translation = roma.rigid_points_registration(source, target, weights / variances)
    return rotation, translation


def roma_quaternions(weights: Tensor, variances: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    import roma

    unit, translation = roma.rigid_points_registration_unitquat(source, target, weights / variances)
    return roma.unitquat_to_rotmat(unit), translation


def scipy_loop(weights: Tensor, variances: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """One problem after the other; it aligns vectors, so the centroids are taken off first."""
    a, b, w = source.numpy(), target.numpy(), (weights / variances).numpy()
    rotations, translations = np.empty((len(a), 3, 3)), np.empty((len(a), 3))
    for i in range(len(a)):
        total = w[i].sum()
        p, q = w[i] @ a[i] / total, w[i] @ b[i] / total
        rotations[i] = Rotation.align_vectors(b[i] - q, a[i] - p, weights=w[i])[0].as_matrix()
        translations[i] = q - rotations[i] @ p
    return torch.from_numpy(rotations), torch.from_numpy(translations)


BATCHED: dict[str, Solver] = {
    "`weighted_procrustes`": our_points,
    "`solve_rigid`": our_mixtures,
    "roma `rigid_points_registration`": roma_svd,
    "roma `..._unitquat`": roma_quaternions,
    "batched `torch.linalg.svd`": batched_svd,
}
LOOP = "loop over scipy `align_vectors`"


# -- the measurements --------------------------------------------------------------------------------------------


def gradients(solver: Solver, arguments: tuple[Tensor, ...]) -> list[Tensor]:
    """Of a fixed linear function of the motion, to weights, variances and means."""
    leaves = [argument.clone().requires_grad_() for argument in arguments]
    rotation, translation = solver(*leaves)
    slope = torch.arange(9, dtype=rotation.dtype).reshape(3, 3) / 9
    return list(torch.autograd.grad((rotation * slope).sum() + translation.sum(), leaves))


def finite_share(solver: Solver, cubes: Problems, dtype: torch.dtype) -> float:
    found = gradients(solver, cubes.arguments(dtype))
    finite = torch.stack([torch.isfinite(gradient).flatten(1).all(1) for gradient in found])
    return float(finite.all(0).double().mean())


def best_times(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of the fastest of the rounds, the calls taking turns; one round before is not counted."""
    best = dict.fromkeys(calls, math.inf)
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def measure(*, problems: int = 10_000, components: int = 16, rounds: int = 15, watch: Watch | None = None) -> Result:
    """A row for each method and type: `forward` and `backward` (with gradients) in milliseconds, the largest error of
    noiseless problems and the median one of noisy ones in degrees, the share of cubes with a finite gradient."""
    watch = watch or Watch()
    solvers = {name: s for name, s in BATCHED.items() if importlib.util.find_spec("roma") or "roma" not in name}
    noisy, exact = (make_problems(problems, components, noise=noise) for noise in (1.0, 0.0))
    cubes = make_cubes(200)
    told = provenance(problems=problems, components=components, rounds=rounds)
    result: Result = {"study": STUDY, "provenance": told, "rows": []}

    def row(name: str, dtype: torch.dtype, solver: Solver, forward: float) -> Result:
        off = [p.error(solver(*p.arguments(dtype))[0]) for p in (exact, noisy)]
        errors = {"exact": float(off[0].max()), "noisy": float(off[1].median())}
        return {"method": name, "type": str(dtype).removeprefix("torch."), "forward": 1e3 * forward} | errors

    for number, dtype in enumerate(DTYPES):
        watch.progress(str(dtype), number / len(DTYPES))
        arguments = noisy.arguments(dtype)
        forward = best_times({name: partial(s, *arguments) for name, s in solvers.items()}, rounds)
        backward = best_times({name: partial(gradients, s, arguments) for name, s in solvers.items()}, rounds)
        for name, s in solvers.items():
            more = {"backward": 1e3 * backward[name], "finite": finite_share(s, cubes, dtype)}
            result["rows"].append(row(name, dtype, s, forward[name]) | more)
    loop = best_times({LOOP: partial(scipy_loop, *noisy.arguments(torch.float64))}, 2)[LOOP]
    result["rows"].append(row(LOOP, torch.float64, scipy_loop, loop))
    return result


def markdown(result: Result) -> str:
    """A row a method, a column for each type: milliseconds without and with gradients, the largest error without noise
    in degrees, finite gradients of cubes."""
    rows: dict[str, Result] = {}
    for found in result["rows"]:
        times = [f"{found[key]:.0f}" for key in ("forward", "backward") if found.get(key) is not None]
        told = {found["type"]: ", ".join(times), f"error, {found['type']}": f"{found['exact']:.1e}"}
        if found.get("finite") is not None:
            told[f"finite, {found['type']}"] = f"{found['finite']:.0%}"
        rows.setdefault(found["method"], {"method": found["method"]}).update(told)
    order = ["method", *(f"{part}{dtype}" for part in ("", "error, ", "finite, ") for dtype in ("float64", "float32"))]
    return as_table([{key: row.get(key) for key in order} for row in rows.values()])
