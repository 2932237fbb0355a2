"""Pairs from scans whose poses are known, kept in shards: what a training on one's own data draws from.

A set is a folder, or a URL of one: `index.json` names the shards and the pairs that overlap, and a shard holds the points
of some scans about their centres, and their poses. A shard is fetched once a machine, when a pair of it is first drawn.
"""

from __future__ import annotations

import bisect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.errors import InvalidFile
from deepgmr.geometry.transform import RigidTransform, random_rotations
from deepgmr.io.addresses import beneath, local_copy
from deepgmr.io.disk import reason

INDEX, FORMAT = "index.json", "deepgmr posed scans 1"
HELD_OUT = 0.1  # share of the scans, the last ones, whose pairs are for validation


class PosedScans:
    """The pairs of a set, to be drawn; `cache` is where this machine keeps the shards of a URL."""

    def __init__(self, address: str, cache: str | Path) -> None:
        """Raises `InvalidFile`."""
        self.address, self.cache = address, Path(cache)
        self._open: dict[int, tuple[Any, Tensor, Tensor]] = {}
        index = beneath(address, INDEX)
        try:
            told = json.loads(local_copy(index, cache, fresh=True).read_text(encoding="utf-8"))
            if told.get("format") != FORMAT:
                raise InvalidFile(f"{index}: is no index of posed scans; write one with `deepgmr shard`")
            self.shards, self.starts = [str(name) for name in told["shards"]], [int(at) for at in told["starts"]]
            self.scans, pairs = int(told["scans"]), np.array(told["pairs"], dtype=np.int64).reshape(-1, 2)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, InvalidFile):
                raise
            raise InvalidFile(
                f"{index}: cannot be read ({reason(error)[:100]}); `deepgmr shard FOLDER` makes one of scans"
            ) from None
        kept = self.scans - math.ceil(HELD_OUT * self.scans)
        self.training, self.validation = pairs[(pairs < kept).all(1)], pairs[(pairs >= kept).all(1)]
        if not len(self.training):
            raise InvalidFile(
                f"{index}: of {self.scans} scans no two overlap enough to learn from; add scans between them"
            )

    def draw(self, generator: torch.Generator, points: int, *, held_out: bool = False) -> PairBatch:
        """One pair: at most so many points of each scan, (1, N, 3) and (1, M, 3), each in a random pose about its centre."""
        pairs = self.validation if held_out else self.training
        chosen = pairs[int(torch.randint(len(pairs), (), generator=generator))]
        if torch.rand((), generator=generator) < 0.5:
            chosen = chosen[::-1]
        (source, from_source), (target, from_target) = (self._scan(int(number), points, generator) for number in chosen)
        turned = random_rotations((2,), generator=generator, dtype=torch.float64)
        source_turn, target_turn = (RigidTransform(turn, turn.new_zeros(3)) for turn in turned)
        motion = target_turn @ from_target.inverse() @ from_source @ source_turn.inverse()
        return PairBatch(
            source_turn.apply(source).float()[None],
            target_turn.apply(target).float()[None],
            RigidTransform(motion.rotation.float()[None], motion.translation.float()[None]),
            torch.full((1,), torch.nan),  # not known to the last point, and nothing that is learned needs it
        )

    def _scan(self, number: int, points: int, generator: torch.Generator) -> tuple[Tensor, RigidTransform]:
        """Points (N, 3) float64 of a scan about its centre, and world from there."""
        shard = bisect.bisect_right(self.starts, number) - 1
        if shard not in self._open:
            self._open[shard] = self._opened(beneath(self.address, self.shards[shard]))
        file, ends, poses = self._open[shard]
        place = number - self.starts[shard]
        first, last = (0 if place == 0 else int(ends[place - 1])), int(ends[place])
        cloud = torch.as_tensor(file.get_slice("points")[first:last]).double()
        if len(cloud) > points:
            cloud = cloud[torch.randperm(len(cloud), generator=generator)[:points]]
        return cloud, RigidTransform.from_matrix(poses[place])

    def _opened(self, address: str) -> tuple[Any, Tensor, Tensor]:
        path = local_copy(address, self.cache)
        try:
            file = safe_open(path, framework="pt")
            return file, file.get_tensor("ends"), file.get_tensor("poses")
        except (OSError, SafetensorError) as error:
            raise InvalidFile(
                f"{path}: is no shard of {self.address} ({reason(error)[:100]}); write it again"
            ) from None
