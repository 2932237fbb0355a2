"""Gaussian-weighted moments of the cloud around a point, at several scales: invariants that noise barely moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from deepgmr.errors import InvalidConfig
from deepgmr.geometry.neighbours import batched, chunks, gather_points

SCALES = (0.08, 0.16, 0.32, 0.64)  # standard deviations of the weights of `local_moments`, in root-mean-square radii
_PER_SCALE, _PER_PAIR = 13, 3
_ROWS, _COLUMNS = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]  # the six entries of a symmetric 3x3 matrix ...
_FULL = [0, 3, 4, 3, 1, 5, 4, 5, 2]  # ... and where its nine are among them


def moments_width(scales: Sequence[float] = SCALES) -> int:
    """How many numbers `local_moments` gives a point."""
    return 1 + _PER_SCALE * len(scales) + _PER_PAIR * (len(scales) * (len(scales) - 1) // 2)


def local_moments(
    points: Tensor, *, scales: Sequence[float] = SCALES, queries: Tensor | None = None, chunked: bool = True
) -> Tensor:
    """Rotation-invariant moments of the cloud around each point (*B, N, `moments_width(scales)`), at several scales.

    Every point x of the cloud counts with weight exp(-|x - p|^2 / 2 h^2) around p, for each h in `scales`; the
    weighted mass, mean, covariance and third moment about the centroid enter through scalars that rotations leave
    alone: lengths, quadratic forms, determinants, and triple products, which tell left from right. Pairs of scales
    add how their means lean against each other.

    points    (*B, N, 3), centred and at unit root-mean-square radius
    scales    ascending; where each is twice the one before, the weights of a scale are the fourth power of the next
              scale's and one exponential serves all
    queries   (*B, Q) indices: describe only these points; the whole cloud still counts
    chunked   in pieces that fit a cache; without, in one, as a graph for clouds of any size must be

    Not differentiable in the points. Work is N Q for each scale, and without chunks so is memory.
    """
    if list(scales) != sorted(scales) or not scales or scales[0] <= 0:
        raise InvalidConfig(f"scales must be positive and ascending, got {tuple(scales)}")
    if points.ndim != 3:
        return batched(local_moments, points, queries, scales=scales, chunked=chunked)
    with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
        asked = points if queries is None else gather_points(points, queries)
        if not chunked:
            return _moments(points, asked, scales)
        clouds, rows = chunks(points, asked)
        parts = [
            torch.cat([_moments(p, q, scales) for q in asked_part.split(rows, dim=1)], dim=1)
            for p, asked_part in zip(points.split(clouds), asked.split(clouds), strict=True)
        ]
        return torch.cat(parts) if len(parts) != 1 else parts[0]


def _moments(points: Tensor, asked: Tensor, scales: Sequence[float]) -> Tensor:
    """Coordinates come before points here, (b, 3, q): every operation then runs along contiguous memory."""
    cloud, at = points.mT.contiguous(), asked.mT.contiguous()  # (b, 3, N), (b, 3, q)
    squared, squared_at = cloud.square().sum(1, keepdim=True), at.square().sum(1, keepdim=True)
    columns = torch.cat([torch.ones_like(squared), cloud, cloud[:, _ROWS] * cloud[:, _COLUMNS], squared * cloud], dim=1)
    # -|p - x|^2 / 2 h^2 at the widest scale h, (b, q, N): one product of [p, -|p|^2 / 2, 1] and [x, 1, -|x|^2 / 2] ...
    widest = scales[-1]
    left = torch.cat([at, -0.5 * squared_at, torch.ones_like(squared_at)], dim=1) / (widest * widest)
    right = torch.cat([cloud, torch.ones_like(squared), -0.5 * squared], dim=1)
    exponent = torch.bmm(left.mT, right).clamp_(max=0)
    # ... and, where every scale is half the next, one exponential for all: a quarter of the variance is a fourth power.
    halving = all(math.isclose(2 * a, b, rel_tol=1e-6) for a, b in pairwise(scales))
    weights = exponent.exp_() if halving else exponent
    radius = squared_at.sqrt()
    axis = at / radius.clamp_min(1e-6)
    out, leans, bends = [radius], [], []
    for h in reversed(scales):
        if not halving:
            weights = (exponent * (widest / h) ** 2).exp_()
        elif h != widest:
            weights.square_().square_()
        sums = columns @ weights.mT  # (b, 13, q)
        mass = sums[:, :1]
        mean, second, third = (sums[:, 1:] / mass).split([3, 6, 3], dim=1)
        lean = (mean - at) / h
        spread = (second - mean[:, _ROWS] * mean[:, _COLUMNS]) / (h * h)  # xx, yy, zz, xy, xz, yz
        bend, lean_bend = _apply(spread, axis), _apply(spread, lean)
        sideways = torch.linalg.cross(axis, lean, dim=1)
        diagonal, mixed = spread[:, :3], spread[:, 3:]
        out += [
            (mass / points.shape[-2]).log(),
            _dot(lean, axis),
            _dot(lean, lean),
            diagonal.sum(1, keepdim=True),
            _dot(bend, axis),
            _dot(diagonal, diagonal) + 2 * _dot(mixed, mixed),
            _dot(lean_bend, lean),
            _dot(sideways, bend),
            _dot(sideways, lean_bend),
            # det = xx yy zz + 2 xy xz yz - xx yz^2 - yy xz^2 - zz xy^2
            diagonal.prod(1, keepdim=True) + 2 * mixed.prod(1, keepdim=True) - _dot(diagonal.flip(1), mixed.square()),
            mean.square().sum(1, keepdim=True).sqrt(),
            _dot(third, axis),
            _dot(sideways, third),
        ]
        leans.append(lean)
        bends.append(bend)
    for a in range(len(leans)):
        for b in range(a):
            turn = torch.linalg.cross(axis, leans[a], dim=1)
            out += [_dot(leans[a], leans[b]), _dot(turn, leans[b]), _dot(bends[a], leans[b])]
    return torch.cat(out, dim=1).mT


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def _apply(symmetric: Tensor, vector: Tensor) -> Tensor:
    """Symmetric matrices (b, 6, q) times vectors (b, 3, q)."""
    return (symmetric[:, _FULL].unflatten(1, (3, 3)) * vector.unsqueeze(1)).sum(2)
