"""Time, memory and success as clouds grow from a thousand points to ten million: ours and the peers, on halls.

Each method meets the halls of one scale and size in a process of its own, so that its memory is its own. The peers have
the best of three voxel sizes: an oracle no user has, in their favour. Ours is told nothing.
"""

from __future__ import annotations

import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.evaluation.figures import GREY, picture
from deepgmr.evaluation.peers import Peer, is_installed
from deepgmr.evaluation.results import Result, Watch, as_table, provenance

STUDY = "scaling"
OURS = "register"
POINTS = (1_000, 4_000, 20_000, 100_000, 500_000, 1_000_000, 3_000_000, 10_000_000)
SCALES = (1.0, 4.0)
METHODS = (OURS, "ransac", "kiss")
VOXELS = {  # shares of the diagonal, which is 10 m at scale 1 and 34 m at scale 4; RANSAC takes minutes at finer ones
    "ransac": (0.015, 0.02, 0.035),
    "kiss": (0.0075, 0.015, 0.03),
}
ENOUGH = 1_000_000  # points of all halls of one size together, from which fewer halls must do
SURE = 0.9
INK = {OURS: "#0072B2", "ransac": "#D55E00", "kiss": "#009E73"}
MARKS = {OURS: "o", "ransac": "s", "kiss": "^"}


