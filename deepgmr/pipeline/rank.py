"""How two surfaces meet under a motion, in named terms; what makes one hypothesis more plausible than another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from deepgmr.divergence.partial import kl_oriented, largest_partial_divergence, partial_divergence
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.neighbours import Tree
from deepgmr.geometry.transform import RigidTransform, first_apart, rotation_grid
from deepgmr.pipeline.cohort import asked
from deepgmr.pipeline.propose.learned import LearnedMatches
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import AccidentSettings, RankSettings
from deepgmr.pipeline.visibility import Views, seen_through


@dataclass(frozen=True, eq=False)
class Terms:
    """How the two clouds meet under each of H motions. Roots of means are over the components with a counterpart."""

    score: Tensor  # (H,) in [0, 1]: one minus the partial divergence, as a share of its largest value
    misfit: Tensor  # (H,) log of the root mean square gap across the surfaces, in spacings
    looseness: Tensor  # (H,) the same, of all counterparts within reach
    bend: Tensor  # (H,) log of the root mean square disagreement of the normals
    relief: Tensor  # (H,) log of the root mean square height of what meets over its tangent planes, in spacings
    contradiction: Tensor  # (H,) in [0, 1]: how far what lacks a counterpart lies amid what has one, 1: as by chance
    shared: Tensor  # (H,) log of the share of the components with a counterpart
    closeness: Tensor  # (H,) in [0, 1]: as `score`, of disks that are narrow across the surface
    cut: Tensor  # (H,) in [0, 1]: how well a plane parts what has a counterpart from what has none
    matched: Tensor  # (H,) mean log of the share of the network's matches that it makes good; 0 if it was not asked
    source_overlap: Tensor  # (H,) share of source components with a counterpart
    target_overlap: Tensor  # (H,) share of target components with a counterpart
    seen_through: Tensor  # (H,) nats against it, for what stands in space that a sensor saw through; 0 if unknown

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: Tensor | slice) -> Terms:
        return Terms(**{name: value[index] for name, value in vars(self).items()})

    def row(self, index: int) -> dict[str, float]:
        """The terms of one motion, by name."""
        return {name: float(value[index]) for name, value in vars(self).items()}

    @classmethod
    def none(cls) -> Terms:
        """The terms of no motions."""
        return cls(**{item.name: torch.zeros(0) for item in fields(cls)})

    @classmethod
    def joined(cls, parts: list[Terms]) -> Terms:
        return cls(**{item.name: torch.cat([getattr(part, item.name) for part in parts]) for item in fields(cls)})


RANKED = {  # the terms that plausibility weighs: whether the more of it there is, the more (+1) or the less plausible (-1)
    "score": 1,
    "misfit": -1,
    "looseness": -1,
    "bend": -1,
    "relief": 1,
    "contradiction": -1,
    "shared": 1,
    "closeness": 1,
    "cut": 1,
    "matched": 1,
}


@dataclass(frozen=True)
class Ranking:
    """A multinomial logistic model of which hypothesis of a pair is right: a weight, in nats, for each of `RANKED`.

    The weights read: the more is explained the better; what meets has to meet closely; and flat pieces fit one another
    anywhere, so the same gap is better evidence where normals and relief vary.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        check_names("the ranking", self.weights, tuple(RANKED))

    def plausibility(self, terms: Terms) -> Tensor:
        """(H,) nats, up to a constant: what the hypotheses are ranked by."""
        total = torch.zeros_like(terms.score)
        for name in RANKED:
            total = total + self.weights[name] * getattr(terms, name)
        return total - terms.seen_through


def check_names(what: str, weights: Mapping[str, float], names: tuple[str, ...]) -> None:
    """Raise `InvalidConfig` unless there is one weight, a finite number, for each of the names and no other."""
    missing, unknown = [n for n in names if n not in weights], [n for n in weights if n not in names]
    if missing or unknown:
        said = "; ".join(
            f"{word} {', '.join(f'`{name}`' for name in found)}"
            for word, found in (("missing", missing), ("unknown", unknown))
            if found
        )
        raise InvalidConfig(f"{what} weighs {', '.join(names)} ({said}); calibrate it again with this version")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise InvalidConfig(f"{what} weighs `{name}` by {str(weight)[:40]!r}, which is no finite number")


