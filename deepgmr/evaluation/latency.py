"""How long an answer takes by what is known: nothing, a motion that is nearly right, a target met before, or both.

On the halls of `scaling`, each method in a process of its own, on one thread: ours, and the peers that answer the same
question. Searching peers have the best of two voxel sizes; those that refine a given motion are told at each.
"""

from __future__ import annotations

import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from deepgmr.evaluation.peers import Peer, diagonal, gicp, icp, is_installed, open3d_cloud
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.evaluation.scaling import OURS, alone, draw_halls, errors, right

STUDY = "latency"
POINTS = (1_000, 5_000, 20_000, 100_000, 300_000, 1_000_000)
NOTHING, PRIOR, MAP, BOTH = "nothing", "a prior", "a prepared target", "both"
QUESTIONS = {  # what is known, and who answers
    NOTHING: (OURS, "kiss", "ransac"),
    PRIOR: (OURS, "gicp", "icp"),
    MAP: (OURS,),
    BOTH: (OURS, "gicp"),
}
SIZES: dict[str, tuple[float | None, ...]] = {  # of voxels, shares of the diagonal, which is 10 m
    OURS: (None,),
    "kiss": (0.015, 0.03),
    "ransac": (0.02, 0.035),
    "gicp": (0.01, 0.025),
    "icp": (0.01,),
}
NAMES = {
    OURS: "deepgmr",
    "kiss": "KISS-Matcher, then small_gicp",
    "ransac": "Open3D: FPFH, RANSAC, ICP",
    "gicp": "small_gicp",
    "icp": "Open3D: ICP",
}
DEGREES, SHARE = (
    3.0,
    0.02,
)  # that a prior is off: about any axis through the middle, and of the size along any direction
REACH = 0.05  # of the diagonal: where peers with a prior look for counterparts

Solve = Callable[[], Any]


def measure(
    *, points: Sequence[int] = POINTS, halls: int = 5, scale: float = 1.0, seed: int = 0, watch: Watch | None = None
) -> Result:
    """A cell for each number of points, what is known, method and voxel size."""
    watch = watch or Watch()
    told = provenance(points=list(points), halls=halls, scale=scale, seed=seed, degrees=DEGREES, share=SHARE)
    result: Result = {"study": STUDY, "provenance": told, "cells": []}
    for done, count in enumerate(points):
        with tempfile.TemporaryDirectory() as folder:
            files = draw_halls(Path(folder), scale, count, halls, seed)
            for known, methods in QUESTIONS.items():
                for name in (name for name in methods if name == OURS or is_installed(name)):
                    watch.progress(f"{count:,} points, {known} known, {name}", done / len(points))
                    for found in alone(functools.partial(met, known), files, name, SIZES[name]):
                        result["cells"].append({"points": count, "known": known, "method": name, **found})
                    watch.keep(result)
    return result


def met(known: str, files: Sequence[str], method: str, sizes: Sequence[float | None]) -> list[Result]:
    """One method at several sizes: for each hall the milliseconds, of the processor and of the wall, and its errors."""
    found = []
    for size in sizes:
        halls = []
        for number, file in enumerate(files):
            with np.load(file) as data:
                pair = {key: data[key] for key in data}
            halls.append(_hall(known, method, size, pair, prior(pair, np.random.default_rng(number))))
        found.append({"size": size, "halls": halls})
    return found


