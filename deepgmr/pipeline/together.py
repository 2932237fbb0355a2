"""What pairs of a cohort ask for, computed for many of them at once on one device.

The same computations as alone, in the same precision. Clouds are padded to one size, at most twice as large: a row that
stands for nothing lies infinitely far away, or counts for nothing. On a CPU only the network gains by company
(docs/howto/many.md): trees, and the generalised ICP of small_gicp, beat the comparison of all with all that suits a GPU.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgmr.errors import InvalidConfig
from deepgmr.geometry.neighbours import Tree
from deepgmr.geometry.transform import RigidTransform
from deepgmr.networks.overlap import OverlapNetwork, OverlapPrediction
from deepgmr.networks.patches import Nodes
from deepgmr.pipeline.agree import agreed
from deepgmr.pipeline.cohort import Ask, Shared
from deepgmr.pipeline.gicp import ENTRIES, HELD, Fit, nearest, padded
from deepgmr.pipeline.propose.learned import predicted
from deepgmr.pipeline.refine import align, tidied
from deepgmr.pipeline.scan import Level

_COMPANY = {"cpu": 8, "cuda": 32}  # pairs under way, where nobody says how many
_AT_ONCE = {"cpu": 4, "cuda": 256}  # pairs that the network sees at once: more fall out of a CPU's cache
_LARGE = (1 << 13) - 1  # components beyond which a tree is faster than all distances
_ROW = 1024  # queries that are padded, at most


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
        return [OverlapPrediction(similarity) for similarity in found.similarity.cpu().split(1)]

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
        rows = [
            (number, row) for number, each in enumerate(queries) for row in np.split(each, range(_ROW, len(each), _ROW))
        ]
        tree = torch.tensor([number for number, _ in rows], device=device)
        goals = padded([each.points for each in trees], device, fill=torch.inf)
        distance, index = nearest(padded([row for _, row in rows], device), goals[tree])
        reach = torch.tensor(reaches, dtype=distance.dtype, device=device)[tree, None]
        distance, index = distance.where(distance <= reach, torch.inf).cpu(), index.cpu()
        counts = [len(row) for _, row in rows]
        flat = [
            torch.cat([value[i, :n] for i, n in enumerate(counts)]).split([*map(len, queries)])
            for value in (distance, index)
        ]
        return [(near.numpy(), place.numpy()) for near, place in zip(*flat, strict=True)]

    return _in_groups(asks, lambda tree, *_: len(tree).bit_length(), len(asks), compute)


# -- generalised ICP -----------------------------------------------------------------------------------------------


def _aligned(device: torch.device, asks: Sequence[Ask]) -> list[np.ndarray]:
    """`refine.align` of sources, targets, starts (H, 4, 4), reaches, numbers of iterations and steps that are small."""

    def key(
        source: Level, target: Level, starts: np.ndarray, reach: float, iterations: int, settled: float
    ) -> Hashable:
        return len(source).bit_length(), len(target).bit_length(), iterations, settled

    def compute(some: list[Ask]) -> list[np.ndarray]:
        sources, targets, starts, reaches, (iterations, *_), (settled, *_) = zip(*some, strict=True)
        if max(len(sources[0]), len(targets[0])) > _LARGE:
            return [align(*ask) for ask in some]
        fit = Fit.of(sources, targets, reaches, device)
        begun, pair = np.concatenate(starts), np.repeat(np.arange(len(some)), [len(each) for each in starts])
        few = max(1, ENTRIES // (HELD * fit.points.shape[1]))
        tidy: list[np.ndarray] = []
        for first in range(0, len(pair), few):
            motions, rows = begun[first : first + few], pair[first : first + few]
            found, inliers = fit.descend(
                torch.from_numpy(rows).to(device), torch.from_numpy(motions).to(device), iterations, settled
            )
            tidy += map(tidied, found.cpu().numpy(), motions, inliers.cpu().numpy())
        return np.split(np.stack(tidy), np.flatnonzero(np.diff(pair)) + 1)

    return _in_groups(asks, key, len(asks), compute)