def measure(
    motions: RigidTransform,
    source: Level,
    target: Level,
    settings: RankSettings,
    *,
    least: float = 0.0,
    views: Views = (None, None),
    learned: LearnedMatches | None = None,
) -> Terms:
    """The terms of motions (H,); lengths in spacings of the sparser level, but at least `least`, in frame units.

    `views` are those of the source and the target, where their sensors' origins are known; `learned` is what the network
    says of the pair, in the same frame.

    The score is the divergence of either surface from the other (`deepgmr.divergence.partial`), over places and
    normals, with the nearest component as the counterpart; the mean of the two directions. Its background makes it
    saturate, so that partial overlap costs its share, but also blunt: walls that cross at a small angle still overlap.
    The gaps between what meets are the sharper half.
    """
    spacing = max(source.spacing, target.spacing, least)
    asked = source.balanced(settings.asked), target.balanced(settings.asked)
    for level in asked:
        level.patches(settings.patch)  # the widest that is needed: narrower ones are part of it
    forward = _side(motions, asked[0], target, spacing, settings)
    backward = _side(motions.inverse(), asked[1], source, spacing, settings)
    through = settings.seen_through * seen_through(motions, asked[0].means, asked[1].means, views, spacing)
    both = {name: (forward[name] + backward[name]) / 2 for name in RANKED if name in forward}
    both["matched"] = torch.zeros_like(both["score"]) if learned is None else learned.makes_good(motions)
    overlaps = {"source_overlap": forward["overlap"], "target_overlap": backward["overlap"]}
    return Terms(**both, **overlaps, seen_through=through.to(both["score"].dtype))


def met(motions: RigidTransform, source: Level, target: Level, settings: RankSettings) -> Tensor:
    """The share (H,) of all components of the source that have a counterpart under motions (H,)."""
    spacing = max(source.spacing, target.spacing)
    contact = _contact(motions, source, target, settings.stretch * settings.seen * spacing)
    return (contact.distance <= settings.seen * _local(source, target, contact, spacing, settings)).float().mean(-1)


