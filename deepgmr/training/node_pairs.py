"""Pairs of node sets to train on, made from seeds: shapes cut and sampled anew, and scans from a pool of scenes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.datasets.pairs.draws import mixed_generator
from deepgmr.datasets.pairs.pool import ScenePool, Stopped, fill_pool
from deepgmr.datasets.pairs.posed import PosedScans
from deepgmr.datasets.pairs.protocols import Crop, Disjoint, Jitter, Outliers, Same, Step, Thin, make_pairs
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.errors import InvalidCloud, InvalidConfig, InvalidFile
from deepgmr.geometry.neighbours import farthest_points
from deepgmr.io.addresses import cache_folder
from deepgmr.networks.patches import Nodes, nodes_of
from deepgmr.pipeline.scan import Level, Pair, Scan
from deepgmr.training.config import OverlapTraining
from deepgmr.training.together import here

GROUP = 8  # pairs that are made together, by one worker
_NEAR = 1.5  # node spacings within which two nodes may be the same place
AGAIN = 40  # steps after which a group of pairs is used a second and last time
_VALIDATION = 2**40  # a step that training does not reach
HELD_OUT = 32  # pairs of each kind in a validation ...
KEPT = 128  # ... from so many scans
_SPARSEST = 160  # points of a thinned shape: it gets no more nodes than that
_FEWEST = 250  # points of a cropped shape, where the crop leaves so many
_TRIES = 8  # pairs of one's own scans, or groups of others, that are drawn for each that is used, at most
_COMPONENTS = (350, 1000)  # fewest and most that scans are reduced to


@dataclass(frozen=True, eq=False)
class OverlapBatch:
    """B pairs of node sets, and what is true of them."""

    source: Nodes
    target: Nodes
    same: Tensor  # (B, J, K) in [0, 1]: how nearly two nodes are the same place

    def to(self, device: torch.device) -> OverlapBatch:
        return OverlapBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


class BatchMaker(Dataset[OverlapBatch]):
    """Groups of pairs from seeds."""

    def __init__(self, config: OverlapTraining, folder: str | Path, own: str | None = None) -> None:
        self.config, self.folder, self.own = config, Path(folder), own
        self._scans: PosedScans | None = None
        self._scenes: dict[str, ScenePool] = {}

    def prepare(
        self,
        stop: Callable[[], bool] | None = None,
        stage: Callable[[str, float], None] | None = None,
        *,
        helpers: int = 0,
    ) -> None:
        """Make what is missing of the scenes: minutes the first time, and then never again. Raises `Stopped`.

        `stage` is told (what is being made, the share of it done); so many `helpers`, processes, make some of it meanwhile.
        """
        group = here()
        if self.own is not None:
            self._scans = PosedScans(self.own, cache_folder())
        context, begin = get_context("forkserver"), group.rank / group.processes
        shares = [(begin + (i + 1) / (helpers + 1)) % 1 for i in range(helpers if self.kinds else 0)]
        over = context.Event() if shares else None
        started = [context.Process(target=_help, args=(self.closed(), share, over), daemon=True) for share in shares]
        for helper in started:
            helper.start()
        try:
            self.fill(begin, stop, stage)
        finally:  # all is there, or nothing more is wanted
            if over is not None:
                over.set()
            for helper in started:
                helper.join()

    def fill(
        self,
        begin: float,
        stop: Callable[[], bool] | None = None,
        stage: Callable[[str, float], None] | None = None,
    ) -> None:
        """Make and open the pools of all kinds. Several that do so at once begin after another share of it (`begin`)."""
        data, first = self.config.data, int(begin * len(self.kinds))
        kinds = self.kinds[first:] + self.kinds[:first]
        for number, kind in enumerate(kinds):

            def progress(done: int, files: int, kind: str = kind, before: int = number) -> None:
                if stage is not None:
                    stage(f"scanning scenes, once: {kind}", (before + done / files) / len(kinds))

            progress(0, 1)
            self._scenes[kind] = fill_pool(
                self.folder, kind, data.scenes, data.points, seed=data.seed, progress=progress, stop=stop, begin=begin
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of scenes that are drawn from."""
        return self.config.data.kinds if self.config.data.shapes < 1 else ()

    def closed(self) -> BatchMaker:
        """The same before `prepare`."""
        return BatchMaker(self.config, self.folder, self.own)

    @property
    def has_own(self) -> bool:
        """Whether there are pairs of one's own scans to validate on."""
        return self._scans is not None and len(self._scans.validation) > 0

    def group(self, step: int, index: int) -> OverlapBatch:
        """One of the groups of a step: all of one kind, drawn by the configured shares."""
        generator = _generator(step, index)
        if self.own is not None and torch.rand((), generator=generator) < self.config.data.own:
            return self._make("own", generator)
        shapes, kinds = self.config.data.shapes, self.kinds
        shares = torch.tensor([shapes, *[(1 - shapes) / max(len(kinds), 1)] * len(kinds)])
        return self._make(("shape", *kinds)[int(torch.multinomial(shares, 1, generator=generator))], generator)

    def __getitem__(self, key: tuple[int, int]) -> OverlapBatch:
        return self.group(*key)

    def held_out(self, kind: str, index: int) -> OverlapBatch:
        """A group for validation."""
        return self._make(kind, _generator(_VALIDATION, index), held_out=True)

    def _make(self, kind: str, generator: torch.Generator, *, held_out: bool = False) -> OverlapBatch:
        if kind == "own":
            return self._own(generator, held_out=held_out)
        if kind == "shape":
            found = self._group(lambda: shape_pairs(GROUP, generator), None)
        else:
            pool = self._scenes[kind]
            start = max(len(pool) - KEPT, 0)  # the last scans of the pool are for validation
            low, high = (start, len(pool)) if held_out else (0, max(start, 1))
            components = int(torch.randint(*_COMPONENTS, (), generator=generator))
            found = self._group(lambda: pool.pairs(torch.randint(low, high, (GROUP,), generator=generator)), components)
        if found is None:
            raise InvalidConfig(
                f"`network.nodes` is {self.config.network.nodes}, and most clouds of `{kind}` have fewer components; ask for "
                "fewer"
            )
        return found

    def _own(self, generator: torch.Generator, *, held_out: bool) -> OverlapBatch:
        """Pairs of one's own scans."""
        assert self._scans is not None  # `prepare` came first
        scans, components = self._scans, int(torch.randint(*_COMPONENTS, (), generator=generator))
        found = self._group(lambda: scans.draw(generator, self.config.data.points, held_out=held_out), components)
        if found is None:
            raise InvalidFile(
                f"{self.own}: most pairs of scans have fewer than {self.config.network.nodes} places in common detail to "
                "learn from; keep more points of each (`deepgmr shard --points`)"
            )
        return found

    def _group(self, draw: Callable[[], PairBatch], components: int | None) -> OverlapBatch | None:
        """Pairs as they are drawn; others where two are so unlike that one has fewer components than nodes."""
        samples: list[OverlapBatch] = []
        for _ in range(_TRIES * GROUP):
            pairs = draw()
            for i in range(len(pairs)):
                with suppress(InvalidCloud):
                    samples.append(_sample(pairs, i, self.config.network.nodes, components))
            if len(samples) >= GROUP:
                return joined(samples[:GROUP])
        return None


