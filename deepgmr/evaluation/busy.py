"""How much longer a registration takes with something in its way: a busy machine, stray points, other units."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from deepgmr.datasets.pairs.protocols import PROTOCOLS, Crop, Disjoint, Jitter, Move, make_pairs
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.pipeline.registrar import register

STUDY = "busy"
UNITS = (10.0, 25.4, 50.0)  # millimetres for centimetres, inches for millimetres, and a guess
STRAY = ((20, 1000.0), (200, 10.0))  # points, and how many sizes away

Pair = tuple[np.ndarray, np.ndarray]


def measure(
    *,
    pairs: int = 40,
    loops: Sequence[int] = (1, 2),
    processes: int = 2,
    points: int = 20_000,
    repeats: int = 5,
    watch: Watch | None = None,
) -> Result:
    """Both parts: crops of 70 % on a machine that is busy, and one pair of `points` points a side, disturbed."""
    watch = watch or Watch()
    told = provenance(pairs=pairs, points=points, repeats=repeats)
    result: Result = {"study": STUDY, "provenance": told, "machine": on_a_busy_machine(pairs, loops, processes)}
    watch.keep(result)
    watch.progress("disturbed clouds", 0.5)
    result["clouds"] = on_disturbed_clouds(points, repeats)
    return result


def markdown(result: Result) -> str:
    """A table of each part."""
    parts = {
        "### A busy machine": result["machine"],
        f"### Disturbed clouds, {result['provenance']['points']:,} points a side": result["clouds"],
    }
    return "\n\n".join(
        f"{title}\n\n{as_table(rows, {'ms': '.1f', 'ratio': '.2f', 'confidence': '.3f'})}"
        for title, rows in parts.items()
    )


# -- a busy machine ----------------------------------------------------------------------------------------------


def on_a_busy_machine(pairs: int, loops: Sequence[int], processes: int) -> list[Result]:
    """Median milliseconds a call: alone, beside busy loops, and beside other processes that register."""
    found = {"quiet": milliseconds(pairs)}
    for count in loops:
        with _busy(count):
            found[f"{count} busy loop{'s' if count > 1 else ''}"] = milliseconds(pairs)
    if processes:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            pool.map(milliseconds, [2] * processes, chunksize=1)  # imports are not what is timed
            together = pool.map(milliseconds, [pairs] * processes, chunksize=1)
        found[f"{processes} processes"] = max(together)
    return [{"beside": name, "ms": value, "ratio": value / found["quiet"]} for name, value in found.items()]


def milliseconds(count: int) -> float:
    """The median wall-clock time of a call on procedural crops of 70 %."""
    generator = torch.Generator().manual_seed(7)
    shapes, normals = sample_shapes(count, 1024, generator=generator)
    pairs = make_pairs(shapes, PROTOCOLS["crop70_180"], generator=generator, normals=normals)
    return float(np.median([_timed(pairs.source[i].numpy(), pairs.target[i].numpy())[0] for i in range(count)]))


@contextlib.contextmanager
def _busy(loops: int) -> Iterator[None]:
    """So many processes that want a core each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


# -- disturbed clouds --------------------------------------------------------------------------------------------


def on_disturbed_clouds(points: int, repeats: int) -> list[Result]:
    """Median milliseconds of one pair disturbed in every way, and over those of the pair as it is, in turns."""
    pair = procedural_pair(points)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in disturbances()}
    _timed(*pair)  # imports and allocations are not what is timed
    for _ in range(repeats):
        for name, disturb in disturbances().items():
            found[name].append(_timed(*disturb(pair)))
    medians = {name: float(np.median([spent for spent, _ in times])) for name, times in found.items()}
    return [
        {
            "disturbed by": name,
            "ms": value,
            "ratio": value / medians["nothing"],
            "confidence": found[name][0][1],
        }
        for name, value in medians.items()
    ]


def disturbances() -> dict[str, Callable[[Pair], Pair]]:
    """What may be wrong with a pair of clouds, by name."""
    ways: dict[str, Callable[[Pair], Pair]] = {"nothing": lambda pair: pair}
    for count, sizes in STRAY:
        ways[f"{count} points {sizes:g} sizes away"] = lambda pair, n=count, s=sizes: (  # type: ignore[misc]
            with_stray_points(pair[0], n, s, seed=0),
            with_stray_points(pair[1], n, s, seed=1),
        )
    for factor in UNITS:
        ways[f"source {factor:g} times too large"] = lambda pair, f=factor: (f * pair[0], pair[1])  # type: ignore[misc]
        ways[f"target {factor:g} times too large"] = lambda pair, f=factor: (pair[0], f * pair[1])  # type: ignore[misc]
    return ways


def with_stray_points(cloud: np.ndarray, count: int, sizes: float, *, seed: int) -> np.ndarray:
    """The cloud and so many points more, so many sizes (twice the root-mean-square radius) from its centre."""
    direction = np.random.default_rng(seed).normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    centre = cloud.mean(0)
    size = 2 * np.sqrt(np.square(cloud - centre).sum(1).mean())
    return np.vstack([cloud, centre + sizes * size * direction]).astype(cloud.dtype)


def procedural_pair(points: int, *, seed: int = 7) -> Pair:
    """Two disjoint samplings of a shape, 70 % of each, so many points a side."""
    generator = torch.Generator().manual_seed(seed)
    steps = (Disjoint(3 * points // 2), Crop(0.7, points, shared=0.45), Move("uniform", 180.0, "box", 0.5), Jitter())
    shapes, _ = sample_shapes(1, 3 * points + 2, generator=generator)
    pair = make_pairs(shapes, steps, generator=generator)
    return pair.source[0].numpy(), pair.target[0].numpy()


def _timed(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Milliseconds and confidence of a call."""
    start = time.perf_counter()
    answer = register(source, target)
    return 1e3 * (time.perf_counter() - start), answer.confidence
