"""What the neighbourhood of a component looks like, in numbers that no rigid motion changes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepgmr.surface import Surface

_SCALES = (24, 64)  # neighbours in a patch
_BINS = 11


def describe(surface: Surface, *, scales: tuple[int, ...] = _SCALES) -> Tensor:
    """Fast point feature histograms (Rusu, Blodow, Beetz, ICRA 2009) of the J components, at every scale.

    A scale is the number of neighbours in a patch. Returns (J, 33 * scales), rows of unit length.

    Three angles between a component's normal, its neighbour's, and the line between them are binned, and the
    histograms of the neighbours averaged in. Unlike the original, the bins are soft, so noise at an edge moves a
    little mass and not a whole count, and the square root of the histogram is kept, so that inner products are
    Bhattacharyya coefficients.
    """
    points, normals, neighbours = surface.points, surface.normals, surface.neighbours
    widest = min(max(scales), neighbours.shape[1])
    index = neighbours[:, :widest]
    bins, shares = _soft_bins(points, normals, index)
    rows = torch.arange(len(points)).unsqueeze(-1) * (3 * _BINS)
    inverse = 1 / (points[index] - points.unsqueeze(1)).norm(dim=-1).clamp_min(1e-9)  # (J, K)
    histograms = []
    for scale in scales:
        k = min(scale, widest)
        own = torch.zeros(len(points) * 3 * _BINS)
        own.index_add_(0, (rows + bins[:, :k].flatten(1)).flatten(), shares[:, :k].flatten())
        own = own.reshape(len(points), 3 * _BINS) / k
        weights = inverse[:, :k] / inverse[:, :k].sum(1, keepdim=True)
        histograms.append(own + torch.einsum("jk,jkb->jb", weights, own[index[:, :k]]))
    roots = torch.cat(histograms, dim=1).sqrt()
    return roots / roots.norm(dim=1, keepdim=True)


def _soft_bins(points: Tensor, normals: Tensor, neighbours: Tensor) -> tuple[Tensor, Tensor]:
    """The six bins (J, K, 6) each neighbour falls into, two for each of three angles, and its share in each."""
    offset = points[neighbours] - points.unsqueeze(1)  # (J, K, 3)
    line = offset / offset.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    u = normals.unsqueeze(1).expand_as(line)
    other = normals[neighbours]
    v = torch.linalg.cross(line, u)
    v = v / v.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    w = torch.linalg.cross(u, v)
    alpha = (v * other).sum(-1)  # Darboux frame, eq. 1 of the paper
    phi = (u * line).sum(-1)
    theta = torch.atan2((w * other).sum(-1), (u * other).sum(-1)) / math.pi
    place = (torch.stack([alpha, phi, theta], dim=-1) + 1) * (_BINS / 2) - 0.5
    low = place.floor()
    share = place - low
    first = torch.arange(3) * _BINS
    bins = torch.cat([low, low + 1], dim=-1).clamp(0, _BINS - 1).long() + torch.cat([first, first])
    return bins, torch.cat([1 - share, share], dim=-1)
