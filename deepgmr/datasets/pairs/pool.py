"""A store of scanned scenes on disk: ray casting costs more than a training step, so every scan is used many times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.datasets.pairs.draws import mixed_generator
from deepgmr.datasets.pairs.kinds import PLACES
from deepgmr.datasets.worlds.scenes import KINDS, scene_pairs
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform
from deepgmr.io.disk import replacing, writing

POOLED = (*KINDS, *(kind for kind in PLACES if kind not in ("shelves", "rooms apart")))  # kinds that have a truth
CHUNK = 128  # pairs a file
_FIELDS = ("source", "target", "rotation", "translation", "overlap")


class Stopped(Exception):
    """The filling of a pool was stopped; what was made stays."""


@dataclass(frozen=True, eq=False)
class ScenePool:
    """Pairs of scans of one kind of scene: (n, points, 3) float32 in metres, memory-mapped, with their motions."""

    kind: str
    chunks: tuple[dict[str, np.ndarray], ...]

    def __len__(self) -> int:
        return CHUNK * len(self.chunks)

    def pairs(self, rows: torch.Tensor) -> PairBatch:
        """The pairs of the rows (B,)."""
        found = [{key: value[row % CHUNK] for key, value in self.chunks[row // CHUNK].items()} for row in rows]
        stacked = {key: torch.from_numpy(np.stack([item[key] for item in found])) for key in _FIELDS}
        motion = RigidTransform(stacked["rotation"], stacked["translation"])
        return PairBatch(stacked["source"], stacked["target"], motion, stacked["overlap"])


def fill_pool(
    folder: str | Path,
    kind: str,
    count: int,
    points: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    begin: float = 0.0,
) -> ScenePool:
    """Make what is missing of `count` pairs (rounded up to whole files) in a folder, and open them.

    Every file's content follows from seed, kind, points and its number, so an interrupted call goes on where it
    stopped. Several that fill one folder at once share the work, where each begins after another share of the files
    (`begin`). Raises `InvalidConfig` for a count below 1; `InvalidFile` if the folder cannot be written; `Stopped` as
    soon as `stop`, asked before every file that is to be made, says so.
    """
    if count < 1:
        raise InvalidConfig(f"a pool of {count} pairs is empty; give at least 1")
    folder = Path(folder)
    name = kind.replace(" ", "-")
    files = [folder / f"{name}-{points}-{seed}-{i:04d}" for i in range(-(-count // CHUNK))]
    first = int(begin * len(files))
    for done in range(len(files)):
        index = (first + done) % len(files)
        stem = files[index]
        last = stem.with_name(f"{stem.name}.{_FIELDS[-1]}.npy")
        if not last.exists():
            if stop is not None and stop():
                raise Stopped
            make = scene_pairs if kind in KINDS else place_pairs
            pairs = make(CHUNK, points, kind=kind, generator=mixed_generator(seed, index, *kind.encode()))
            motion = pairs.target_from_source
            values = (pairs.source, pairs.target, motion.rotation, motion.translation, pairs.overlap)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            for field, value in zip(_FIELDS, values, strict=True):
                with replacing(stem.with_name(f"{stem.name}.{field}.npy")) as stream:
                    np.save(stream, value.numpy())
        if progress is not None:
            progress(done + 1, len(files))
    chunks = (
        {field: np.load(stem.with_name(f"{stem.name}.{field}.npy"), mmap_mode="r") for field in _FIELDS}
        for stem in files
    )
    return ScenePool(kind, tuple(chunks))


def place_pairs(count: int, points: int, *, kind: str, generator: torch.Generator) -> PairBatch:
    """`count` pairs of a kind of `PLACES`, at most `points` a cloud, each about its own centre, since float32 holds no
    kilometres."""
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    sources, targets, motions, overlaps = [], [], [], []
    for _ in range(count):
        plan, _ = PLACES[kind].plan(rng)
        source, target = plan.clouds(points)
        here, there = source.mean(0), target.mean(0)
        motion = plan.target_from_source.copy()
        motion[:3, 3] += motion[:3, :3] @ here - there
        sources.append(source - here)
        targets.append(target - there)
        motions.append(motion)
        overlaps.append(np.nan if plan.overlap is None else plan.overlap)
    first, second, matrices = (torch.from_numpy(np.stack(rows)).float() for rows in (sources, targets, motions))
    return PairBatch(first, second, RigidTransform.from_matrix(matrices), torch.tensor(overlaps).float())