def first_look(motions: RigidTransform, source: Level, target: Level, settings: RankSettings) -> Tensor:
    """Quick scores (H,) of motions not yet refined: some of the source only, one side, and wide components."""
    spacing = settings.first_look * max(source.spacing, target.spacing)
    step = max(1, len(source) // settings.first_components)
    return _score(_contact(motions, source, target, settings.reach * spacing, step), spacing, settings)


def distinct(motions: RigidTransform, scores: Tensor, count: int, *, angle: float, distance: float) -> Tensor:
    """Indices of the `count` best motions (H,) of which no two are within both `angle` (rad) and `distance`."""
    order = scores.argsort(descending=True, stable=True)
    return order[first_apart(motions[order], count, angle=angle, distance=distance)]


def unlikeness(motion: RigidTransform, others: RigidTransform, level: Level, settings: RankSettings) -> Tensor:
    """How far (H,) the surface moved by `others` (H,) lies from the surface moved by `motion`: zero for a symmetry.

    ADD-S (Hinterstoisser et al. 2012) between the two motions, with distances measured across the surface where there
    is one nearby, so that the finite sampling of a symmetric shape does not count.
    """
    between = motion.inverse() @ others
    contact = _contact(between, level, level, math.inf, step=max(1, len(level) // settings.placed))
    near = contact.distance <= settings.seen * level.spacing
    return torch.where(near, contact.across.sqrt(), contact.distance).mean(-1)


def astray(
    motion: RigidTransform, others: RigidTransform, source: Level, target: Level, settings: RankSettings
) -> Tensor:
    """The share (H,) of a surface that has no place on itself where `motion` is one of `others` (H,): zero for a symmetry.

    That of the source or of the target, whichever is less: a view of a round thing is not round.
    """
    shares = []
    for between, level in ((motion.inverse() @ others, source), (others @ motion.inverse(), target)):
        contact = _contact(between, level, level, math.inf, step=max(1, len(level) // settings.strayed))
        near = contact.distance <= settings.seen * level.spacing
        shares.append((~near | (contact.across.sqrt() > settings.off * level.spacing)).float().mean(-1))
    return torch.minimum(*shares)


def accidents(
    motion: RigidTransform, source: Level, target: Level, rank: RankSettings, settings: AccidentSettings
) -> float:
    """Log of how many motions would, by chance, bring the smaller surface as close to the other as this one does.

    The a-contrario test of Moisan and Stival (IJCV 2004, eq. 3): any three matches make a motion, so of k components
    with a counterpart within a distance only k - 3 speak for it, each as much as such a counterpart is rare about the
    surface turned and shifted anyhow. Above zero the meeting is worth nothing, as it must be for a handful of points.
    """
    if len(source) > len(target):
        return accidents(motion.inverse(), target, source, rank, settings)
    reach = rank.reach * max(source.spacing, target.spacing)
    points, other = torch.from_numpy(source.points), target.tree
    gaps = np.sort(other.within(motion.apply(points).numpy(), reach)[0])
    gaps = gaps[np.isfinite(gaps)]
    n, k = len(source), np.arange(4, len(gaps) + 1)
    if not len(k):
        return math.log(n) + 3 * math.log(len(target))
    centre = points.mean(0)
    offset = (points - centre)[:: max(1, n // settings.components)]
    sides = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    away = settings.shift * offset.square().sum(-1).mean().sqrt() * sides[torch.arange(settings.places) % len(sides)]
    turned = offset @ rotation_grid(settings.places, dtype=torch.float64).mT  # (G, J, 3)
    elsewhere = (turned + away.unsqueeze(1) + motion.apply(centre[None])).flatten(0, 1)
    chance = np.sort(other.within(elsewhere.numpy(), reach)[0])
    rare = float(np.clip(chance[int(settings.rare * len(chance))], 1e-12, reach))
    counted = np.searchsorted(chance, gaps, side="right") / len(chance)
    rate = np.where(gaps > rare, counted, settings.rare * (gaps / rare) ** 3).clip(1e-12)
    choices = gammaln(n + 1) - gammaln(n - k + 1) - gammaln(k - 2) - math.log(6)  # C(n, k) C(k, 3)
    expected = math.log(n) + 3 * math.log(len(target)) + choices + (k - 3) * np.log(rate[3:])
    return float(expected.min())


# -- how two surfaces meet -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Contact:
    """The nearest counterparts of J components under H motions."""

    distance: Tensor  # (H, J), infinite beyond the reach
    index: Tensor  # (H, J) into the other surface; any where there is none
    square: Tensor  # (H, J) squared distance
    across: Tensor  # (H, J) squared distance along the normal of the counterpart
    cosine: Tensor  # (H, J) of the two normals, sign left out


def _contact(motions: RigidTransform, source: Level, target: Level, reach: float, step: int = 1) -> _Contact:
    motions = motions.to(source.means.dtype)
    moved = motions.apply(source.means[::step])  # (H, J, 3)
    distance, nearest = asked(Tree.within, target.tree, moved.flatten(0, -2).double().numpy(), reach)
    index = torch.from_numpy(nearest).reshape(moved.shape[:-1])
    normals = target.directions[index]
    residual = moved - target.means[index]
    return _Contact(
        torch.from_numpy(distance).to(moved.dtype).reshape(moved.shape[:-1]),
        index,
        residual.square().sum(-1),
        (residual * normals).sum(-1).square(),
        (motions.rotate(source.directions[::step]) * normals).sum(-1).abs(),
    )


def _score(contact: _Contact, spacing: float | Tensor, settings: RankSettings) -> Tensor:
    """One minus the partial divergence (H,), as a share of its largest value."""
    kl = kl_oriented(contact.square, contact.cosine, sigma=settings.sigma * spacing, sigma_normal=settings.sigma_normal)
    divergence = partial_divergence(
        kl.where(contact.distance <= settings.reach * spacing, math.inf), background=settings.background
    )
    return (1 - divergence / largest_partial_divergence(settings.background)).clamp(0, 1)  # but for rounding


def _side(
    motions: RigidTransform, source: Level, target: Level, spacing: float, settings: RankSettings
) -> dict[str, Tensor]:
    """The terms (H,) of one side."""
    contact = _contact(motions, source, target, settings.stretch * settings.reach * spacing)
    local = _local(source, target, contact, spacing, settings)
    seen, within = contact.distance <= settings.seen * local, contact.distance <= settings.reach * local
    unit = spacing**2

    def typical(name: str, value: Tensor, counted: Tensor) -> Tensor:
        """Half the log of the mean of squares, drawn to what chance gives where little is counted."""
        belief = settings.belief * value.shape[-1]
        total = torch.where(counted, value, 0.0).sum(-1) + belief * settings.by_chance[name]
        return 0.5 * torch.log(total / (counted.sum(-1) + belief))

    return {
        "score": _score(contact, local, settings),
        "misfit": typical("misfit", contact.across / unit + settings.along * contact.square / local**2, seen),
        "looseness": typical("looseness", contact.across / unit, within),
        "bend": typical("bend", 1 - contact.cosine, seen),
        "relief": typical("relief", (source.heights + target.heights[contact.index]) / unit, seen),
        "contradiction": _contradiction(seen, source.patches(settings.patch), settings.strewn),
        "shared": torch.log(seen.to(contact.square).mean(-1) + settings.belief),
        "closeness": _closeness(contact, local, spacing, settings),
        "cut": _cut(seen, source.means, settings.strewn),
        "overlap": seen.to(contact.square).mean(-1),
    }


def _local(source: Level, target: Level, contact: _Contact, spacing: float, settings: RankSettings) -> Tensor:
    """The spacing (H, J) about what meets: a sensor samples what is far from it sparsely, and so lie its counterparts."""
    return torch.maximum(source.gaps, target.gaps[contact.index]).clamp(spacing, settings.stretch * spacing)


def _closeness(contact: _Contact, local: Tensor, spacing: float, settings: RankSettings) -> Tensor:
    """One minus the partial divergence (H,) of narrow disks, as a share of its largest value."""
    height = contact.across / (settings.narrow * spacing) ** 2
    slid = (contact.square - contact.across).clamp_min(0) / (settings.narrow_along * local) ** 2
    kl = (height + slid) / 2 + (1 - contact.cosine).clamp_min(0) / settings.sigma_normal**2
    kl = kl.where(contact.distance <= settings.reach * spacing, math.inf)
    largest = largest_partial_divergence(settings.narrow_background)
    return (1 - partial_divergence(kl, background=settings.narrow_background) / largest).clamp(0, 1)


def _cut(seen: Tensor, means: Tensor, strewn: float) -> Tensor:
    """How well (H,) a plane parts what has a counterpart (H, J) from what has none: the share that a linear fit explains.

    A sensor's view, or a cut, ends somewhere; what lacks a counterpart at both ends of a cloud was not left out by one.
    Less than `strewn` of either is too little to tell.
    """
    spots = torch.cat([means - means.mean(0), means.new_ones(len(means), 1)], dim=1)
    value = seen.to(means.dtype)
    values, vectors = torch.linalg.eigh(spots.mT @ spots)
    axes = spots @ (vectors / values.clamp_min(1e-6 * float(values[-1])).sqrt())  # (J, 4), orthonormal
    left = value.square().mean(-1) - (value @ axes).square().sum(-1) / len(means)
    whole = value.mean(-1)
    return 1 - left.clamp_min(0) / (whole * (1 - whole) + strewn)


def _contradiction(seen: Tensor, patches: Tensor, strewn: float) -> Tensor:
    """How mixed (H,) what has a counterpart and what has none lie: the mean of 4 p (1 - p) over patches (J, K).

    p is the share of a patch with a counterpart. As a share of what it is where both are strewn about: partial overlap
    ends somewhere, so it costs the patches at its edge; a thing that stands amid what fits, and fits nothing, costs all
    of its own. Less than `strewn` of either is too little to tell.
    """
    share = seen.to(torch.float32)[:, patches].mean(-1)
    whole = seen.to(torch.float32).mean(-1)
    return (4 * share * (1 - share)).mean(-1) / (4 * whole * (1 - whole) + strewn)
