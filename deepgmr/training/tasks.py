"""What is trained: a network, where its batches come from, and the losses by name.

`PairTask` is DeepGMR on pairs cut from ModelNet40 or from procedural shapes; anything else that fits `Task` trains
through the same loop.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from deepgmr import divergence, metrics
from deepgmr.datasets.pairs.draws import mixed_generator
from deepgmr.datasets.pairs.protocols import PairBatch, make_pairs
from deepgmr.datasets.suites.modelnet import read_modelnet
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.neighbours import gather_points
from deepgmr.geometry.transform import RigidTransform
from deepgmr.io import checkpoint
from deepgmr.networks.deepgmr import DeepGMR, Prediction
from deepgmr.training.config import TrainingConfig
from deepgmr.training.together import Group, processes_mean

Loss = Callable[[Prediction, PairBatch], Tensor]  # (B)
Stage = Callable[[str, float], None]
Network = TypeVar("Network", bound=nn.Module)

POINTS = 2048  # of a procedural shape, before the protocol cuts it
_TOGETHER = 8  # pairs that are drawn from one generator
_HELD_OUT = 2**45  # a seed that no step reaches


def distance_loss(prediction: Prediction, pair: PairBatch) -> Tensor:
    """The mean distance (B) of the source's points under the answer and under the truth: what is reported."""
    difference = prediction.motion.apply(pair.source) - pair.target_from_source.apply(pair.source)
    return (difference.square().sum(-1) + 1e-6).sqrt().mean(-1)  # smooth at zero


def pose_loss(prediction: Prediction, pair: PairBatch) -> Tensor:
    """The paper's: |T T*^-1 - I|^2 (B), mean over the sixteen entries (Yuan et al. 2020, section 4)."""
    error = prediction.motion.compose(pair.target_from_source.inverse()).matrix
    return (error - torch.eye(4, dtype=error.dtype, device=error.device)).square().mean((-2, -1))


def kl_loss(prediction: Prediction, pair: PairBatch) -> Tensor:
    """The same-index bound (B) on KL(T*#source || target): mixtures must agree once the true motion is applied."""
    return divergence.same_index_loss(prediction.source_mixture, prediction.target_mixture, pair.target_from_source)


def kl_symmetric_loss(prediction: Prediction, pair: PairBatch) -> Tensor:
    """The same-index bound (B) in both directions."""
    mixtures = prediction.source_mixture, prediction.target_mixture
    return divergence.symmetric_same_index_loss(*mixtures, pair.target_from_source)


def kl_variational_loss(prediction: Prediction, pair: PairBatch) -> Tensor:
    """The variational estimate (B) of KL(T*#source || target) (Hershey and Olsen 2007)."""
    return divergence.variational_loss(prediction.source_mixture, prediction.target_mixture, pair.target_from_source)


def agreement_loss(prediction: Prediction, pair: PairBatch) -> Tensor:
    """The symmetric KL (B) between the responsibilities of the same point in the two clouds, mean over points.

    Needs pairs with full correspondence. Zero for a network that tells no points apart: use it beside another loss.
    """
    p, q = prediction.source_responsibilities, prediction.target_responsibilities
    if p.shape[1] == pair.source.shape[1]:  # otherwise the queried points correspond row by row
        q = gather_points(q, pair.correspondence())
    return 0.5 * (divergence.kl_histograms(p, q) + divergence.kl_histograms(q, p)).mean(-1)


LOSSES: dict[str, Loss] = {
    "distance": distance_loss,
    "pose": pose_loss,
    "kl": kl_loss,
    "kl_symmetric": kl_symmetric_loss,
    "kl_variational": kl_variational_loss,
    "agreement": agreement_loss,
}


class Task(Protocol):
    """What the loop needs to know of the thing it trains."""

    def build(self, generator: torch.Generator) -> nn.Module:
        """The network at step zero."""

    @property
    def most_processes(self) -> int:
        """Among how many processes a batch can be divided."""

    def prepare(self, stop: Callable[[], bool], stage: Stage) -> bool:
        """Make the data that is missing; false if `stop` said so first, and what was made is then kept.

        `stage` is told (what is being made, the share of it done).
        """

    def make_batch(self, generator: torch.Generator, *, rank: int, processes: int) -> Any:
        """This process's share of the batch the generator describes; all shares together are what one would get."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """A loss and numbers to show whose means over the processes are those of the whole batch (`processes_mean`)."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Numbers on pairs that training does not see; empty if there are none."""

    def example(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor] | None:
        """One pair to look at, (N, 3) each: source, target, registered source; or none."""


def first_network(kind: type[Network], config: Any, *, start: str, generator: torch.Generator) -> Network:
    """The network at step zero: that of `start`, if any, which must have this configuration, or a fresh one."""
    if start:
        model = checkpoint.load(start)
        if not isinstance(model, kind) or model.config != config:
            raise InvalidConfig(f"`{start}` is another network than the configuration's; leave one of them out")
        return model.train()
    with torch.random.fork_rng(devices=[]):  # initialisation draws from the global state: lend it ours
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return kind(config)


