"""Other libraries' registrations, each in a process of its own: a crash is an answer, and no reason to lose a run.

Where a peer needs a voxel size it is given several, as shares of the diagonal of the source; its answers are polished by
ICP or GICP. All of them are optional: `pip install 'deepgmr[benchmark]'`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from deepgmr.errors import MissingDependency

VOXELS = (0.01, 0.02, 0.035, 0.07)  # shares of the diagonal of the source
REACHES = (0.05, 0.15, 0.4)  # of ICP and GICP without a first guess
WHOLE = 200_000  # points up to which Open3D's ICP polishes with all of them; of more, with what half a voxel leaves
KISS_VOXEL = 0.3  # metres, as in its own examples

Solver = Callable[[np.ndarray, np.ndarray], Any]  # (source (N, 3), target (M, 3)) -> (4, 4)


@dataclass(frozen=True)
class Peer:
    """A peer at one of its sizes."""

    name: str
    size: float

    def solver(self, seed: int, threads: int) -> Solver:
        return PEERS[self.name].make(self.size, seed, threads)


@dataclass(frozen=True)
class Kind:
    """How a peer is made, what it needs, and the sizes it is tried at."""

    make: Callable[[float, int, int], Solver]  # (size, seed, threads)
    needs: str
    sizes: tuple[float, ...]


def check_installed(name: str) -> None:
    """Raise `MissingDependency` unless the library of a peer is there."""
    if not is_installed(name):
        raise MissingDependency(f"{name} needs {PEERS[name].needs}: pip install 'deepgmr[benchmark]'")


def is_installed(name: str) -> bool:
    return find_spec(PEERS[name].needs) is not None


# -- a process of its own ----------------------------------------------------------------------------------------


class PeerFailed(Exception):
    """A peer gave no answer."""


class PeerProcess:
    """Answers for peers, and starts again when one of them ends it, as KISS-Matcher does on too sparse clouds.

    Times are taken inside, so that passing the clouds along costs nobody anything.
    """

    def __init__(self, seed: int, threads: int, serve: Callable[..., None] | None = None) -> None:
        self._serve, self._options = serve or _serve, (seed, threads)
        self._process: Any = None
        self._pipe: Any = None

    def solve(self, peer: Peer, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
        """The motion (4, 4) and the milliseconds it took; `PeerFailed` says what went wrong."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, far = context.Pipe()
            self._process = context.Process(target=self._serve, args=(far, *self._options), daemon=True)
            self._process.start()
            far.close()  # else its end would go unnoticed
        try:
            self._pipe.send((peer, source, target))
            milliseconds, answer = self._pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise PeerFailed("crashed") from None
        if isinstance(answer, str):
            raise PeerFailed(answer)
        return answer, milliseconds

    def close(self) -> None:
        if self._process is not None:
            self._pipe.close()
            self._process.join()
            self._process = None


def _serve(pipe: Any, seed: int, threads: int) -> None:
    """The other end: answers (peer, source, target) with the milliseconds and a (4, 4), or what went wrong."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TBB_NUM_THREADS"):
        os.environ[name] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.dup2(2, 1)  # what compiled libraries print does not belong on stdout
    solvers: dict[Peer, Solver] = {}
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            peer, source, target = pipe.recv()
            if peer not in solvers:
                solvers[peer] = peer.solver(seed, threads)
            start = time.perf_counter()
            try:
                answer: Any = np.asarray(solvers[peer](source, target), dtype=np.float64)
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            pipe.send((1e3 * (time.perf_counter() - start), answer))


# -- Open3D ------------------------------------------------------------------------------------------------------


def diagonal(cloud: np.ndarray) -> float:
    return float(np.linalg.norm([np.ptp(axis) for axis in cloud.T]))  # an axis at a time: fifty times as fast


def _registration() -> Any:
    import open3d

    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d.pipelines.registration


def open3d_cloud(points: np.ndarray) -> Any:
    import open3d

    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(np.asarray(points, np.float64)))


def _described(points: np.ndarray, voxel: float) -> tuple[Any, Any]:
    """Open3D's usual preparation: voxel grid, normals within 2 voxels, FPFH within 5."""
    import open3d

    search, module = open3d.geometry.KDTreeSearchParamHybrid, _registration()
    cloud = open3d_cloud(points).voxel_down_sample(voxel)
    cloud.estimate_normals(search(radius=2 * voxel, max_nn=30))
    return cloud, module.compute_fpfh_feature(cloud, search(radius=5 * voxel, max_nn=100))


def icp(source: Any, target: Any, reach: float, initial: np.ndarray) -> np.ndarray:
    """Open3D's ICP, point to plane where the target has normals."""
    module = _registration()
    kind = module.TransformationEstimationPointToPlane if target.has_normals() else None
    estimation = (kind or module.TransformationEstimationPointToPoint)()
    limit = module.ICPConvergenceCriteria(max_iteration=50)
    return np.asarray(module.registration_icp(source, target, reach, initial, estimation, limit).transformation)


def _polished(source: np.ndarray, target: np.ndarray, voxel: float, initial: np.ndarray) -> np.ndarray:
    import open3d

    moving, fine = (open3d_cloud(cloud) for cloud in (source, target))
    if max(len(source), len(target)) > WHOLE:
        moving, fine = (cloud.voxel_down_sample(0.5 * voxel) for cloud in (moving, fine))
    fine.estimate_normals(open3d.geometry.KDTreeSearchParamHybrid(radius=2 * voxel, max_nn=30))
    return icp(moving, fine, voxel, initial)


def _make_icp(reach: float, seed: int, threads: int) -> Solver:
    return lambda s, t: icp(open3d_cloud(s), open3d_cloud(t), reach * diagonal(s), np.eye(4))


def _make_ransac(size: float, seed: int, threads: int) -> Solver:
    import open3d

    module = _registration()

    def run(source: np.ndarray, target: np.ndarray) -> np.ndarray:
        open3d.utility.random.seed(seed)
        voxel = size * diagonal(source)
        (p, fp), (q, fq) = _described(source, voxel), _described(target, voxel)
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
        return _polished(source, target, voxel, np.asarray(found.transformation))

    return run


def _make_fgr(size: float, seed: int, threads: int) -> Solver:
    import open3d

    module = _registration()

    def run(source: np.ndarray, target: np.ndarray) -> np.ndarray:
        open3d.utility.random.seed(seed)
        voxel = size * diagonal(source)
        (p, fp), (q, fq) = _described(source, voxel), _described(target, voxel)
        option = module.FastGlobalRegistrationOption(maximum_correspondence_distance=voxel)
        found = module.registration_fgr_based_on_feature_matching(p, q, fp, fq, option)
        return _polished(source, target, voxel, np.asarray(found.transformation))

    return run


# -- small_gicp and KISS-Matcher ---------------------------------------------------------------------------------


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


def _make_gicp(reach: float, seed: int, threads: int) -> Solver:
    def run(source: np.ndarray, target: np.ndarray) -> Any:
        size = diagonal(source)
        return gicp(source, target, 0.01 * size, reach * size, np.eye(4), threads)

    return run


def _make_kiss(size: float, seed: int, threads: int) -> Solver:
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


PEERS = {
    "icp": Kind(_make_icp, "open3d", REACHES),
    "fgr": Kind(_make_fgr, "open3d", VOXELS),
    "ransac": Kind(_make_ransac, "open3d", VOXELS),
    "kiss": Kind(_make_kiss, "kiss_matcher", VOXELS),
    "gicp": Kind(_make_gicp, "small_gicp", REACHES),
}
