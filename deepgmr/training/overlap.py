"""How the overlap network is trained: on procedural pairs, made as they are needed, and on one's own scans if asked to.

Pairs are shapes cut and sampled anew at every step, and scans from a pool of scenes (`deepgmr.datasets.pairs.pool`). A batch
follows from the seed of its step alone, so worker processes can make the next batches while the network learns, and
a resumed training sees the same ones.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, get_worker_info

from deepgmr.datasets.pairs.pool import Stopped
from deepgmr.errors import InvalidConfig
from deepgmr.networks.overlap import OverlapNetwork, OverlapPrediction
from deepgmr.training.config import OverlapTraining
from deepgmr.training.node_pairs import AGAIN, GROUP, HELD_OUT, BatchMaker, OverlapBatch, gap_of, joined
from deepgmr.training.tasks import Stage, first_network
from deepgmr.training.through_solver import kl_of_matching, matched_motion, partial_of_matching
from deepgmr.training.together import Group, processes_mean

Key = tuple[int, int]  # the step and the index of a group


class OverlapTask:
    """Pairs of shapes and scenes -> matching loss. `folder` is where the pool of scenes is, or will be; `own` the address of
    posed scans (`deepgmr.datasets.pairs.posed`), if there are any."""

    def __init__(self, config: OverlapTraining, folder: str | Path, own: str | None = None) -> None:
        if config.optimiser.batch < 1 or config.optimiser.batch % (2 * GROUP):
            raise InvalidConfig(f"a batch is a multiple of {2 * GROUP} pairs, got {config.optimiser.batch}")
        self.config = config
        self.maker = BatchMaker(config, folder, own)
        self._due: tuple[int, range] | None = None  # the step whose groups come next, and which of them
        self._stream: Iterator[OverlapBatch] = iter(())
        self._made: dict[Key, OverlapBatch] = {}  # those that will be used again

    @property
    def most_processes(self) -> int:
        """Each has at least one of the groups that are new at a step."""
        return self.config.optimiser.batch // (2 * GROUP)

    def prepare(self, stop: Callable[[], bool], stage: Stage) -> bool:
        try:
            self.maker.prepare(stop, stage, helpers=max(self.config.data.workers - 1, 0))
        except Stopped:
            return False
        return True

    def build(self, generator: torch.Generator) -> nn.Module:
        return first_network(OverlapNetwork, self.config.network, start=self.config.start, generator=generator)

    def make_batch(self, generator: torch.Generator, *, rank: int, processes: int) -> OverlapBatch:
        step, fresh = generator.initial_seed(), Group(rank, processes).share(self.most_processes)
        if self._due != (step, fresh):  # the steps' seeds are consecutive: this is the first, or another training
            self._stream, self._made = iter(self._loader(step, fresh)), {}
        self._due = (step + 1, fresh)
        new, again = _keys(step, fresh)
        for key in new + again:
            if key not in self._made:
                self._made[key] = next(self._stream)
        return joined([self._made[key] for key in new] + [self._made.pop(key) for key in again])

    def _loader(self, start: int, fresh: range) -> DataLoader[OverlapBatch]:
        """The groups of all steps from the start, in the order of their first use."""
        steps = (_keys(step, fresh) for step in itertools.count(start))
        workers = self.config.data.workers
        return DataLoader(
            self.maker.closed() if workers else self.maker,  # what is open does not travel
            batch_size=None,
            sampler=(key for new, again in steps for key in new + [key for key in again if key[0] < start]),
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # else torch draws a seed for the workers from the global state
        )

    def loss(self, model: nn.Module, batch: OverlapBatch) -> tuple[Tensor, dict[str, Tensor]]:
        prediction: OverlapPrediction = model(batch.source, batch.target)
        weights = self.config.losses
        with torch.autocast(batch.same.device.type, enabled=False):
            rows, columns = prediction.similarity, prediction.similarity.mT
            pairs = torch.tensor(float(len(batch.same)), device=batch.same.device)
            own = pairs / processes_mean(pairs)  # one, unless the processes have unequal shares
            losses = {
                "matching": (matching_loss(rows, batch.same) + matching_loss(columns, batch.same.mT)) / 2,
            }
            if weights.keys() & {"kl", "partial"}:
                sigma = torch.maximum(gap_of(batch.source.points), gap_of(batch.target.points))
                motion = matched_motion(prediction, batch.source, batch.target, sigma)
                kl = kl_of_matching(motion, batch.source, batch.target, batch.same, sigma)
                losses["kl"] = kl.mean() * own
                losses["partial"] = partial_of_matching(motion, batch.source, batch.target, sigma).mean() * own
            with torch.no_grad():
                numbers = losses | {"top": top_match(prediction, batch).mean() * own}
        total = torch.stack([weight * losses[name] for name, weight in weights.items()]).sum()
        return total, {name: value.detach() for name, value in numbers.items()}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        numbers = {}
        for kind, batch in self._held_out():
            batch = batch.to(device)
            prediction = model(batch.source, batch.target)
            numbers[f"top {kind}"] = float(top_match(prediction, batch).mean())
        return numbers

    def example(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor] | None:
        return None

    def _held_out(self) -> Iterator[tuple[str, OverlapBatch]]:
        kinds = ("shape", *self.maker.kinds, *(("own",) if self.maker.has_own else ()))
        for place, kind in enumerate(kinds):
            groups = [self.maker.held_out(kind, 100 * place + i) for i in range(HELD_OUT // GROUP)]
            yield kind, joined(groups)


def matching_loss(similarity: Tensor, same: Tensor) -> Tensor:
    """The cross-entropy between the softmax of each row of (B, J, K) and the places it may be, over rows with any.

    Of several processes, the mean over them is that of all their rows.
    """
    same = same.float()
    total = same.sum(-1)
    loss = -(same * similarity.log_softmax(-1)).sum(-1) / total.clamp_min(1e-6)
    weight = total.clamp_max(1.0)
    return (loss * weight).sum() / processes_mean(weight.sum()).clamp_min(1.0)


def top_match(prediction: OverlapPrediction, batch: OverlapBatch) -> Tensor:
    """(B,): the share of source nodes with a counterpart whose best match is within about a node spacing of it."""
    best = prediction.similarity.argmax(-1, keepdim=True)
    known = batch.same.amax(-1) > 0.3
    right = batch.same.gather(-1, best).squeeze(-1) > 0.1
    return (right & known).sum(-1) / known.sum(-1).clamp_min(1)


# -- batches ---------------------------------------------------------------------------------------------------------


def _keys(step: int, fresh: range) -> tuple[list[Key], list[Key]]:
    """The groups of a step: half are new, half were new `AGAIN` steps ago, since making one costs a step."""
    return [(step, index) for index in fresh], [(step - AGAIN, index) for index in fresh]


def _begin_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training decides when to stop
    get_worker_info().dataset.prepare()  # type: ignore[union-attr]