class PairTask:
    """DeepGMR on pairs cut from given clouds, such as ModelNet40, or from procedural shapes drawn anew at every step."""

    def __init__(self, config: TrainingConfig, clouds: Tensor | None, held_out: Tensor | None = None) -> None:
        self.config = config
        self.clouds = clouds  # (n, K, 3), or none: procedural shapes
        self.held_out = held_out  # (B, K, 3) or none: for validation

    @classmethod
    def from_modelnet(cls, config: TrainingConfig, root: str | Path) -> PairTask:
        """The training split of the chosen categories, and 64 clouds of the same categories' test split."""
        train = read_modelnet(root, "train", categories=config.data.categories)
        test = read_modelnet(root, "test", categories=config.data.categories, drop_duplicates=True)
        chosen = torch.linspace(0, len(test) - 1, min(64, len(test))).long()
        return cls(config, torch.from_numpy(train.points), torch.from_numpy(test.points)[chosen])

    @classmethod
    def from_shapes(cls, config: TrainingConfig) -> PairTask:
        """Procedural shapes alone, and 64 of them that no step draws."""
        return cls(config, None, sample_shapes(64, POINTS, generator=torch.Generator().manual_seed(_HELD_OUT))[0])

    def build(self, generator: torch.Generator) -> nn.Module:
        model = first_network(DeepGMR, self.config.network, start=self.config.start, generator=generator)
        if self.config.start:
            return model
        sample = self._drawn(64, generator)
        model.calibrate(make_pairs(sample, self.config.data.protocol, generator=generator).source)
        return model

    @property
    def most_processes(self) -> int:
        return self.config.optimiser.batch

    def prepare(self, stop: Callable[[], bool], stage: Stage) -> bool:
        return True

    def make_batch(self, generator: torch.Generator, *, rank: int, processes: int) -> PairBatch:
        # Pairs are drawn some at a time, each time from a generator of its own: a process draws those that it has a
        # share in, and forgets the few at its ends that are another's.
        batch, seed = self.config.optimiser.batch, generator.initial_seed()
        own = Group(rank, processes).share(batch)
        drawn = []
        for start in range(own.start - own.start % _TOGETHER, own.stop, _TOGETHER):
            generator = mixed_generator(seed, start)
            count = min(_TOGETHER, batch - start)
            pair = make_pairs(self._drawn(count, generator), self.config.data.protocol, generator=generator)
            drawn.append(_rows(pair, slice(max(own.start - start, 0), own.stop - start)))
        return _joined(drawn)

    def loss(self, model: nn.Module, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        prediction = model(batch.source, batch.target, queries=self._queries(batch))
        with torch.autocast(batch.source.device.type, enabled=False):
            pairs = torch.tensor(float(len(batch)), device=batch.source.device)
            own = pairs / processes_mean(pairs)  # one, unless the processes have unequal shares
            terms = {name: LOSSES[name](prediction, batch).mean() * own for name in self.config.losses}
            total = torch.stack([weight * terms[name] for name, weight in self.config.losses.items()]).sum()
            with torch.no_grad():
                error = metrics.mean_point_distance(batch.source, prediction.motion, batch.target_from_source)
            return total, terms | {"error": error.mean() * own, "recall@.05": (error < 0.05).float().mean() * own}

    @torch.no_grad()
    def example(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor] | None:
        if self.held_out is None:
            return None
        pair = to_device(self._held_out_pairs(1), next(model.parameters()).device)
        moved = model(pair.source, pair.target).motion.apply(pair.source)
        return pair.source[0], pair.target[0], moved[0]

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        if self.held_out is None:
            return {}
        pair = to_device(self._held_out_pairs(len(self.held_out)), next(model.parameters()).device)
        motions = [model(*clouds).motion for clouds in zip(pair.source.split(8), pair.target.split(8), strict=True)]
        estimate = RigidTransform(*(torch.cat([getattr(m, k) for m in motions]) for k in ("rotation", "translation")))
        error = metrics.mean_point_distance(pair.source, estimate, pair.target_from_source)
        return {"error": float(error.mean())} | {
            f"recall@{t:g}": float((error < t).float().mean()) for t in (0.2, 0.05)
        }

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """So many clouds (count, K, 3)."""
        if self.clouds is None:
            return sample_shapes(count, POINTS, generator=generator)[0]
        return self.clouds[torch.randint(len(self.clouds), (count,), generator=generator)]

    def _held_out_pairs(self, count: int) -> PairBatch:
        assert self.held_out is not None
        generator = torch.Generator().manual_seed(0)  # the same pairs at every validation
        return make_pairs(self.held_out[:count], self.config.data.protocol, generator=generator)

    def _queries(self, batch: PairBatch) -> tuple[Tensor, Tensor] | None:
        """The first rows of the source, which are in random order, and the same points in the target."""
        count = self.config.data.queries
        if not 0 < count < batch.source.shape[1]:
            return None
        there = batch.correspondence()[:, :count]
        if (there < 0).any():
            return None  # protocols without full correspondence use every point
        here = torch.arange(count, device=there.device).expand_as(there)
        return here, there


# -- batches ---------------------------------------------------------------------------------------------------


def _rows(pair: PairBatch, rows: slice) -> PairBatch:
    return _mapped(pair, lambda value: value[rows])


def _joined(pairs: list[PairBatch]) -> PairBatch:
    def join(values: list[Any]) -> Any:
        if isinstance(values[0], RigidTransform):
            return RigidTransform(*(torch.cat([getattr(v, k) for v in values]) for k in ("rotation", "translation")))
        return None if values[0] is None else torch.cat(values)

    return PairBatch(**{key: join([getattr(pair, key) for pair in pairs]) for key in vars(pairs[0])})


def to_device(batch: Any, device: torch.device) -> Any:
    """A `PairBatch`, or anything with a `to` method, on a device."""
    return batch.to(device) if hasattr(batch, "to") else _mapped(batch, lambda value: value.to(device))


def _mapped(pair: PairBatch, change: Callable[[Any], Any]) -> PairBatch:
    changed: dict[str, Any] = {key: None if value is None else change(value) for key, value in vars(pair).items()}
    return PairBatch(**changed)
