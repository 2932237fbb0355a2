"""What pairs of a cohort ask for, computed for many of them at once on one device.

The same computations as alone, in the same precision. Clouds of unlike sizes are padded: a row that stands for nothing
lies infinitely far away, or counts for nothing. On a CPU only the network gains by company (docs/howto/many.md); there the
trees and the generalised ICP of small_gicp are many times as fast as what a GPU is given, which compares all with all.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deepgmr.errors import InvalidConfig
from deepgmr.geometry.neighbours import Tree
from deepgmr.geometry.procrustes import inverse_3x3
from deepgmr.geometry.transform import RigidTransform, hat
from deepgmr.networks.overlap import OverlapNetwork, OverlapPrediction
from deepgmr.networks.patches import Nodes
from deepgmr.pipeline.agree import agreed
from deepgmr.pipeline.cohort import Ask, Shared
from deepgmr.pipeline.propose.learned import predicted
from deepgmr.pipeline.refine import align, tidied
from deepgmr.pipeline.scan import Level

_COMPANY = {"cpu": 8, "cuda": 32}  # pairs under way, where nobody says how many
_AT_ONCE = {"cpu": 4, "cuda": 256}  # pairs that the network sees at once: more fall out of a CPU's cache
_LARGE = 8192  # components from which a tree is faster than all distances
_ENTRIES = 1 << 26  # of distances in float64 that are held at a time: half a gigabyte
_HELD = 64  # numbers that a fit holds for each component
_THICKNESS = 1e-3  # variance of a disk across it, as a share of that in its plane: small_gicp's
_LAMBDA, _FACTOR, _TRIES = 1e-3, 10.0, 10  # of Levenberg and Marquardt, as in small_gicp


def device_of(name: str) -> torch.device:
    """A device that can be computed on. Raises `InvalidConfig` for one that there is not."""
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InvalidConfig(
            f"device `{name}` cannot be used ({str(error).splitlines()[0]}); give cpu or cuda"
        ) from None
    return device


def company(device: torch.device) -> int:
    """How many pairs are under way, where nobody says."""
    return _COMPANY.get(device.type, _COMPANY["cuda"])


def computations(device: torch.device, *, everything: bool = False) -> Shared:
    """What is worth computing together on a device; or all that can be."""
    with_network = {predicted: functools.partial(_predicted, device)}
    if device.type == "cpu" and not everything:
        return with_network
    return {
        **with_network,
        agreed: functools.partial(_agreed, device),
        align: functools.partial(_aligned, device),
        Tree.within: functools.partial(_within, device),
    }


def _in_groups(
    asks: Sequence[Ask], key: Callable[..., Hashable], most: int, compute: Callable[[list[Ask]], Sequence[Any]]
) -> list[Any]:
    """The answers to asks, of which those of one key are computed together, so many at a time."""
    groups: dict[Hashable, list[int]] = {}
    for number, ask in enumerate(asks):
        groups.setdefault(key(*ask), []).append(number)
    answers: list[Any] = [None] * len(asks)
    for group in groups.values():
        for some in (group[start : start + most] for start in range(0, len(group), most)):
            for number, answer in zip(some, compute([asks[each] for each in some]), strict=True):
                answers[number] = answer
    return answers


# -- the network ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _on(device: torch.device, network: OverlapNetwork) -> OverlapNetwork:
    return network if device.type == "cpu" else copy.deepcopy(network).to(device)


@torch.inference_mode()
def _predicted(device: torch.device, asks: Sequence[Ask]) -> list[OverlapPrediction]:
    def key(network: OverlapNetwork, source: Nodes, target: Nodes) -> Hashable:
        return network, source.points.shape, target.points.shape

    def compute(some: list[Ask]) -> list[OverlapPrediction]:
        network, *nodes = _on(device, some[0][0]), *(_joined([ask[i] for ask in some]).to(device) for i in (1, 2))
        found = network(*nodes)
        parts = (part.cpu().split(1) for part in (found.similarity, found.source_overlap, found.target_overlap))
        return [OverlapPrediction(a, b, c, found.weighted) for a, b, c in zip(*parts, strict=True)]

    return _in_groups(asks, key, _AT_ONCE.get(device.type, _AT_ONCE["cuda"]), compute)


def _joined(nodes: Sequence[Nodes]) -> Nodes:
    points, normals = (torch.cat([getattr(each, name) for each in nodes]) for name in ("points", "normals"))
    return Nodes(points, normals, torch.cat([each.patches for each in nodes], dim=1))


# -- matches that agree --------------------------------------------------------------------------------------------


def _agreed(device: torch.device, asks: Sequence[Ask]) -> list[tuple[RigidTransform, Tensor]]:
    def key(a: Tensor, *others: Any) -> Hashable:
        return a.shape, others[-1]

    def compute(some: list[Ask]) -> list[tuple[RigidTransform, Tensor]]:
        *places, tolerances, (settings, *_) = zip(*some, strict=True)
        a, b, m, n = (torch.stack(each).to(device) for each in places)
        tolerance = torch.tensor(tolerances, dtype=a.dtype, device=device)[:, None, None]
        motions, agreement = agreed(a, b, m, n, tolerance, settings)
        motions, agreement = motions.to("cpu"), agreement.cpu()
        return [(motions[i], agreement[i]) for i in range(len(some))]

    return _in_groups(asks, key, len(asks), compute)


# -- nearest components --------------------------------------------------------------------------------------------


def _within(device: torch.device, asks: Sequence[Ask]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`Tree.within` of trees, queries (Q, 3) and reaches."""

    def compute(some: list[Ask]) -> list[tuple[np.ndarray, np.ndarray]]:
        trees, queries, reaches = zip(*some, strict=True)
        if len(trees[0]) > _LARGE:
            return [Tree.within(*ask) for ask in some]
        distance, index = _nearest(
            _padded(queries, device), _padded([tree.points for tree in trees], device, fill=torch.inf)
        )
        reach = torch.tensor(reaches, dtype=distance.dtype, device=device)[:, None]
        distance, index = distance.where(distance <= reach, torch.inf).cpu(), index.cpu()
        counts = map(len, queries)
        return [(distance[i, :n].numpy(), index[i, :n].numpy()) for i, n in enumerate(counts)]

    return _in_groups(asks, lambda tree, *_: len(tree) > _LARGE, len(asks), compute)


