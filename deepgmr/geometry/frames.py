"""Clouds about their centroids, at unit size."""

from __future__ import annotations

import torch
from torch import Tensor


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
