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


def nodes_of(points: Tensor, normals: Tensor, around: Tensor, spacing: float, chosen: Tensor) -> Nodes:
    """The nodes `chosen` (J,) among components (N, 3) with unit normals (N, 3), as a batch of one.

    around (J, K) int64 are the other components about each node, nearest first; where K is less than the widest patch
    needs, they are repeated. `spacing` is the pair's: both clouds are measured by the coarser of the two.
    """
    widest = around.shape[1]
    members = [around[:, torch.arange(MEMBERS) * step % widest] for step in SCALES]  # (J, MEMBERS) each
    patches = torch.stack([describe_members(points, normals, chosen, index, spacing) for index in members])
    return Nodes((points[chosen] / spacing)[None], normals[chosen][None], patches.unsqueeze(1))


def describe_members(points: Tensor, normals: Tensor, chosen: Tensor, index: Tensor, spacing: float) -> Tensor:
    """(J, K, FEATURES): what members `index` (J, K) are to their nodes, in lengths, cosines and one orientation.

    Beside the point pair features (Drost et al. 2010) there are the height over the tangent plane, the cosines without
    their sign, since the sides of normals are a guess on flat patches, and a triple product that tells a patch from
    its mirror image.
    """
    offset = (points[index] - points[chosen].unsqueeze(1)) / (REACH * spacing)
    length = offset.square().sum(-1).sqrt()
    line = offset / length.clamp_min(1e-6).unsqueeze(-1)
    own = normals[chosen].unsqueeze(1)
    other = normals[index]
    rise, lean, turn = (own * line).sum(-1), (other * line).sum(-1), (own * other).sum(-1)
    twist = (torch.linalg.cross(own.expand_as(line), line) * other).sum(-1)
    relative = length / length.amax(-1, keepdim=True).clamp_min(1e-6)
    height = (own * offset).sum(-1)
    return torch.stack([length, relative, height, rise, lean, turn, lean.abs(), turn.abs(), twist], dim=-1)