def _padded(clouds: Sequence[np.ndarray], device: torch.device, fill: float = 0.0) -> Tensor:
    """(B, N, ...) float64 of arrays (N, ...) of different lengths."""
    return pad_sequence([torch.from_numpy(each) for each in clouds], batch_first=True, padding_value=fill).to(device)


def _nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (B, Q) and index (B, Q) of the nearest of points (B, N, 3) to each of queries (B, Q, 3)."""
    rows = max(1, _ENTRIES // (queries.shape[0] * points.shape[1]))
    found = [  # exact: not by way of a product
        torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").min(-1)
        for part in queries.split(rows, dim=1)
    ]
    return torch.cat([part.values for part in found], 1), torch.cat([part.indices for part in found], 1)


# -- generalised ICP -----------------------------------------------------------------------------------------------


def _aligned(device: torch.device, asks: Sequence[Ask]) -> list[np.ndarray]:
    """`refine.align` of sources, targets, starts (H, 4, 4), reaches, numbers of iterations and steps that are small."""

    def key(
        source: Level, target: Level, starts: np.ndarray, reach: float, iterations: int, settled: float
    ) -> Hashable:
        return max(len(source), len(target)) > _LARGE, iterations, settled

    def compute(some: list[Ask]) -> list[np.ndarray]:
        sources, targets, starts, reaches, (iterations, *_), (settled, *_) = zip(*some, strict=True)
        if max(len(sources[0]), len(targets[0])) > _LARGE:
            return [align(*ask) for ask in some]
        fit = _Fit.of(sources, targets, reaches, device)
        begun, pair = np.concatenate(starts), np.repeat(np.arange(len(some)), [len(each) for each in starts])
        few = max(1, _ENTRIES // (_HELD * fit.points.shape[1]))
        tidy: list[np.ndarray] = []
        for first in range(0, len(pair), few):
            motions, rows = begun[first : first + few], pair[first : first + few]
            found, inliers = fit.descend(
                torch.from_numpy(rows).to(device), torch.from_numpy(motions).to(device), iterations, settled
            )
            tidy += map(tidied, found.cpu().numpy(), motions, inliers.cpu().numpy())
        return np.split(np.stack(tidy), np.flatnonzero(np.diff(pair)) + 1)

    return _in_groups(asks, key, len(asks), compute)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Generalised ICP of motions (B, 4, 4), each for one of P pairs of clouds; float64."""

    points: Tensor  # (P, J, 3) of the sources ...
    disks: Tensor  # (P, J, 3, 3) ... and their covariances
    counts: Tensor  # (P,) how many of them there are: what follows counts for nothing
    goals: Tensor  # (P, K, 3)
    goal_disks: Tensor  # (P, K, 3, 3)
    reaches: Tensor  # (P,)

    @classmethod
    def of(
        cls, sources: Sequence[Level], targets: Sequence[Level], reaches: Sequence[float], device: torch.device
    ) -> _Fit:
        disks, goal_disks = (
            torch.eye(3, dtype=axes.dtype, device=device) - (1 - _THICKNESS) * axes.unsqueeze(-1) * axes.unsqueeze(-2)
            for axes in (_padded([level.axes for level in levels], device) for levels in (sources, targets))
        )
        return cls(
            _padded([level.points for level in sources], device),
            disks,
            torch.tensor([len(level) for level in sources], device=device),
            _padded([level.points for level in targets], device, fill=torch.inf),
            goal_disks,
            torch.tensor(reaches, dtype=disks.dtype, device=device),
        )

    def descend(self, pair: Tensor, motions: Tensor, iterations: int, settled: float) -> tuple[Tensor, Tensor]:
        """Motions (B, 4, 4) of pairs (B,) as Levenberg and Marquardt's steps leave them, and (B,) how many matches held.

        The steps are small_gicp's: of one linearisation, ever shorter until the cost falls; then matches are sought
        again, until a step is small, none helps, or there were so many.
        """
        motions, damping = motions.clone(), torch.full_like(motions[:, 0, 0], _LAMBDA)
        inliers = torch.zeros_like(pair)
        going = torch.arange(len(pair), device=pair.device)
        eye = torch.eye(6, dtype=motions.dtype, device=motions.device)
        for _ in range(iterations):
            if not len(going):
                break
            start = motions[going]
            system = self._linearised(pair[going], start)
            inliers[going] = system.inliers
            falls = torch.zeros_like(going, dtype=torch.bool)
            taken = torch.zeros_like(start[:, :1, 0]).expand(-1, 6)
            for _ in range(_TRIES):
                step = -torch.linalg.solve(system.information + damping[going, None, None] * eye, system.slope)
                there = start @ RigidTransform.exp(step).matrix
                now = ~falls & (system.cost_at(there) <= system.cost)
                damping[going] *= torch.where(now, 1 / _FACTOR, torch.where(falls, 1.0, _FACTOR))
                motions[going] = torch.where(now[:, None, None], there, motions[going])
                taken, falls = torch.where(now[:, None], step, taken), falls | now
                if falls.all():
                    break
            small = (taken[:, :3].norm(dim=-1) <= settled) & (taken[:, 3:].norm(dim=-1) <= settled)
            going = going[falls & ~small]
        return motions, inliers

    def _linearised(self, pair: Tensor, motions: Tensor) -> _System:
        """About motions (B, 4, 4) of pairs (B,), in the frames of the sources: y - T x is turned back."""
        turn, points = motions[:, :3, :3], self.points[pair]
        distance, index = _nearest(points @ turn.mT + motions[:, None, :3, 3], self.goals[pair])
        counted = torch.arange(points.shape[1], device=pair.device) < self.counts[pair, None]
        close = counted & (distance <= self.reaches[pair, None])  # (B, J)
        goals, disks = (values[pair[:, None], index] for values in (self.goals, self.goal_disks))
        weights = inverse_3x3(turn.mT[:, None] @ disks @ turn[:, None] + self.disks[pair])  # (B, J, 3, 3)
        return _System.of(points, goals, weights * close[..., None, None], motions, close.sum(-1))


