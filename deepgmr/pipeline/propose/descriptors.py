"""What the neighbourhood of a component looks like, in numbers that no rigid motion changes."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from deepgmr.pipeline.scan import Level


def describe(level: Level, *, scales: tuple[int, ...] = (24, 64), bins: int = 11) -> Tensor:
    """Fast point feature histograms (Rusu, Blodow, Beetz, ICRA 2009) of the J components, at every scale.

    A scale is the number of neighbours in a patch. Returns (J, 3 * bins * scales), rows of unit length.

    Three angles between a component's normal, its neighbour's, and the line between them are binned, and the
    histograms of the neighbours averaged in. Unlike the original, the bins are soft, so noise at an edge moves a
    little mass and not a whole count, and the square root of the histogram is kept, so that inner products are
    Bhattacharyya coefficients.
    """
    return level.made(("histograms", scales, bins), lambda: _described(level, scales, bins))


def _described(level: Level, scales: tuple[int, ...], bins: int) -> Tensor:
    points, normals, neighbours = level.means, level.normals, level.neighbours
    widest = min(max(scales), neighbours.shape[1])
    index = neighbours[:, :widest]
    low, share = _soft_bins(points, normals, index, bins)
    lengths = (points[index] - points.unsqueeze(1)).square().sum(-1).sqrt()  # (J, K)
    inverse = 1 / lengths.clamp_min(1e-9)
    histograms = []
    for scale in scales:
        k = min(scale, widest)
        own = _counted(low[:, :k], share[:, :k], bins) / k  # (J, 3 * bins)
        weights = inverse[:, :k] / inverse[:, :k].sum(1, keepdim=True)
        histograms.append(own + _averaged(own, index[:, :k], weights))
    roots = torch.cat(histograms, dim=1).sqrt()
    return roots / roots.norm(dim=1, keepdim=True)


def _averaged(values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sums (J, F) of the rows `index` (J, K) of values (J, F) by weights (J, K)."""
    starts = np.arange(0, index.numel() + 1, index.shape[1])
    averaging = csr_array((weights.flatten().numpy(), index.flatten().numpy(), starts), shape=(len(values),) * 2)
    return torch.from_numpy(averaging @ values.numpy())


def _counted(low: Tensor, share: Tensor, bins: int) -> Tensor:
    """Histograms (J, 3 * bins) of soft counts: `share` of one for the bin above `low` (J, K, 3), the rest for `low`."""
    size = 3 * bins
    place = low + (torch.arange(3) * bins + torch.arange(len(low)).reshape(-1, 1, 1) * size)
    below = torch.bincount(place.flatten(), (1 - share).flatten(), len(low) * size)
    above = torch.bincount(place.flatten() + 1, share.flatten(), len(low) * size)
    return (below + above).reshape(len(low), size)


def _soft_bins(points: Tensor, normals: Tensor, neighbours: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The lower (J, K, 3) of the two bins each neighbour falls into, for each of three angles; the upper one's share."""
    offset = points[neighbours] - points.unsqueeze(1)  # (J, K, 3)
    line = offset / offset.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-9)
    u = normals.unsqueeze(1).expand_as(line)
    other = normals[neighbours]
    v = torch.linalg.cross(line, u)
    v = v / v.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-9)
    w = torch.linalg.cross(u, v)
    alpha = (v * other).sum(-1)  # Darboux frame, eq. 1 of the paper
    phi = (u * line).sum(-1)
    theta = torch.atan2((w * other).sum(-1), (u * other).sum(-1)) / math.pi
    place = ((torch.stack([alpha, phi, theta], dim=-1) + 1) * (bins / 2) - 0.5).clamp(0, bins - 1)
    low = place.floor().clamp_max(bins - 2)
    return low.long(), place - low
