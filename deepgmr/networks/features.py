"""What a network sees of a point: numbers that no rigid motion changes, and the neighbour searches behind them.

Two invariant descriptions of every point are offered. `rri` is the paper's: the k nearest neighbours in polar
coordinates about the centroid. `local_moments` is ours: Gaussian-weighted moments of the cloud around the point at
several scales. Nothing in it is sorted, truncated or discontinuous, so noise moves it only a little, and it is a few
matrix products instead of a neighbour search. Clouds are expected centred and at unit root-mean-square radius
(`unit_frame`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from deepgmr.errors import InvalidCloud, InvalidConfig

SCALES = (0.08, 0.16, 0.32, 0.64)  # standard deviations of the weights of `local_moments`, in root-mean-square radii
ORDERS = ("value", "distance")  # of the numbers of `rri`
_ALONG = 5e-3  # closer than this to the axis, the direction of a neighbour is known to no better than 1e-4 in float32
_PER_SCALE, _PER_PAIR = 13, 3
_ROWS, _COLUMNS = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]  # the six entries of a symmetric 3x3 matrix ...
_FULL = [0, 3, 4, 3, 1, 5, 4, 5, 2]  # ... and where its nine are among them
_CHUNK = {"cpu": 1 << 20, "cuda": 1 << 27}  # entries of a distance matrix held at a time: a cache, a card


# -- frames and neighbours -------------------------------------------------------------------------------------


def unit_frame(points: Tensor, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Clouds (*B, N, 3) about their centroids at unit root-mean-square radius, with centre (*B, 3) and scale (*B).

    Centre and scale are float64 and the subtraction is done there, so a cloud at 5e6 m keeps its millimetres; the
    points come back in `dtype`. A cloud of coincident points has scale 1 and all its points at the origin.
    """
    exact = points.double()
    origin = exact[..., :1, :]  # a running mean about the first point: large coordinates do not eat the small ones
    centre = (exact - origin).mean(-2, keepdim=True) + origin
    centred = exact - centre
    scale = centred.square().sum(-1).mean(-1).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (centred / scale[..., None, None]).to(dtype), centre.squeeze(-2), scale


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest points of every query, nearest first."""

    indices: Tensor  # (B, Q, k) int64, into the points searched
    distances: Tensor  # (B, Q, k)


def nearest_neighbours(points: Tensor, count: int, *, queries: Tensor | None = None) -> Neighbours:
    """The `count` points (B, N, 3) nearest to each query (B, Q, 3); by default of each point, itself included.

    On the CPU a KD-tree a cloud (1.9 ms for 1,024 points and 20 neighbours on one core, against 8.2 ms for a distance
    matrix and `topk`); elsewhere distance matrices in chunks that fit the device. Not differentiable. Raises
    `InvalidCloud` if a cloud has fewer than `count` points.
    """
    if points.shape[-2] < count:
        raise InvalidCloud(f"{count} neighbours were asked for in a cloud of {points.shape[-2]} points")
    asked = points if queries is None else queries
    with torch.no_grad():
        if points.device.type == "cpu":
            return _search_trees(points, asked, count)
        return _search_matrices(points, asked, count)


def _search_trees(points: Tensor, queries: Tensor, count: int) -> Neighbours:
    from scipy.spatial import cKDTree  # here: a tenth of a second that only this search needs

    found = [
        cKDTree(cloud).query(asked, k=np.arange(1, count + 1))
        for cloud, asked in zip(points.double().numpy(), queries.double().numpy(), strict=True)
    ]
    distances = np.stack([distance for distance, _ in found]) if found else np.zeros((0, queries.shape[1], count))
    indices = np.stack([index for _, index in found]) if found else np.zeros(distances.shape, dtype=np.int64)
    return Neighbours(torch.from_numpy(indices), torch.from_numpy(distances).to(points.dtype))


def _search_matrices(points: Tensor, queries: Tensor, count: int) -> Neighbours:
    rows = max(1, _chunk(points.device) // max(1, points.shape[0] * points.shape[1]))
    parts = [torch.cdist(part, points).topk(count, largest=False) for part in queries.split(rows, dim=1)]
    return Neighbours(torch.cat([p.indices for p in parts], 1), torch.cat([p.values for p in parts], 1))


def gather_points(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of `values` (B, N, C) at `indices` (B, *Q), as (B, *Q, C)."""
    flat = indices.flatten(1).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).reshape(*indices.shape, values.shape[-1])


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Indices (B, count) of points (B, N, 3) spread evenly: each the farthest from those before it.

    Farthest-point sampling (Gonzalez 1985; Eldar et al. 1997). The first is the point farthest from the centroid, so
    the choice does not depend on the order of the points (ties apart). Not differentiable.
    """
    if not 1 <= count <= points.shape[-2]:
        raise InvalidCloud(f"cannot choose {count} of {points.shape[-2]} points")
    if points.device.type == "cpu":
        return torch.from_numpy(_farthest(points.detach().numpy(), count))
    batch = torch.arange(points.shape[0], device=points.device)
    with torch.no_grad():
        chosen = [(points - points.mean(1, keepdim=True)).square().sum(-1).argmax(1)]
        nearest = torch.full(points.shape[:2], math.inf, dtype=points.dtype, device=points.device)
        for _ in range(count - 1):
            last = points[batch, chosen[-1]].unsqueeze(1)
            nearest = torch.minimum(nearest, (points - last).square().sum(-1))
            chosen.append(nearest.argmax(1))
    return torch.stack(chosen, dim=1)


def _farthest(points: np.ndarray, count: int) -> np.ndarray:
    """The same in NumPy, whose many small steps start about three times faster than torch's on a CPU."""
    rows = np.arange(len(points))
    chosen = np.empty((len(points), count), dtype=np.int64)
    chosen[:, 0] = np.square(points - points.mean(1, keepdims=True)).sum(-1).argmax(1)
    axes = np.ascontiguousarray(points.transpose(2, 0, 1))  # (3, B, N): whole rows are added, not triples
    nearest = np.full(points.shape[:2], np.inf, dtype=points.dtype)
    for i in range(1, count):
        offset = axes - axes[:, rows, chosen[:, i - 1], None]
        offset *= offset
        np.minimum(nearest, offset[0] + offset[1] + offset[2], out=nearest)
        chosen[:, i] = nearest.argmax(1)
    return chosen


