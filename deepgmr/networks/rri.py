"""Rotation-invariant descriptors of the paper: neighbours in polar coordinates about the centroid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepgmr.errors import InvalidConfig
from deepgmr.geometry.neighbours import batched, gather_points, nearest_neighbours

ORDERS = ("value", "distance")  # of the numbers of `rri`
_ALONG = 5e-3  # closer than this to the axis, the direction of a neighbour is known to no better than 1e-4 in float32


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
        return batched(rri, points, queries, neighbours=neighbours, order=order)
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