def shape_pairs(count: int, generator: torch.Generator) -> PairBatch:
    """Pairs of one random protocol: sampling, crop, noise, density and outliers are drawn for all of them."""

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    points = int(draw(400, 1024))
    shapes, _ = sample_shapes(count, 2 * points, generator=generator)
    steps: list[Step] = [Same(points) if draw(0, 1) < 0.35 else Disjoint(points)]
    if draw(0, 1) < 0.8:
        keep = draw(0.45, 1.0)
        kept = round(keep * points)
        points = max(min(_FEWEST, kept), int(draw(0.7, 1.0) * kept))
        steps.append(Crop(keep, points, shared=max(0.0, 2 * keep - 1) + 0.15 * keep))
    if draw(0, 1) < 0.15:
        points = max(min(points, _SPARSEST), int(draw(0.6, 0.95) * points))
        steps.append(Thin(points, (1.0, 6.0)))
    steps.append(Jitter((0.0, 0.02)))
    if draw(0, 1) < 0.1:
        steps.append(Outliers((0.0, 0.2)))
    return make_pairs(shapes, steps, generator=generator)


def _sample(pairs: PairBatch, i: int, nodes: int, components: int | None) -> OverlapBatch:
    """The nodes of pair `i`, both clouds at one resolution, by the front-end that `register` uses."""
    pair = Pair(*(Scan.of(cloud[i].double().numpy()) for cloud in (pairs.source, pairs.target)))
    a, b = pair.levels(components)
    spacing = max(a.spacing, b.spacing)
    p, q = (_nodes(level, nodes, spacing) for level in (a, b))
    motion = pair.enter(pairs.target_from_source.matrix[i].double().numpy())
    rotation, shift = motion.rotation.float(), (motion.translation / spacing).float()
    moved, turned = p.points @ rotation.mT + shift, p.normals @ rotation.mT
    return OverlapBatch(
        _half(p),
        _half(q),
        same_place(moved, turned, q.points, q.normals).half(),
    )


