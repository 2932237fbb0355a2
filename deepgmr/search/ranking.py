"""Which hypothesis is right: a divergence between the two surfaces that forgives what only one of them saw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepgmr.surface import Surface
from deepgmr.transform import RigidTransform, rotation_angle

_SIGMA = 0.5  # standard deviation of the place of a component, in spacings: half-way to its neighbours
_SIGMA_NORMAL = 0.7  # and of its normal, a unit vector
_BACKGROUND = 1.0  # likelihood ratio, to a perfect counterpart, of a component that only one surface has
_REACH = 3.0  # spacings beyond which no counterpart is looked for
_SEEN = 2.0  # spacings within which a counterpart counts as one: 15 of 16 of another random sample's do
_NEGLIGIBLE = 30.0  # nats; beyond it exp would underflow to subnormal numbers, ten times slower
_FIRST_LOOK = 2.5  # how much wider the components are when hypotheses have not been refined yet


@dataclass(frozen=True, eq=False)
class Ranking:
    """How well each of H motions explains the pair."""

    scores: Tensor  # (H,) in [0, 1]: one minus the divergence, as a share of that of surfaces that never meet
    source_overlap: Tensor  # (H,) share of source components with a counterpart
    target_overlap: Tensor  # (H,) share of target components with a counterpart


def rank(motions: RigidTransform, source: Surface, target: Surface) -> Ranking:
    """Score motions (H,) by the two-sided divergence between the moved source and the target.

    Each surface is a mixture over places and normals with equal, isotropic components, and the divergence of one from
    the other is estimated by its nearest component (the largest term of the variational estimate, Hershey and Olsen
    2007, eq. 18) beside a uniform background that explains what only one of them has:

        D(p || q) = - mean_j log[ (exp(-KL(p_j || q_nearest(j))) + background) / (1 + background) ].

    The background makes this saturate, so that partial overlap costs its share and no more.
    """
    spacing = max(source.spacing, target.spacing)
    forward = _explained(motions, source, target, spacing)
    backward = _explained(motions.inverse(), target, source, spacing)
    return Ranking((forward[0] + backward[0]) / 2, forward[1], backward[1])


def first_look(motions: RigidTransform, source: Surface, target: Surface, *, components: int = 128) -> Tensor:
    """Quick scores (H,) of motions not yet refined: some of the source only, one side, and wide components."""
    spacing = _FIRST_LOOK * max(source.spacing, target.spacing)
    return _explained(motions, source, target, spacing, step=max(1, len(source) // components))[0]


def oriented_divergence(residual: Tensor, normals: Tensor, others: Tensor, sigma: float) -> Tensor:
    """KL (*B) between Gaussians over place and normal, equal but for their means; a normal's sign means nothing.

    residual (*B, 3) between the places, normals and others (*B, 3) unit: the squared distance of two unit vectors is
    twice one minus their cosine.
    """
    cosine = (normals * others).sum(-1).abs()
    return residual.square().sum(-1) / (2 * sigma**2) + (1 - cosine) / _SIGMA_NORMAL**2


def _explained(
    motions: RigidTransform, source: Surface, target: Surface, spacing: float, step: int = 1
) -> tuple[Tensor, Tensor]:
    """For motions (H,): one minus the divergence, as a share of its largest value; the share of source seen."""
    motions = motions.to(source.points.dtype)
    moved = motions.apply(source.points[::step])  # (H, J, 3)
    normals = motions.rotate(source.normals[::step])
    distance, nearest = target.tree.query(moved.double().numpy(), distance_upper_bound=_REACH * spacing)
    found = torch.from_numpy(np.isfinite(distance))
    index = torch.from_numpy(np.minimum(nearest, len(target) - 1))
    divergence = oriented_divergence(moved - target.points[index], normals, target.normals[index], _SIGMA * spacing)
    likeness = torch.where(found, torch.exp(-divergence.clamp_max(_NEGLIGIBLE)), torch.zeros_like(divergence))
    log_ratio = torch.log((likeness + _BACKGROUND) / (1 + _BACKGROUND))
    nothing = math.log(_BACKGROUND / (1 + _BACKGROUND))
    return (1 - log_ratio / nothing).mean(-1), torch.from_numpy(distance <= _SEEN * spacing).to(likeness).mean(-1)


def distinct(motions: RigidTransform, scores: Tensor, count: int, *, angle: float, distance: float) -> Tensor:
    """Indices of the `count` best motions (H,) of which no two are within both `angle` (rad) and `distance`."""
    order = scores.argsort(descending=True, stable=True)
    rotation, translation = motions.rotation[order], motions.translation[order]
    turn = rotation_angle(rotation.unsqueeze(1).mT @ rotation)  # (H, H)
    close = ((turn < angle) & (torch.cdist(translation, translation) < distance)).numpy()
    kept: list[int] = []
    free = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if free[i]:
            kept.append(i)
            if len(kept) == count:
                break
            free &= ~close[i]
    return order[kept]
