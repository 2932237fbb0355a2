"""A map prepared once: each scan of a drive pays for itself alone, and says how sure it is of where it is."""

from __future__ import annotations

import time

import numpy as np
from picture import SOURCE, TARGET, draw, moved, wanted
from scipy.spatial.transform import Rotation

import deepgmr

# A hall of 14 x 9 m with shelves and boxes, and scans of what lies within 5 m of a robot, in its own frame.
draw_numbers = np.random.default_rng(3)
boxes = [((14, 9, 3), (0, 0, 1.5))]
for _ in range(16):
    size = draw_numbers.uniform((0.5, 0.4, 0.5), (2.5, 1.2, 2.2))
    boxes.append((tuple(size), (*draw_numbers.uniform((-6, -3.8), (6, 3.8)), size[2] / 2)))


def surface(points: int) -> np.ndarray:
    """Points (N, 3) on the faces of all boxes, evenly by area, in metres."""
    parts = []
    for size, place in boxes:
        areas = np.array([size[1] * size[2], size[0] * size[2], size[0] * size[1]])
        count = round(points * areas.sum() / 600)
        side = draw_numbers.choice(3, count, p=areas / areas.sum())
        on = draw_numbers.uniform(-0.5, 0.5, (count, 3))
        on[np.arange(count), side] = draw_numbers.choice((-0.5, 0.5), count)
        parts.append(on * size + place)
    return np.concatenate(parts)


plan = surface(60_000)
registrar = deepgmr.Registrar.load("default")
start = time.perf_counter()
prepared = registrar.prepare(plan)
print(f"the map of {len(plan):,} points is prepared in {time.perf_counter() - start:.2f} s, once")

shown = []
for number, (x, y, heading) in enumerate([(-4, 0, 0.3), (0, 2, 2.0), (4, -1, -1.2)]):
    every = surface(40_000)
    near = every[np.linalg.norm(every[:, :2] - (x, y), axis=1) < 5]
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = Rotation.from_euler("z", heading).as_matrix(), (x, y, 0)
    scan = moved(near + draw_numbers.normal(scale=0.01, size=near.shape), np.linalg.inv(truth))
    start = time.perf_counter()
    result = registrar.register(scan, prepared)
    seconds = time.perf_counter() - start
    off = np.linalg.norm(result.target_from_source[:3, 3] - truth[:3, 3])
    where = np.array_str(result.target_from_source[:2, 3], precision=2)
    print(
        f"scan {number}: at {where} m, {off:.3f} m off, {result.status.value} ({result.confidence:.3f}), {seconds:.2f} s"
    )
    shown.append((moved(scan, result.target_from_source), SOURCE))

if path := wanted(__doc__):
    low = plan[plan[:, 2] < 2.5]
    panels = [(f"scan {i}", [(low, TARGET), (cloud[cloud[:, 2] < 2.5], SOURCE)]) for i, (cloud, _) in enumerate(shown)]
    draw(path, panels, view=(60, -80))
