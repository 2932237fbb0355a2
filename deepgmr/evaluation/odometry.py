"""Odometry beside the truth on a drive of two kilometres: drift, errors and time, ours and KISS-ICP's in one run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from deepgmr.datasets.worlds.tours import Tour, tour
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.extras import extra
from deepgmr.geometry.procrustes import align_few
from deepgmr.odometry import Odometry

STUDY = "odometry"
LENGTHS = tuple(range(100, 900, 100))  # metres, of the ways that KITTI's benchmark looks at
_EVERY = 10  # scans between two such ways
_FORMATS = {
    "ms": ".0f",
    "mean ms": ".0f",
    "slowest ms": ".0f",
    "ATE m": ".3f",
    "drift %": ".3f",
    "drift deg/100 m": ".4f",
}

Step = Callable[[np.ndarray, float, np.ndarray | None], np.ndarray]


def measure(
    *, frames: int = 2001, steps: int = 600, seed: int = 1, moving: bool = False, watch: Watch | None = None
) -> Result:
    """Every scan given to both, one after the other, and the error of the poses when all have been.

    Milliseconds are of the processor, on one thread.
    """
    watch = watch or Watch()
    way = tour(np.random.default_rng(seed), frames=frames, steps=steps, moving=moving)
    ours, theirs = Odometry(), _kiss(moving)
    raw: list[np.ndarray] = []
    other: list[np.ndarray] = []
    spent: dict[str, list[float]] = {"deepgmr": [], "kiss-icp": []}
    points = 0
    result: Result = {"study": STUDY, "provenance": {}, "rows": []}
    for number in range(len(way)):
        cloud, ages = way.timed(number)
        points += len(cloud)
        start = time.process_time()
        fix = ours.feed(cloud, time=float(number), point_times=number + ages if moving else None)
        spent["deepgmr"].append(1e3 * (time.process_time() - start))
        if fix.world_from_sensor is not None:
            raw.append(fix.world_from_sensor)
        start = time.process_time()
        other.append(theirs(cloud.astype(np.float64), number, 1.0 + ages.astype(np.float64)))
        spent["kiss-icp"].append(1e3 * (time.process_time() - start))
        if number % 100 == 99 or number == len(way) - 1:
            given = provenance(
                frames=number + 1, steps=steps, seed=seed, moving=moving, mean_points=points / (number + 1)
            )
            poses = {
                "deepgmr, as it went": np.array(raw),
                "deepgmr, loops closed": ours.trajectory.poses,
                "kiss-icp": np.array(other),
            }
            seen = [fix.number for fix in ours.fixes if fix.trusted]
            result |= {"provenance": given, "rows": _rows(way, poses, seen, spent)}
            result |= {"statuses": dict(Counter(fix.status.value for fix in ours.fixes)), "loops": len(ours.loops)}
            watch.keep(result)
        watch.progress(f"scan {number}", (number + 1) / len(way))
    return result


def markdown(result: Result) -> str:
    """What was run, and a row a method."""
    given, statuses = result["provenance"], result["statuses"]
    said = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    return (
        f"{given['frames']:,} scans of {given['mean_points']:,.0f} points each, a metre apart"
        f"{', the sensor moving while it turns' if given['moving'] else ''}: {said}; {result['loops']} loops.\n\n"
        + as_table(result["rows"], _FORMATS)
    )


def _rows(way: Tour, poses: dict[str, np.ndarray], seen: list[int], spent: dict[str, list[float]]) -> list[Result]:
    rows = []
    for name, found in poses.items():
        truth = way.poses[: len(found)] if name == "kiss-icp" else way.poses[seen]
        metres, degrees = relative_errors(found, truth)
        took = spent.get(name.partition(",")[0], [])
        rows.append(
            {
                "method": name,
                "ATE m": trajectory_error(found, truth),
                "drift %": metres,
                "drift deg/100 m": degrees,
                "ms": float(np.median(took)),
                "mean ms": float(np.mean(took)),
                "slowest ms": float(np.max(took)),
            }
        )
    return rows


def trajectory_error(poses: np.ndarray, truth: np.ndarray) -> float:
    """The root mean square distance between places (F, 4, 4) after the rigid motion that makes it least (ATE)."""
    found, wanted = poses[:, :3, 3], truth[:, :3, 3]
    rotation, translation = align_few(found, wanted, np.ones(len(found)), np.eye(3))
    return float(np.sqrt(np.mean(np.sum((found @ rotation.T + translation - wanted) ** 2, axis=1))))


def relative_errors(
    poses: np.ndarray, truth: np.ndarray, lengths: tuple[int, ...] = LENGTHS
) -> tuple[float | None, float | None]:
    """KITTI's errors over ways of 100 to 800 m: percent of the length, and degrees per 100 m; None if none is so long."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1))])
    metres, degrees = [], []
    for first in range(0, len(poses), _EVERY):
        for length in lengths:
            last = int(np.searchsorted(along, along[first] + length))
            if last >= len(poses):
                break
            wanted, found = (np.linalg.inv(each[first]) @ each[last] for each in (truth, poses))
            error = np.linalg.inv(found) @ wanted
            metres.append(100 * float(np.linalg.norm(error[:3, 3])) / length)
            degrees.append(100 * float(np.degrees(Rotation.from_matrix(error[:3, :3]).magnitude())) / length)
    return (float(np.mean(metres)), float(np.mean(degrees))) if metres else (None, None)


def _kiss(moving: bool) -> Step:
    """KISS-ICP (Vizzo et al. 2023) with its defaults, on one thread; given a scan, its pose."""
    extra("kiss_icp", "benchmark", "odometry beside KISS-ICP")
    from kiss_icp.config import KISSConfig
    from kiss_icp.kiss_icp import KissICP

    config = KISSConfig()
    config.mapping.voxel_size = config.data.max_range / 100  # as its own loader of configurations has it
    config.registration.max_num_threads = 1
    config.data.deskew = moving
    running = KissICP(config)

    def step(points: np.ndarray, number: float, times: np.ndarray | None) -> np.ndarray:
        running.register_frame(points, times)
        return running.last_pose

    return step