def measure(
    *,
    points: Sequence[int] = POINTS,
    scales: Sequence[float] = SCALES,
    methods: Sequence[str] = METHODS,
    halls: int = 3,
    seed: int = 0,
    known: Sequence[Result] = (),
    watch: Watch | None = None,
) -> Result:
    """A cell for each scale, number of points, method and voxel size; those of `known` are taken over."""
    watch = watch or Watch()
    wanted = [name for name in methods if name == OURS or is_installed(name)]
    told = provenance(points=list(points), scales=list(scales), halls=halls, seed=seed)
    result: Result = {"study": STUDY, "provenance": told, "cells": list(known)}
    have = {(cell["scale"], cell["points"], cell["method"]) for cell in known}
    todo = [(scale, count) for count in points for scale in scales]
    for done, (scale, count) in enumerate(todo):
        missing = [name for name in wanted if (scale, count, name) not in have]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            files = draw_halls(Path(folder), scale, count, max(1, min(halls, ENOUGH // count)), seed)
            for name in missing:
                watch.progress(f"{count:,} points, scale {scale:g}, {name}", done / len(todo))
                for found in alone(met, files, name, (None,) if name == OURS else VOXELS[name]):
                    result["cells"].append({"scale": scale, "points": count, "method": name, **found})
                watch.keep(result)
    return result


def draw_halls(folder: Path, scale: float, count: int, halls: int, seed: int) -> list[Path]:
    """Halls as arrays of float32, which is what sensors and files give."""
    from deepgmr.datasets.worlds.halls import hall

    files = []
    for number in range(halls):
        plan = hall(np.random.default_rng((seed, number, round(100 * scale))), scale=scale)
        source, target = (cloud.astype(np.float32) for cloud in plan.clouds(count))
        files.append(folder / f"{number}.npz")
        truth, within = plan.target_from_source, np.array([plan.degrees, plan.metres])
        np.savez(files[-1], source=source, target=target, truth=truth, within=within)
    return files


# -- a process of its own ----------------------------------------------------------------------------------------


Meet = Callable[[Sequence[str], str, Sequence[float | None]], list[Result]]


def alone(meet: Meet, files: list[Path], method: str, sizes: Sequence[float | None]) -> list[Result]:
    """What `meet` finds at every size, in one process; a size that ends it (KISS-Matcher does) has failed everywhere."""
    try:
        return _spawned(meet, files, method, sizes)
    except BrokenProcessPool:
        found = []
        for size in sizes:
            try:
                found += _spawned(meet, files, method, (size,))
            except BrokenProcessPool:
                found.append({"size": size, "halls": [{"right": False, "error": "crashed"} for _ in files]})
        return found


def _spawned(meet: Meet, files: list[Path], method: str, sizes: Sequence[float | None]) -> list[Result]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(meet, [str(file) for file in files], method, sizes).result()


def met(files: Sequence[str], method: str, sizes: Sequence[float | None]) -> list[Result]:
    """One method at several sizes: for each hall the seconds, the megabytes beyond the input, and whether it is right."""
    found = []
    for size in sizes:
        solve, halls = _solver(method, size), list[Result]()
        for file in files:
            with np.load(file) as data:
                pair = {key: data[key] for key in data}
            if not halls:
                with suppress(Exception):  # imports and first allocations are not what is measured
                    solve(*(cloud[:: max(1, len(cloud) // 3000)] for cloud in (pair["source"], pair["target"])))
            halls.append(_hall(solve, pair))
        found.append({"size": size, "halls": halls})
    return found


def _solver(method: str, size: float | None) -> Callable[[np.ndarray, np.ndarray], Any]:
    if size is not None:
        return Peer(method, size).solver(seed=0, threads=1)
    from deepgmr.pipeline.registrar import Registrar

    return Registrar.load().register


def _hall(solve: Callable[[np.ndarray, np.ndarray], Any], pair: dict[str, np.ndarray]) -> Result:
    source, target = pair["source"], pair["target"]
    before, seconds = _reset_memory(), []
    repeats = 3 if len(source) <= 20_000 else 1
    try:
        for _ in range(repeats):
            start = time.perf_counter()
            answer = solve(source, target)
            seconds.append(time.perf_counter() - start)
        peak = _memory("VmHWM")
    except Exception as error:
        return {"right": False, "error": type(error).__name__}
    matrix = np.asarray(getattr(answer, "target_from_source", answer), dtype=np.float64)
    row: Result = {
        "right": right(matrix, pair),
        "seconds": min(seconds),
        "megabytes": max(0.0, peak - before),
    }
    if hasattr(answer, "stats"):
        row["confidence"] = float(answer.confidence)
        row["milliseconds"] = {step: float(spent) for step, spent in answer.stats.milliseconds.items()}
    return row


def errors(matrix: np.ndarray, pair: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Degrees, and metres between where the source's centroid comes to lie and where it belongs."""
    truth, centre = pair["truth"], pair["source"].mean(axis=0, dtype=np.float64)
    if not np.isfinite(matrix).all():
        return math.inf, math.inf
    cosine = (np.trace(truth[:3, :3].T @ matrix[:3, :3]) - 1) / 2
    off = (matrix - truth)[:3, :3] @ centre + (matrix - truth)[:3, 3]
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine)))), float(np.linalg.norm(off))


def right(matrix: np.ndarray, pair: Mapping[str, np.ndarray]) -> bool:
    """Whether the errors are within the hall's tolerances."""
    degrees, metres = pair["within"]
    turned, shifted = errors(matrix, pair)
    return bool(turned < degrees and shifted < metres)


def _reset_memory() -> float:
    """Megabytes held now; the peak is counted from here (Linux; elsewhere from the start of the process)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> float:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


# -- telling -----------------------------------------------------------------------------------------------------


def rows_of(result: Result, scale: float) -> Iterator[Result]:
    """For each number of points and method the best size: the most halls right, then the fastest."""
    cells = [cell for cell in result["cells"] if cell["scale"] == scale]
    for count in sorted({cell["points"] for cell in cells}):
        for method in dict.fromkeys(cell["method"] for cell in cells):
            found = [cell for cell in cells if (cell["points"], cell["method"]) == (count, method)]
            if found:
                yield min(
                    (_summary(cell) for cell in found), key=lambda row: (-row["right"], row["seconds"] or math.inf)
                )


def _summary(cell: Result) -> Result:
    halls = cell["halls"]
    answered = [hall for hall in halls if "seconds" in hall]
    stated = [hall for hall in answered if "confidence" in hall]
    return {
        "points": cell["points"],
        "method": cell["method"],
        "size": cell["size"],
        "seconds": statistics.median(hall["seconds"] for hall in answered) if answered else None,
        "megabytes": max(hall["megabytes"] for hall in answered) if answered else None,
        "right": sum(hall["right"] for hall in halls) / len(halls),
        "halls": len(halls),
        "wrong and sure": sum(not h["right"] and h["confidence"] > SURE for h in stated) / len(halls)
        if stated
        else None,
    }


def markdown(result: Result) -> str:
    """A table for each scale of the halls, and where our time goes."""
    formats = {"seconds": ".3f", "megabytes": ".0f", "right": ".2f", "wrong and sure": ".2f", "size": "g"}
    scales = sorted({cell["scale"] for cell in result["cells"]})
    parts = []
    for scale in scales:
        rows = [{**row, "points": f"{row['points']:,}"} for row in rows_of(result, scale)]
        parts.append(f"### Halls of scale {scale:g}\n\n{as_table(rows, formats)}")
    steps = as_table(list(_steps(result)), {"all": ".0f"}, form=".0f")
    return "\n\n".join([*parts, f"### Where the time of `register` goes, milliseconds\n\n{steps}"])


def _steps(result: Result) -> Iterator[Result]:
    """The median milliseconds of each step over the halls of all scales, for each number of points."""
    halls: dict[int, list[Result]] = {}
    for cell in result["cells"]:
        halls.setdefault(cell["points"], []).extend(h for h in cell["halls"] if "milliseconds" in h)
    for count, found in sorted(halls.items()):
        names = dict.fromkeys(name for hall in found for name in hall["milliseconds"])
        steps = {n: float(statistics.median(hall["milliseconds"].get(n, 0.0) for hall in found)) for n in names}
        if found:
            yield {"points": f"{count:,}", **steps, "all": 1e3 * float(statistics.median(h["seconds"] for h in found))}


def draw(result: Result, path: Path) -> None:
    """A row of panels for each scale: seconds, megabytes beyond the input, share of halls that are right."""
    scales = sorted({cell["scale"] for cell in result["cells"]})
    panels = {"seconds": "seconds a pair", "megabytes": "megabytes beyond the input", "right": "share of halls right"}
    with picture(path, 10.8, 2.75 * len(scales) + 0.45) as figure:
        for place, (scale, key) in enumerate([(scale, key) for scale in scales for key in panels], 1):
            panel = figure.add_subplot(len(scales), len(panels), place)
            _fill(panel, list(rows_of(result, scale)), key)
            panel.set_title(f"{panels[key]}, scale {scale:g}")
        lines = {line.get_label(): line for panel in figure.axes for line in panel.get_lines()}
        figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines))


def _fill(panel: Any, rows: Sequence[Result], key: str) -> None:
    for method in sorted({row["method"] for row in rows}, key=lambda name: name == OURS):  # ours on top
        ours = method == OURS
        known = [row for row in rows if row["method"] == method and row[key] is not None]
        floor = 1.0 if key == "megabytes" else 0.0  # what fits into memory the process already had
        panel.plot(
            [row["points"] for row in known],
            [max(floor, row[key]) for row in known],
            color=INK.get(method, GREY),
            marker=MARKS.get(method, "x"),
            linewidth=2.4 if ours else 1.2,
            markersize=5.5 if ours else 4,
            label=f"deepgmr {OURS}" if ours else method,
        )
    panel.set_xscale("log")
    panel.set_xlabel("points in each cloud")
    if key == "right":
        panel.set_ylim(-0.03, 1.03)
    else:
        panel.set_yscale("log")