def _nodes(level: Level, count: int, spacing: float) -> Nodes:
    chosen = farthest_points(level.means[None], count)[0]
    return nodes_of(level.means, level.normals, level.around(chosen), spacing, chosen)


def same_place(source: Tensor, source_normals: Tensor, target: Tensor, target_normals: Tensor) -> Tensor:
    """(*B, J, K) in [0, 1]: how nearly nodes (*B, J, 3) and (*B, K, 3), in one frame, are the same place.

    A Gaussian of half a node spacing, cut off at one and a half, less where the normals differ: not the far side of a
    thin plate.
    """
    distance = torch.cdist(source, target)
    gap = torch.maximum(gap_of(source), gap_of(target))[..., None, None]
    facing = (source_normals @ target_normals.mT).abs()
    value = torch.exp(-2 * (distance / gap).square() - 2 * (1 - facing))
    return torch.where(distance < _NEAR * gap, value, torch.zeros_like(value))


def gap_of(nodes: Tensor) -> Tensor:
    """The median distance (*B) to the nearest other node."""
    return torch.cdist(nodes, nodes).topk(2, largest=False).values[..., 1].median(-1).values


# -- batches ---------------------------------------------------------------------------------------------------------


def joined(batches: list[OverlapBatch]) -> OverlapBatch:
    """One batch of all the pairs."""

    def nodes(items: list[Nodes]) -> Nodes:
        return Nodes(
            torch.cat([item.points for item in items]),
            torch.cat([item.normals for item in items]),
            torch.cat([item.patches for item in items], dim=1),
        )

    return OverlapBatch(
        nodes([batch.source for batch in batches]),
        nodes([batch.target for batch in batches]),
        torch.cat([batch.same for batch in batches]),
    )


def _half(nodes: Nodes) -> Nodes:
    return Nodes(nodes.points, nodes.normals, nodes.patches.half())  # cosines and short lengths: half as much to carry


def _generator(step: int, index: int) -> torch.Generator:
    return mixed_generator(step + AGAIN, index)  # the groups that return in the first steps have negative ones


def _help(maker: BatchMaker, begin: float, over: Event) -> None:
    """In a process of its own: fill the pool until that is over."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training decides when to stop
    torch.set_num_threads(1)
    with suppress(Stopped):
        maker.fill(begin, over.is_set)
