"""Our methods beside other libraries', on the same pairs in the same run.

    python scripts/benchmark.py ../shared/modelnet40/benchmark/modelnet_noisy.h5 ../shared/scans --threads 1

Peers: `icp`, `fgr`, `ransac` (Open3D), `kiss` (KISS-Matcher), `gicp` (small_gicp); `pip install deepgmr[benchmark]`.
Where a peer needs a voxel size it is given several, as shares of the diagonal of the source, and the best of them for
each suite (and each group of scans) is printed, chosen by its successes: an oracle no user has, in the peer's favour.
Its time is that of the chosen size alone. Ours is told nothing. Each answer of a peer is polished by ICP or GICP.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

VOXELS = (0.01, 0.02, 0.035)  # shares of the diagonal of the source
REACHES = (0.05, 0.15, 0.4)  # of ICP and GICP without a first guess
KISS_VOXEL = 0.3  # metres, as in its own examples
NEEDS = {"icp": "open3d", "fgr": "open3d", "ransac": "open3d", "kiss": "kiss_matcher", "gicp": "small_gicp"}

Peer = Callable[[np.ndarray, np.ndarray], Any]


# -- peers: (source, target) -> (4, 4) ---------------------------------------------------------------------------


def diagonal(cloud: np.ndarray) -> float:
    return float(np.linalg.norm(np.ptp(cloud, axis=0)))


def registration() -> Any:
    import open3d

    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d.pipelines.registration


def open3d_cloud(points: np.ndarray) -> Any:
    import open3d

    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(np.asarray(points, np.float64)))


def prepared(points: np.ndarray, voxel: float) -> tuple[Any, Any]:
    """Open3D's usual preparation: voxel grid, normals within 2 voxels, FPFH within 5."""
    import open3d

    search, module = open3d.geometry.KDTreeSearchParamHybrid, registration()
    cloud = open3d_cloud(points).voxel_down_sample(voxel)
    cloud.estimate_normals(search(radius=2 * voxel, max_nn=30))
    return cloud, module.compute_fpfh_feature(cloud, search(radius=5 * voxel, max_nn=100))


def icp(source: Any, target: Any, reach: float, initial: np.ndarray) -> np.ndarray:
    """Open3D's ICP, point to plane where the target has normals."""
    module = registration()
    kind = module.TransformationEstimationPointToPlane if target.has_normals() else None
    estimation = (kind or module.TransformationEstimationPointToPoint)()
    limit = module.ICPConvergenceCriteria(max_iteration=50)
    return np.asarray(module.registration_icp(source, target, reach, initial, estimation, limit).transformation)


def polished(source: np.ndarray, target: np.ndarray, voxel: float, initial: np.ndarray) -> np.ndarray:
    import open3d

    fine = open3d_cloud(target)
    fine.estimate_normals(open3d.geometry.KDTreeSearchParamHybrid(radius=2 * voxel, max_nn=30))
    return icp(open3d_cloud(source), fine, voxel, initial)


def make_icp(reach: float, seed: int, threads: int) -> Peer:
    return lambda s, t: icp(open3d_cloud(s), open3d_cloud(t), reach * diagonal(s), np.eye(4))


def make_ransac(size: float, seed: int, threads: int) -> Peer:
    import open3d

    module = registration()

    def run(source: np.ndarray, target: np.ndarray) -> np.ndarray:
        open3d.utility.random.seed(seed)
        voxel = size * diagonal(source)
        (p, fp), (q, fq) = prepared(source, voxel), prepared(target, voxel)
        found = module.registration_ransac_based_on_feature_matching(
            p,
            q,
            fp,
            fq,
            True,
            1.5 * voxel,
            module.TransformationEstimationPointToPoint(False),
            3,
            [
                module.CorrespondenceCheckerBasedOnEdgeLength(0.9),
                module.CorrespondenceCheckerBasedOnDistance(1.5 * voxel),
            ],
            module.RANSACConvergenceCriteria(100_000, 0.999),
        )
        return polished(source, target, voxel, np.asarray(found.transformation))

    return run


def make_fgr(size: float, seed: int, threads: int) -> Peer:
    import open3d

    module = registration()

    def run(source: np.ndarray, target: np.ndarray) -> np.ndarray:
        open3d.utility.random.seed(seed)
        voxel = size * diagonal(source)
        (p, fp), (q, fq) = prepared(source, voxel), prepared(target, voxel)
        option = module.FastGlobalRegistrationOption(maximum_correspondence_distance=voxel)
        found = module.registration_fgr_based_on_feature_matching(p, q, fp, fq, option)
        return polished(source, target, voxel, np.asarray(found.transformation))

    return run


def gicp(source: np.ndarray, target: np.ndarray, voxel: float, reach: float, initial: np.ndarray, threads: int) -> Any:
    import small_gicp

    result = small_gicp.align(
        np.asarray(target, np.float64),
        np.asarray(source, np.float64),
        init_T_target_source=initial,
        registration_type="GICP",
        downsampling_resolution=voxel,
        max_correspondence_distance=reach,
        num_threads=threads,
    )
    return result.T_target_source


def make_gicp(reach: float, seed: int, threads: int) -> Peer:
    def run(source: np.ndarray, target: np.ndarray) -> Any:
        size = diagonal(source)
        return gicp(source, target, 0.01 * size, reach * size, np.eye(4), threads)

    return run


