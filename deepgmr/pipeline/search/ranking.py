"""Which hypothesis is right: how two surfaces meet under it, one model for the ranking and for the confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from deepgmr.geometry.transform import RigidTransform, rotation_angle, rotation_grid
from deepgmr.pipeline.surface import Surface

_SIGMA = 0.5  # standard deviation of the place of a component, in spacings: half-way to its neighbours
_SIGMA_NORMAL = 0.7  # and of its normal, a unit vector
_BACKGROUND = 1.0  # likelihood ratio, to a perfect counterpart, of a component that only one surface has
_REACH = 3.0  # spacings beyond which no counterpart is looked for
_SEEN = 2.0  # spacings within which a counterpart counts as one: 15 of 16 of another random sample's do
_NEGLIGIBLE = 30.0  # nats; beyond it exp would underflow to subnormal numbers, ten times slower
_FIRST_LOOK = 2.5  # how much wider the components are when hypotheses have not been refined yet

_ALONG = 0.05  # weight of a gap along the surface, beside one across it: samples of one surface lie apart along it
_BELIEF = 0.01  # share of the components that stands for what is believed of motions under which nothing meets:
_BY_CHANCE = {"misfit": 0.2, "looseness": 0.2, "bend": 0.2, "relief": 0.03}  # squared, in spacings, or 1 - cosine
_ROUND = 12  # neighbours that say how much relief a surface has

_ELSEWHERE = 32  # places the smaller surface is put at, to see how closely it meets the other by chance
_RARE = 0.02  # share of those gaps below which their number is too small to count; the chance is a ball's volume there
_LEAST_CHANCE = 1e-12
_SIDES = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])

# What speaks for a hypothesis, in nats. `python scripts/calibrate.py` fits and prints these numbers.
WEIGHTS = {"score": 27.0, "misfit": -8.2, "looseness": -7.0, "bend": 6.0, "relief": 8.5}


@dataclass(frozen=True, eq=False)
class Ranking:
    """How well each of H motions explains the pair. Roots of means are over the components with a counterpart."""

    scores: Tensor  # (H,) in [0, 1]: one minus the divergence, as a share of that of surfaces that never meet
    misfit: Tensor  # (H,) log of the root mean square gap across the surfaces, in spacings
    looseness: Tensor  # (H,) the same, of all counterparts within reach
    bend: Tensor  # (H,) log of the root mean square disagreement of the normals
    relief: Tensor  # (H,) log of the root mean square height of what meets over its tangent planes, in spacings
    source_overlap: Tensor  # (H,) share of source components with a counterpart
    target_overlap: Tensor  # (H,) share of target components with a counterpart

    @property
    def plausibility(self) -> Tensor:
        """(H,) nats, up to a constant: what the hypotheses are ranked by.

        A multinomial logistic model of which hypothesis of a pair is right. Its coefficients read: the more is
        explained the better; what meets has to meet closely; and flat pieces fit one another anywhere, so the
        same gap is better evidence where normals and relief vary.
        """
        total = WEIGHTS["score"] * self.scores
        for name in _BY_CHANCE:
            total = total + WEIGHTS[name] * getattr(self, name)
        return total


def rank(motions: RigidTransform, source: Surface, target: Surface) -> Ranking:
    """Measure how the moved source and the target meet under motions (H,).

    Each surface is a mixture over places and normals with equal, isotropic components, and the divergence of one from
    the other is estimated by its nearest component (the largest term of the variational estimate, Hershey and Olsen
    2007, eq. 18) beside a uniform background that explains what only one of them has:

        D(p || q) = - mean_j log[ (exp(-KL(p_j || q_nearest(j))) + background) / (1 + background) ].

    The background makes this saturate, so that partial overlap costs its share and no more. It also makes it blunt:
    walls that cross at a small angle still overlap. The gaps between what meets are the sharper half.
    """
    spacing = max(source.spacing, target.spacing)
    heights = _heights(source), _heights(target)
    forward = _meeting(motions, source, target, spacing, heights)
    backward = _meeting(motions.inverse(), target, source, spacing, heights[::-1])
    both = {name: (forward[name] + backward[name]) / 2 for name in ("scores", *_BY_CHANCE)}
    return Ranking(**both, source_overlap=forward["overlap"], target_overlap=backward["overlap"])


def first_look(motions: RigidTransform, source: Surface, target: Surface, *, components: int = 128) -> Tensor:
    """Quick scores (H,) of motions not yet refined: some of the source only, one side, and wide components."""
    spacing = _FIRST_LOOK * max(source.spacing, target.spacing)
    contact = _contact(motions, source, target, _REACH * spacing, step=max(1, len(source) // components))
    return _score(contact, spacing)


def oriented_divergence(square: Tensor, cosine: Tensor, sigma: float) -> Tensor:
    """KL (*B) between Gaussians over place and normal, equal but for their means; a normal's sign means nothing.

    square (*B) of the distance of the places, cosine (*B) of the normals: the squared distance of two unit vectors is
    twice one minus their cosine.
    """
    return square / (2 * sigma**2) + (1 - cosine.abs()) / _SIGMA_NORMAL**2


def accidents(motion: RigidTransform, source: Surface, target: Surface, *, components: int = 64) -> float:
    """Log of how many motions would, by chance, bring the smaller surface as close to the other as this one does.

    The a-contrario test of Moisan and Stival (IJCV 2004, eq. 3): any three matches make a motion, so of k components
    with a counterpart within a distance only k - 3 speak for it, each as much as such a counterpart is rare about the
    surface turned and shifted anyhow. Above zero the meeting is worth nothing, as it must be for a handful of points.
    """
    if len(source) > len(target):
        return accidents(motion.inverse(), target, source, components=components)
    reach = _REACH * max(source.spacing, target.spacing)
    points, other = source.points.double(), target.tree
    gaps = np.sort(other.query(motion.apply(points).numpy(), distance_upper_bound=reach)[0])
    gaps = gaps[np.isfinite(gaps)]
    n, k = len(source), np.arange(4, len(gaps) + 1)
    if not len(k):
        return math.log(n) + 3 * math.log(len(target))
    centre = points.mean(0)
    offset = (points - centre)[:: max(1, n // components)]
    shift = 0.5 * offset.square().sum(-1).mean().sqrt() * _SIDES[torch.arange(_ELSEWHERE) % len(_SIDES)]
    turned = offset @ rotation_grid(_ELSEWHERE, dtype=torch.float64).mT  # (G, J, 3)
    elsewhere = (turned + shift.unsqueeze(1) + motion.apply(centre[None])).flatten(0, 1)
    chance = np.sort(other.query(elsewhere.numpy(), distance_upper_bound=reach)[0])
    rare = float(np.clip(chance[int(_RARE * len(chance))], 1e-12, reach))
    rate = np.where(
        gaps > rare, np.searchsorted(chance, gaps, side="right") / len(chance), _RARE * (gaps / rare) ** 3
    ).clip(_LEAST_CHANCE)
    choices = gammaln(n + 1) - gammaln(n - k + 1) - gammaln(k - 2) - math.log(6)  # C(n, k) C(k, 3)
    expected = math.log(n) + 3 * math.log(len(target)) + choices + (k - 3) * np.log(rate[3:])
    return float(expected.min())


# -- how two surfaces meet -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Contact:
    """The nearest counterparts of J components under H motions."""

    distance: Tensor  # (H, J), infinite beyond the reach
    index: Tensor  # (H, J) into the other surface; the last component where there is none
    square: Tensor  # (H, J) squared distance
    across: Tensor  # (H, J) squared distance along the normal of the counterpart
    cosine: Tensor  # (H, J) of the two normals, sign left out


def _contact(motions: RigidTransform, source: Surface, target: Surface, reach: float, step: int = 1) -> _Contact:
    motions = motions.to(source.points.dtype)
    moved = motions.apply(source.points[::step])  # (H, J, 3)
    distance, nearest = target.tree.query(moved.double().numpy(), distance_upper_bound=reach)
    index = torch.from_numpy(np.minimum(nearest, len(target) - 1))
    normals = target.normals[index]
    residual = moved - target.points[index]
    return _Contact(
        torch.from_numpy(distance).to(moved.dtype),
        index,
        residual.square().sum(-1),
        (residual * normals).sum(-1).square(),
        (motions.rotate(source.normals[::step]) * normals).sum(-1).abs(),
    )


def _score(contact: _Contact, spacing: float) -> Tensor:
    """One minus the divergence (H,), as a share of its largest value."""
    divergence = oriented_divergence(contact.square, contact.cosine, _SIGMA * spacing)
    likeness = torch.exp(-divergence.clamp_max(_NEGLIGIBLE)).where(contact.distance.isfinite(), 0.0)
    log_ratio = torch.log((likeness + _BACKGROUND) / (1 + _BACKGROUND))
    return (1 - log_ratio / math.log(_BACKGROUND / (1 + _BACKGROUND))).mean(-1)


def _meeting(
    motions: RigidTransform, source: Surface, target: Surface, spacing: float, heights: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """The terms (H,) of one side."""
    contact = _contact(motions, source, target, _REACH * spacing)
    seen, within = contact.distance <= _SEEN * spacing, contact.distance.isfinite()
    unit = spacing**2

    def typical(name: str, value: Tensor, counted: Tensor) -> Tensor:
        """Half the log of the mean of squares, drawn to what chance gives where little is counted."""
        belief = _BELIEF * value.shape[-1]
        total = torch.where(counted, value, 0.0).sum(-1) + belief * _BY_CHANCE[name]
        return 0.5 * torch.log(total / (counted.sum(-1) + belief))

    return {
        "scores": _score(contact, spacing),
        "misfit": typical("misfit", (contact.across + _ALONG * contact.square) / unit, seen),
        "looseness": typical("looseness", contact.across / unit, within),
        "bend": typical("bend", 1 - contact.cosine, seen),
        "relief": typical("relief", (heights[0] + heights[1][contact.index]) / unit, seen),
        "overlap": seen.to(contact.square).mean(-1),
    }


def _heights(surface: Surface) -> Tensor:
    """Mean squared height (J,) of the neighbours of each component over its tangent plane."""
    offset = surface.points[surface.neighbours[:, :_ROUND]] - surface.points.unsqueeze(1)  # (J, K, 3)
    return (offset @ surface.normals.unsqueeze(-1)).squeeze(-1).square().mean(-1)


# -- which hypotheses are the same -----------------------------------------------------------------------------


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


def unlikeness(motion: RigidTransform, others: RigidTransform, surface: Surface, *, components: int = 128) -> Tensor:
    """How far (H,) the surface moved by `others` (H,) lies from the surface moved by `motion`: zero for a symmetry.

    ADD-S (Hinterstoisser et al. 2012) between the two motions, with distances measured across the surface where there
    is one nearby, so that the finite sampling of a symmetric shape does not count.
    """
    between = motion.inverse() @ others
    contact = _contact(between, surface, surface, math.inf, step=max(1, len(surface) // components))
    near = contact.distance <= _SEEN * surface.spacing
    return torch.where(near, contact.across.sqrt(), contact.distance).mean(-1)