@dataclass(frozen=True, eq=False)
class _System:
    """The cost of B motions, with matches and weights that stay as they are, to second order in a twist on the right."""

    points: Tensor  # (B, J, 3)
    goals: Tensor  # (B, J, 3)
    weights: Tensor  # (B, J, 3, 3), zero where there is no match, in the frame of the points
    turn: Tensor  # (B, 3, 3) that carries this frame into that of the goals
    information: Tensor  # (B, 6, 6)
    slope: Tensor  # (B, 6)
    cost: Tensor  # (B,)
    inliers: Tensor  # (B,)

    @classmethod
    def of(cls, points: Tensor, goals: Tensor, weights: Tensor, motions: Tensor, inliers: Tensor) -> _System:
        turn = motions[:, :3, :3]
        residual = _residual(points, goals, motions, turn)
        minus = -torch.eye(3, dtype=points.dtype, device=points.device).expand(*points.shape, 3)
        jacobian = torch.cat([hat(points), minus], dim=-1).flatten(1, 2)  # (B, 3 J, 6)
        weighted = (weights @ jacobian.unflatten(1, (-1, 3))).flatten(1, 2)
        slope = (weighted.mT @ residual.flatten(1).unsqueeze(-1)).squeeze(-1)
        return cls(points, goals, weights, turn, jacobian.mT @ weighted, slope, _cost(residual, weights), inliers)

    def cost_at(self, motions: Tensor) -> Tensor:
        """(B,) at other motions (B, 4, 4)."""
        return _cost(_residual(self.points, self.goals, motions, self.turn), self.weights)


def _residual(points: Tensor, goals: Tensor, motions: Tensor, turn: Tensor) -> Tensor:
    """(B, J, 3) in the frame that `turn` (B, 3, 3) carries into that of the goals."""
    return (goals - points @ motions[:, :3, :3].mT - motions[:, None, :3, 3]) @ turn


def _cost(residual: Tensor, weights: Tensor) -> Tensor:
    return ((weights @ residual.unsqueeze(-1)).squeeze(-1) * residual).sum((-2, -1)) / 2
