"""Scans from tripods on a floor of rooms of one size: walls fit walls in every room and turned round, furniture tells."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from deepgmr.datasets.worlds.interiors import floor_scene
from deepgmr.datasets.worlds.planned import Planned, any_pose, inverse
from deepgmr.datasets.worlds.sections import Floats, about
from deepgmr.datasets.worlds.sensors import Scene, View
from deepgmr.datasets.worlds.viewpoints import tripod
from deepgmr.errors import InvalidConfig

_ROOMS = (2, 5)  # a side, the last left out
_FAR = 100.0  # metres: how far from its origin the source may stand
_CLEAR = 0.5  # metres that nine tenths of the rays go at least: it does not stand inside of something
_NEAR, _APART = (0.8, 4.0), 4.0  # metres between stands in sight of one another, and at least between others
_LEAST, _MOST = 0.3, 0.05  # share of what one sees that the other sees, too: of two in sight, and of two apart
_TRIES = 400
_PROBED = 500  # rays, or points, of which is judged what a stand sees


def stands_pair(rng: np.random.Generator, *, apart: float = 0.0, alike: float | None = None) -> Planned:
    """Two scans of a floor, their stands in sight of one another or, in the share `apart` of pairs, in rooms apart.

    `alike` is the share of the furniture that stands nearly the same in every room, by default any up to .8. Scans that
    are apart share next to nothing: nobody can know how they lie. Right within 3 degrees and .15 m. Raises `InvalidConfig`
    for a share outside [0, 1].
    """
    share = float(rng.uniform(0, 0.8)) if alike is None else alike
    for name, value in (("apart", apart), ("alike", share)):
        if not 0 <= value <= 1:
            raise InvalidConfig(f"{name} is a share, in [0, 1], got {value:g}")
    separate = bool(rng.random() < apart)
    while True:
        scene, _ = floor_scene(rng, int(rng.integers(*_ROOMS)), alike=share)
        places = _places(scene, separate, rng)
        if places is not None:
            first, second = (_tripod(place, rng) for place in places)
            seen = first.scan(scene, _PROBED, rng).world
            overlap = float(second.sees(scene, seen).mean())
            if overlap < _MOST if separate else overlap > _LEAST:
                break
    coarse, pose, seed = float(rng.uniform(1, 2)), any_pose(rng, _FAR), int(rng.integers(2**62))

    def clouds(points: int) -> tuple[Floats, Floats]:
        again = np.random.default_rng(seed)
        source = _scanned(first, scene, points, coarse, again) @ pose[:3, :3].T + pose[:3, 3]
        return source.astype(np.float32), _scanned(second, scene, points, coarse, again).astype(np.float32)

    truth = inverse(_frame(second)) @ _frame(first) @ inverse(pose)
    return Planned(truth, clouds, degrees=3.0, metres=0.15, overlap=overlap, origins=(pose[:3, 3], np.zeros(3)))


def _places(scene: Scene, separate: bool, rng: np.random.Generator) -> list[Floats] | None:
    """Where the two tripods stand (3,), or none if no such places were found."""
    assert scene.walls is not None
    low, high = scene.walls[:, :2] + np.array([[0.4], [-0.4]])
    found: list[Floats] = []
    for _ in range(_TRIES):
        place = np.array([*rng.uniform(low, high), rng.uniform(1.2, 1.8)])
        if found:
            way = place - found[0]
            length = float(np.linalg.norm(way))
            if length < _APART if separate else not _NEAR[0] < length < _NEAR[1]:
                continue
            in_sight = bool(scene.cast(found[0], way[None] / length)[0][0] > length)
            if in_sight is separate:
                continue
        rays = _tripod(place, rng).rays(_PROBED, rng)
        if np.quantile(scene.cast(place, rays)[0], 0.1) > _CLEAR:
            found.append(place)
        if len(found) == 2:
            return found
    return None


def _tripod(place: Floats, rng: np.random.Generator) -> View:
    """One turned anyhow, that sees as much of what is above and below as it happens to."""
    return tripod(
        place,
        about(2, rng.uniform(-np.pi, np.pi, 1))[0],
        low=rng.uniform(-1.2, -0.8),
        high=rng.uniform(0.6, 1.5),
        noise=rng.uniform(0.002, 0.01),
    )


def _scanned(view: View, scene: Scene, points: int, coarse: float, rng: np.random.Generator) -> Floats:
    """Points (points, 3) in the frame of a scanner, of a raster that is so many times as coarse from ring to ring."""
    rays = points
    while True:
        rings = math.ceil(math.sqrt(rays / coarse * (view.high[0] - view.low[0]) / (2 * math.pi)))
        found = replace(view, beams=rings).scan(scene, rays, rng).points
        if len(found) >= points:
            return found[rng.permutation(len(found))[:points]]
        rays = math.ceil(1.1 * rays * points / max(len(found), 1))


def _frame(view: View) -> Floats:
    """World from sensor (4, 4)."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = view.rotation, view.position
    return pose