# -- the paper's features --------------------------------------------------------------------------------------


def rri(points: Tensor, *, neighbours: int = 20, order: str = "value", queries: Tensor | None = None) -> Tensor:
    """Rigorously rotation-invariant features (*B, N, 4 k) of centred clouds (*B, N, 3), k = `neighbours`.

    For a point p and each of its k nearest neighbours q: |p|, |q|, the angle between p and q seen from the centroid,
    and the angle, in the plane across p, from q counterclockwise to the next neighbour (ClusterNet, Chen et al.,
    CVPR 2019; DeepGMR, Yuan et al., ECCV 2020). The four lists one after another; a point is not its own neighbour.

    order     "value" sorts each list by itself, so two neighbours equally near may change places without changing
              anything, and rounding never moves a number by more than itself; "distance" keeps the numbers of a
              neighbour together, nearest first, as the released code does
    queries   (*B, Q) indices: describe only these points; the neighbours still come from the whole cloud

    Where else we differ from the released code: it projects onto the plane across p with the wrong length, so its
    angles are off wherever |p| is not |q|; and here k angles are sorted once instead of k^2 compared.
    A neighbour straight above p, whose direction is undefined, takes no part in the angles and gets 0.
    """
    if order not in ORDERS:
        raise InvalidConfig(f"unknown order `{order}`; the orders are {', '.join(ORDERS)}")
    if points.ndim != 3:
        return _batched(rri, points, queries, neighbours=neighbours, order=order)
    asked = points if queries is None else gather_points(points, queries)
    indices = nearest_neighbours(points, neighbours + 1, queries=asked).indices[..., 1:]
    q = gather_points(points, indices)  # (B, Q, k, 3)
    p = asked.unsqueeze(-2)  # (B, Q, 1, 3)
    radius_p, radius_q = _length(p), _length(q)  # (B, Q, 1), (B, Q, k)
    axis = p / radius_p.clamp_min(1e-12).unsqueeze(-1)
    height = (q * axis).sum(-1)
    across = q - height.unsqueeze(-1) * axis  # the part of q in the plane across p
    opening = torch.atan2(_length(across), height)
    lists = [radius_p.expand_as(radius_q), radius_q, opening, _gaps(across, axis)]
    return torch.cat(lists if order == "distance" else [values.sort(-1).values for values in lists], dim=-1)