def prior(pair: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The truth (4, 4), turned and shifted as much as a prior is off."""
    target = pair["target"].astype(np.float64)
    middle = target.mean(axis=0)
    size = 2 * math.sqrt(np.square(target - middle).sum(axis=1).mean())
    axis, shift = (each / np.linalg.norm(each) for each in rng.normal(size=(2, 3)))
    off = np.eye(4)
    off[:3, :3] = Rotation.from_rotvec(math.radians(DEGREES) * axis).as_matrix()
    off[:3, 3] = middle - off[:3, :3] @ middle + SHARE * size * shift
    return off @ pair["truth"]


def _hall(known: str, method: str, size: float | None, pair: dict[str, np.ndarray], initial: np.ndarray) -> Result:
    repeats = 5 if len(pair["source"]) <= 20_000 else 3 if method == OURS else 1
    spent, wall = [], []
    try:
        solve = _asked(known, method, size, pair, initial)
        solve() if repeats > 1 else None  # imports, first allocations, and what a prepared target keeps
        for _ in range(repeats):
            start, used = time.perf_counter(), time.process_time()
            answer = solve()
            spent.append(1e3 * (time.process_time() - used))
            wall.append(1e3 * (time.perf_counter() - start))
    except Exception as error:
        return {"right": False, "error": type(error).__name__}
    matrix = np.asarray(getattr(answer, "target_from_source", answer), dtype=np.float64)
    degrees, metres = errors(matrix, pair)
    row: Result = {"right": right(matrix, pair), "ms": min(spent), "wall ms": min(wall)}
    row |= {"degrees": degrees, "metres": metres} if math.isfinite(metres) else {}
    if hasattr(answer, "stats"):
        row |= {"confidence": float(answer.confidence), "looks": answer.stats.looks}
    return row


def _asked(known: str, method: str, size: float | None, pair: dict[str, np.ndarray], initial: np.ndarray) -> Solve:
    """What answers with a motion; what is prepared is prepared here."""
    source, target = pair["source"], pair["target"]
    told, prepared = known in (PRIOR, BOTH), known in (MAP, BOTH)
    if size is None:
        from deepgmr.pipeline.registrar import Registrar

        registrar = Registrar.load()
        there = registrar.prepare(target) if prepared else target
        return lambda: registrar.register(source, there, initial=initial if told else None)
    if not told:
        solver = Peer(method, size).solver(seed=0, threads=1)
        return lambda: solver(source, target)
    voxel, reach = size * diagonal(source), REACH * diagonal(source)
    if method == "icp":
        return lambda: _open3d(source, target, voxel, reach, initial)
    if prepared:
        return _gicp_onto(source, target, voxel, reach, initial)
    return lambda: gicp(source, target, voxel, reach, initial, 1)


def _open3d(source: np.ndarray, target: np.ndarray, voxel: float, reach: float, initial: np.ndarray) -> np.ndarray:
    """Open3D's ICP point to plane, after its usual preparation: voxel grid, normals within 2 voxels."""
    import open3d

    moving, fixed = (open3d_cloud(cloud).voxel_down_sample(voxel) for cloud in (source, target))
    fixed.estimate_normals(open3d.geometry.KDTreeSearchParamHybrid(radius=2 * voxel, max_nn=30))
    return icp(moving, fixed, reach, initial)


def _gicp_onto(source: np.ndarray, target: np.ndarray, voxel: float, reach: float, initial: np.ndarray) -> Solve:
    """small_gicp onto a target that it prepared."""
    import small_gicp

    fixed, tree = small_gicp.preprocess_points(np.asarray(target, np.float64), voxel, num_threads=1)

    def solve() -> Any:
        moving, _ = small_gicp.preprocess_points(np.asarray(source, np.float64), voxel, num_threads=1)
        found = small_gicp.align(
            fixed,
            moving,
            tree,
            init_T_target_source=initial,
            registration_type="GICP",
            max_correspondence_distance=reach,
            num_threads=1,
        )
        return found.T_target_source

    return solve


# -- telling -----------------------------------------------------------------------------------------------------


def rows_of(result: Result, known: str) -> Iterator[Result]:
    """For each number of points and method a row: of those that search the best size, by halls right and then by time."""
    cells = [cell for cell in result["cells"] if cell["known"] == known]
    for count in dict.fromkeys(cell["points"] for cell in cells):
        for method in dict.fromkeys(cell["method"] for cell in cells):
            found = [_summary(cell) for cell in cells if (cell["points"], cell["method"]) == (count, method)]
            if known == NOTHING and found:
                found = [min(found, key=lambda row: (-row["right"], row["ms"] or math.inf))]
            yield from found


def _summary(cell: Result) -> Result:
    answered = [hall for hall in cell["halls"] if "ms" in hall]
    near = [1e3 * hall["metres"] for hall in answered if "metres" in hall]
    refines = cell["method"] in ("gicp", "icp") and cell["size"] is not None
    voxels = f", voxels of {100 * cell['size']:g} %" if refines else ""
    return {
        "points": cell["points"],
        "method": NAMES[cell["method"]] + voxels,
        "ms": statistics.median(hall["ms"] for hall in answered) if answered else None,
        "right": sum(hall["right"] for hall in cell["halls"]),
        "halls": len(cell["halls"]),
        "error": statistics.median(near) if near else None,
    }


def parts(result: Result) -> dict[str, str]:
    """A table for each thing that may be known, a row a number of points and a column a method."""
    return {known.split()[-1]: _table(result, known) for known in QUESTIONS}


def _table(result: Result, known: str) -> str:
    rows: dict[int, Result] = {}
    for row in rows_of(result, known):
        told = "-" if row["ms"] is None else f"{row['ms']:,.0f} ms"
        error = "" if row["error"] is None else f", {row['error']:,.0f} mm"
        line = rows.setdefault(row["points"], {"points": f"{row['points']:,}"})
        line[row["method"]] = f"{told}, {row['right']}/{row['halls']}{error}"
    return as_table(list(rows.values()))


def markdown(result: Result) -> str:
    """A table for each thing that may be known."""
    return "\n\n".join(f"Known: {known}\n\n{_table(result, known)}" for known in QUESTIONS)
