"""Where the sensors stand: random first viewpoints, and second ones near enough to share something."""

from __future__ import annotations

import numpy as np

from deepgmr.datasets.worlds.sensors import Floats, Scene, View

_CLEAR = np.array([0.4, 0.4, 0.0])  # metres between a camera and the walls
# Fields of view of common LiDARs, in degrees above the horizon.
_ELEVATIONS = np.array([[-24.9, 2.0], [-15.0, 15.0], [-30.7, 10.7], [-25.0, 15.0]])


def looking(direction: Floats, roll: float = 0.0) -> Floats:
    """World from camera (3, 3): z along `direction`, x to the right, y down, then turned about z by `roll`."""
    z = direction / np.linalg.norm(direction)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x) + 1e-9
    c, s = np.cos(roll), np.sin(roll)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.stack([x, np.cross(z, x), z], axis=1) @ turn


def camera(position: Floats, direction: Floats, far: float, rng: np.random.Generator, quality: float) -> View:
    wide = np.tan(np.deg2rad(rng.uniform(24, 36)))
    half = np.array([wide, wide * 0.75])
    return View(
        position=position,
        rotation=looking(direction, rng.normal(0, 0.15)),
        spinning=False,
        low=-half,
        high=half,
        near=0.15,
        far=far,
        noise=(0.001 * quality, 0.002 * quality),
        dropout=rng.uniform(0, 0.1),
    )


def tripod(position: Floats, rotation: Floats, *, low: float = -1.0, high: float = 1.2, noise: float = 0.004) -> View:
    """A scanner on a tripod, that sees all but what is steeply below it."""
    return View(
        position=position,
        rotation=rotation,
        spinning=True,
        low=np.array([low, -np.pi]),
        high=np.array([high, np.pi]),
        near=0.3,
        far=25.0,
        noise=(noise, 0.0),
        dropout=0.02,
        beams=64,
    )


def room_views(scene: Scene, beside: View | None, rng: np.random.Generator) -> list[View]:
    """One depth image, or a short walk of several fused into a fragment."""
    low, high = scene.walls if scene.walls is not None else (np.full(3, -3.0), np.full(3, 3.0))
    quality = rng.uniform(0.3, 1.0)
    for _ in range(8):
        if beside is None:
            position = rng.uniform(low + _CLEAR, high - _CLEAR)
            position[2] = rng.uniform(0.9, 1.8)
            towards = scene.centre[rng.integers(len(scene.centre))] - position  # something to look at
            heading = np.arctan2(towards[1], towards[0]) + rng.normal(0, 0.2)
            pitch = rng.uniform(-0.6, 0.1)
        else:
            step = rng.normal(0, rng.choice([0.3, 0.9, 1.6]), 3) * [1, 1, 0.2]
            position = np.clip(beside.position + step, low + 0.3, high - 0.3)
            forward = beside.rotation[:, 2]
            heading = np.arctan2(forward[1], forward[0]) + rng.normal(0, rng.choice([0.2, 0.5, 1.0]))
            pitch = np.clip(np.arcsin(np.clip(forward[2], -1, 1)) + rng.normal(0, 0.2), -0.9, 0.4)
        direction = _heading(heading, pitch)
        ahead, _, _ = scene.cast(position, np.stack([direction, _heading(heading + 0.3, pitch)]))
        if ahead.min() > 0.7:
            break
    views = [camera(position, direction, 6.0, rng, quality)]
    for _ in range(int(rng.choice([0, 1, 3]))):
        last = views[-1]
        turned = heading + rng.normal(0, 0.35)
        where = np.clip(last.position + rng.normal(0, 0.2, 3) * [1, 1, 0.3], low + 0.2, high - 0.2)
        views.append(camera(where, _heading(turned, pitch + rng.normal(0, 0.1)), 6.0, rng, 0.5 * quality))
    return views


def _heading(heading: float, pitch: float) -> Floats:
    return np.array([np.cos(heading) * np.cos(pitch), np.sin(heading) * np.cos(pitch), np.sin(pitch)])


def table_views(scene: Scene, beside: View | None, rng: np.random.Generator) -> list[View]:
    """A camera held over the table, looking at somewhere near its middle."""
    around = rng.uniform(-np.pi, np.pi)
    if beside is not None:
        around = np.arctan2(beside.position[1], beside.position[0]) + rng.normal(0, rng.choice([0.3, 0.8, 1.6]))
    distance, height = rng.uniform(0.6, 1.5), rng.uniform(0.25, 1.1)
    position = np.array([distance * np.cos(around), distance * np.sin(around), height])
    views = [camera(position, rng.normal(0, 0.08, 3) - position, 4.0, rng, rng.uniform(0.2, 1.0))]
    for _ in range(int(rng.choice([0, 0, 2]))):
        where = position + rng.normal(0, 0.12, 3)
        where[2] = max(where[2], 0.15)
        views.append(camera(where, rng.normal(0, 0.08, 3) - where, 4.0, rng, 0.3))
    return views


def street_views(scene: Scene, beside: View | None, rng: np.random.Generator) -> list[View]:
    """A LiDAR on a car or on a person; the second one some metres further and turned."""
    if beside is None:
        position = np.array([rng.uniform(-15, 15), rng.uniform(-2.5, 2.5), rng.uniform(1.2, 2.2)])
        heading = rng.normal(0, 0.1) + np.pi * rng.integers(2)
        low, high = np.deg2rad(rng.choice(_ELEVATIONS))
    else:
        step = rng.uniform(0.3, rng.choice([3.0, 10.0, 25.0])) * rng.choice([-1, 1])
        position = beside.position + np.array([step, rng.normal(0, 0.5), rng.normal(0, 0.03)])
        forward = beside.rotation[:, 0]
        heading = np.arctan2(forward[1], forward[0]) + rng.normal(0, rng.choice([0.05, 0.4, 1.5]))
        low, high = beside.low[0], beside.high[0]
    tilt = rng.normal(0, 0.01, 2)
    turn = np.array([[np.cos(heading), -np.sin(heading), 0], [np.sin(heading), np.cos(heading), 0], [0, 0, 1]])
    lean = np.array([[1, 0, tilt[0]], [0, 1, tilt[1]], [-tilt[0], -tilt[1], 1]])
    u, _, v = np.linalg.svd(turn @ lean)
    return [
        View(
            position=position,
            rotation=u @ v,
            spinning=True,
            low=np.array([low, -np.pi]),
            high=np.array([high, np.pi]),
            near=1.5,
            far=rng.uniform(50, 100) if beside is None else beside.far,
            noise=(rng.uniform(0.005, 0.03), 0.0),
            dropout=rng.uniform(0, 0.15),
        )
    ]