def make_kiss(size: float, seed: int, threads: int) -> Peer:
    import kiss_matcher

    def run(source: np.ndarray, target: np.ndarray) -> Any:
        voxel = size * diagonal(source)
        scale = KISS_VOXEL / voxel  # it refuses voxels of millimetres, so it works in units of its own
        matcher = kiss_matcher.KISSMatcher(kiss_matcher.KISSMatcherConfig(KISS_VOXEL))
        found = matcher.estimate((scale * source).astype(np.float32), (scale * target).astype(np.float32))
        initial = np.eye(4)
        initial[:3, :3], initial[:3, 3] = found.rotation, np.asarray(found.translation).reshape(3) / scale
        return gicp(source, target, 0.5 * voxel, voxel, initial, threads)

    return run


MAKERS: dict[str, tuple[Callable[[float, int, int], Peer], tuple[float, ...]]] = {
    "icp": (make_icp, REACHES),
    "fgr": (make_fgr, VOXELS),
    "ransac": (make_ransac, VOXELS),
    "kiss": (make_kiss, VOXELS),
    "gicp": (make_gicp, REACHES),
}


# -- the oracle --------------------------------------------------------------------------------------------------


def best_of(table: Any, variants: list[str], label: str) -> tuple[Any, str]:
    """One outcome from those of several sizes: for each group of pairs, the size with the most successes; and a line
    that says which."""
    from deepgmr.evaluation import Outcome

    found = [outcome for outcome in table.outcomes if outcome.method in variants]
    groups = np.array(table.groups)
    chosen = np.zeros(len(groups), dtype=int)
    for group in set(table.groups):
        rows = groups == group
        # Ties go to the smaller mean distance of what was answered.
        rank = [(o.success[rows].sum(), -np.nan_to_num(o.distance[rows], nan=1e9).mean()) for o in found]
        chosen[rows] = max(range(len(found)), key=rank.__getitem__)
    columns: dict[str, Any] = {}
    for key, first in vars(found[0]).items():
        if isinstance(first, np.ndarray):
            columns[key] = np.stack([getattr(o, key) for o in found])[chosen, np.arange(len(chosen))]
        elif isinstance(first, tuple):
            columns[key] = tuple(getattr(found[k], key)[i] for i, k in enumerate(chosen))
    sizes = ", ".join(f"{g} {variants[chosen[groups == g][0]].rpartition('@')[2]}" for g in sorted(set(table.groups)))
    return Outcome(method=label, **columns), f"{label}: best of {len(found)} sizes for {sizes}"


def with_best(table: Any, families: dict[str, list[str]]) -> Any:
    variants = {name for names in families.values() for name in names}
    ours = tuple(outcome for outcome in table.outcomes if outcome.method not in variants)
    peers = [best_of(table, names, label) for label, names in families.items()]
    provenance = {**table.provenance, "notes": [*table.provenance.get("notes", []), *(line for _, line in peers)]}
    return replace(table, outcomes=(*ours, *(outcome for outcome, _ in peers)), provenance=provenance)


# -- the terminal ------------------------------------------------------------------------------------------------


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="fixed-pair HDF5 files or folders of scans")
    parser.add_argument("--method", action="append", help="one of ours; may be repeated [default: register]")
    parser.add_argument("--peer", action="append", choices=sorted(MAKERS), help="[default: all that are installed]")
    parser.add_argument("--no-peers", action="store_true", help="only ours")
    parser.add_argument("--size", type=float, action="append", help="share of the diagonal, instead of several")
    parser.add_argument("--limit", type=int, help="at most so many pairs a suite, spread evenly")
    parser.add_argument("--points", type=int, help="cut every cloud to so many points")
    parser.add_argument("--max-rotation", type=float, metavar="DEG", help="a prior that ours are told")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="processors the whole run may use [default: 1]")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every number of every pair")
    return parser.parse_args(arguments)


def limit_threads(threads: int) -> None:
    """Before anything is imported that starts threads: every library here is bound to the same processors."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TBB_NUM_THREADS"):
        os.environ[name] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    limit_threads(options.threads)
    import torch

    from deepgmr import evaluation
    from deepgmr.errors import DeepGMRError, MissingDependency

    torch.set_num_threads(options.threads)
    try:
        chosen = [] if options.no_peers else options.peer or list(MAKERS)
        absent = [name for name in chosen if find_spec(NEEDS[name]) is None]
        if absent and options.peer:
            raise MissingDependency(f"{absent} need {NEEDS[absent[0]]}: pip install 'deepgmr[benchmark]'")
        for name in absent:
            print(f"{name}: left out, {NEEDS[name]} is not installed", file=sys.stderr)
        methods: dict[str, Any] = {}
        for spec in options.method or ["register"]:
            methods |= evaluation.make_methods([spec], seed=options.seed, max_rotation_degrees=options.max_rotation)
        families: dict[str, list[str]] = {}
        for name in chosen:
            if name in absent:
                continue
            make, sizes = MAKERS[name]
            for size in options.size or sizes:
                families.setdefault(name, []).append(f"{name}@{size:g}")
                methods[f"{name}@{size:g}"] = make(size, options.seed, options.threads)
        with chatter_on_stderr():
            tables = evaluation.evaluate(
                options.suites,
                methods,
                limit=options.limit,
                seed=options.seed,
                max_rotation_degrees=options.max_rotation,
                points=options.points,
                progress=progress if sys.stderr.isatty() else None,
            )
        tables = [with_best(table, families) if families else table for table in tables]
        if options.json is not None:
            evaluation.write_json(options.json, tables)
    except DeepGMRError as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2
    print(evaluation.to_text(tables))
    return 0


@contextmanager
def chatter_on_stderr() -> Iterator[None]:
    """What compiled libraries print goes to stderr, so that stdout holds the tables and nothing else."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def progress(label: str, done: float) -> None:
    print(f"\r{100 * done:3.0f} % {label:60.60}", end="" if done < 1 else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
