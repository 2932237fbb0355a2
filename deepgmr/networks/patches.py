"""What the overlap network sees of a cloud: nodes, each with the patches around it in numbers that no motion changes.

A patch holds a node's nearest components, and only those: nothing refers to the centroid or to the far side of the
cloud, which the other scan may not have seen. Lengths are in spacings, the distance between neighbouring components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SCALES = (1, 2)  # every component of the nearest `MEMBERS`, and every second one of twice as many
MEMBERS = 32  # of a patch
FEATURES = 9  # of a member
REACH = 8.0  # spacings that count as one in the lengths: about the radius of the widest patch


@dataclass(frozen=True, eq=False)
class Nodes:
    """J components of each of B clouds, chosen to cover it evenly, and their patches."""

    points: Tensor  # (B, J, 3) in spacings
    normals: Tensor  # (B, J, 3), unit
    patches: Tensor  # (scales, B, J, MEMBERS, FEATURES)

    def to(self, device: torch.device) -> Nodes:
        return Nodes(self.points.to(device), self.normals.to(device), self.patches.to(device))


def nodes_of(points: Tensor, normals: Tensor, around: Tensor, spacing: float | Tensor, chosen: Tensor) -> Nodes:
    """The nodes `chosen` (J,) among components (N, 3) with unit normals (N, 3), as a batch of one.

    around (J, K) int64 are the other components about each node, nearest first; where K is less than the widest patch
    needs, they are repeated. `spacing` is the pair's: both clouds are measured by the coarser of the two.
    """
    widest = around.shape[1]
    members = torch.cat([around[:, torch.arange(MEMBERS) * step % widest] for step in SCALES])  # (scales * J, MEMBERS)
    patches = describe_members(points, normals, chosen.repeat(len(SCALES)), members, spacing)
    return Nodes((points[chosen] / spacing)[None], normals[chosen][None], patches.unflatten(0, (len(SCALES), 1, -1)))


def describe_members(points: Tensor, normals: Tensor, chosen: Tensor, index: Tensor, spacing: float | Tensor) -> Tensor:
    """(J, K, FEATURES): what members `index` (J, K) are to their nodes, in lengths, cosines and one orientation.

    Beside the point pair features (Drost et al. 2010) there are the height over the tangent plane, the cosines without
    their sign, since the sides of normals are a guess on flat patches, and a triple product that tells a patch from
    its mirror image.
    """
    flat, shape = index.flatten(), (3, *index.shape)  # coordinates lead: sums over a short last dimension are slow
    offset = (points.T[:, flat].view(shape) - points[chosen].T.unsqueeze(-1)) / (REACH * spacing)
    length = _dot(offset, offset).sqrt()
    line = offset / length.clamp_min(1e-6)
    own, other = normals[chosen].T.unsqueeze(-1), normals.T[:, flat].view(shape)
    rise, lean, turn = _dot(own, line), _dot(other, line), _dot(own, other)
    twist = _dot(torch.linalg.cross(own.expand_as(line), line, dim=0), other)
    relative = length / length.amax(-1, keepdim=True).clamp_min(1e-6)
    height = _dot(own, offset)
    return torch.stack([length, relative, height, rise, lean, turn, lean.abs(), turn.abs(), twist], dim=-1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar products (J, K) of vectors (3, J, K)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