def _gaps(across: Tensor, axis: Tensor) -> Tensor:
    """The angles (B, Q, k) from each direction across the axis to the next one counterclockwise; they sum to 2 pi."""
    length = _length(across)
    reference = across.gather(-2, length.argmax(-1)[..., None, None].expand(*length.shape[:-1], 1, 3))
    x = (across * reference).sum(-1)
    y = (torch.linalg.cross(reference.expand_as(across), across, dim=-1) * axis).sum(-1)
    defined = length > _ALONG
    turn = torch.where(defined, torch.atan2(y, x) % (2 * math.pi), torch.full_like(x, math.inf))
    ordered, places = turn.sort(-1)
    first = ordered[..., :1]
    following = torch.cat([ordered[..., 1:], torch.full_like(first, math.inf)], dim=-1)
    wrapped = torch.where(following.isinf(), first + 2 * math.pi, following)  # after the last comes the first
    gaps = torch.where(ordered.isinf(), torch.zeros_like(ordered), wrapped - ordered)
    return torch.empty_like(gaps).scatter_(-1, places, gaps)


def _length(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector, dim=-1)


# -- features that noise barely moves --------------------------------------------------------------------------


def moments_width(scales: Sequence[float] = SCALES) -> int:
    """How many numbers `local_moments` gives a point."""
    return 1 + _PER_SCALE * len(scales) + _PER_PAIR * (len(scales) * (len(scales) - 1) // 2)


def local_moments(points: Tensor, *, scales: Sequence[float] = SCALES, queries: Tensor | None = None) -> Tensor:
    """Rotation-invariant moments of the cloud around each point (*B, N, `moments_width(scales)`), at several scales.

    Every point x of the cloud counts with weight exp(-|x - p|^2 / 2 h^2) around p, for each h in `scales`; the
    weighted mass, mean, covariance and third moment about the centroid enter through scalars that rotations leave
    alone: lengths, quadratic forms, determinants, and triple products, which tell left from right. Pairs of scales
    add how their means lean against each other.

    points    (*B, N, 3), centred and at unit root-mean-square radius
    scales    ascending; where each is twice the one before, the weights of a scale are the fourth power of the next
              scale's and one exponential serves all
    queries   (*B, Q) indices: describe only these points; the whole cloud still counts

    Not differentiable in the points. Work is N Q for each scale, in chunks, whatever the size of the clouds.
    """
    if list(scales) != sorted(scales) or not scales or scales[0] <= 0:
        raise InvalidConfig(f"scales must be positive and ascending, got {tuple(scales)}")
    if points.ndim != 3:
        return _batched(local_moments, points, queries, scales=scales)
    with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
        asked = points if queries is None else gather_points(points, queries)
        clouds, rows = _chunks(points, asked)
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


def _batched(describe: Callable[..., Tensor], points: Tensor, queries: Tensor | None, **settings: object) -> Tensor:
    """Any leading dimensions, by way of one."""
    rows = None if queries is None else queries.reshape(-1, queries.shape[-1])
    flat = describe(points.reshape(-1, *points.shape[-2:]), queries=rows, **settings)
    return flat.reshape(*points.shape[:-2], *flat.shape[-2:])


def _chunks(points: Tensor, asked: Tensor) -> tuple[int, int]:
    """How many clouds, and how many queries of each, at a time."""
    budget = _chunk(points.device)
    rows = max(1, min(asked.shape[1], budget // max(1, points.shape[1])))
    return max(1, budget // max(1, rows * points.shape[1])), rows


def _chunk(device: torch.device) -> int:
    return _CHUNK.get(device.type, _CHUNK["cuda"])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def _apply(symmetric: Tensor, vector: Tensor) -> Tensor:
    """Symmetric matrices (b, 6, q) times vectors (b, 3, q)."""
    return (symmetric[:, _FULL].unflatten(1, (3, 3)) * vector.unsqueeze(1)).sum(2)
