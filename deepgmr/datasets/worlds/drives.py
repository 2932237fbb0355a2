"""Streets of 200 metres seen by a spinning LiDAR along a drive: frames with their poses, and pairs of views."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from deepgmr.datasets.worlds.building import TRAFFIC, Builder, draw_pieces, place
from deepgmr.datasets.worlds.layouts import streets
from deepgmr.datasets.worlds.planned import Planned, any_pose, inverse
from deepgmr.datasets.worlds.sections import Draw, Floats, about
from deepgmr.datasets.worlds.sensors import BALL, BOX, CYLINDER, Scene, View, determined
from deepgmr.errors import InvalidConfig

ELEVATIONS = {16: (-15.0, 15.0), 32: (-30.7, 10.7), 64: (-24.9, 2.0)}  # degrees, of common sensors by their beams
_STEPS = 1800  # of azimuth in a turn
_REACH = 70.0  # metres: the drive goes along x from minus to plus that
_STREET = 12.0  # metres to either side of a crossing street that hold no house
_FUSED = 0.3  # metres between the frames that make a cloud larger than one turn of the sensor
_HELD = 0.01  # see `determined`


@dataclass(frozen=True, eq=False)
class Drive:
    """A street, and the sensor on its way along it."""

    scene: Scene
    poses: Floats  # (F, 4, 4) world from sensor
    sensor: View  # as it stands in the first pose
    seed: int

    def __len__(self) -> int:
        return len(self.poses)

    def view(self, pose: Floats) -> View:
        """The sensor in a pose (4, 4)."""
        return View(**{**vars(self.sensor), "position": pose[:3, 3], "rotation": pose[:3, :3]})

    def frame(self, index: int) -> Floats:
        """One turn of the sensor: points (N, 3) float32 in its own frame, always the same."""
        rng = np.random.default_rng([self.seed, index])
        return self.view(self.poses[index]).scan(self.scene, _rays(self.sensor), rng).points.astype(np.float32)

    def frames(self) -> Iterator[Floats]:
        """All of them, in order."""
        return (self.frame(index) for index in range(len(self)))


def drive(
    rng: np.random.Generator, *, frames: int = 100, spacing: float = 1.0, beams: int = 64, heading: float | None = None
) -> Drive:
    """A drive along a street, `spacing` metres a frame; it swerves in its lane, rolls and pitches a little.

    The sensor looks along the drive, or turned from it by `heading` [rad]. Raises `InvalidConfig` for a drive longer
    than the street or a number of beams other than 16, 32 and 64.
    """
    if beams not in ELEVATIONS:
        raise InvalidConfig(f"no such LiDAR: {beams:g} beams; there are {', '.join(map(str, ELEVATIONS))}")
    if frames < 1 or spacing <= 0 or (frames - 1) * spacing > 2 * _REACH:
        raise InvalidConfig(f"{frames} frames {spacing:g} m apart do not fit into a street of {2 * _REACH:g} m")
    scene = street_scene(rng)
    length = (frames - 1) * spacing
    x = rng.uniform(-_REACH, _REACH - length) + spacing * np.arange(frames)
    lane, wave, phase = rng.uniform([-2.5, 25, 0], [2.5, 60, 2 * np.pi])
    swerve = rng.uniform(0.1, 0.6)
    y = lane + swerve * np.sin(2 * np.pi * x / wave + phase)
    yaw = np.arctan(swerve * 2 * np.pi / wave * np.cos(2 * np.pi * x / wave + phase)) + (heading or 0.0)
    roll, pitch = (0.01 * np.sin(2 * np.pi * x / rng.uniform(8, 20) + rng.uniform(0, 6)) for _ in range(2))
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = about(2, yaw) @ about(1, pitch) @ about(0, roll)
    poses[:, :3, 3] = np.column_stack([x, y, np.full(frames, rng.uniform(1.6, 2.1))])
    sensor = lidar(rng, poses[0], beams)
    return Drive(scene, poses, sensor, int(rng.integers(2**62)))


def lidar(rng: np.random.Generator, pose: np.ndarray, beams: int) -> View:
    """A spinning one at a pose (4, 4), with a range, noise and dropout of its own."""
    low, high = np.deg2rad(ELEVATIONS[beams])
    return View(
        position=pose[:3, 3],
        rotation=pose[:3, :3],
        spinning=True,
        low=np.array([low, -np.pi]),
        high=np.array([high, np.pi]),
        near=1.5,
        far=rng.uniform(80, 100),
        noise=(rng.uniform(0.01, 0.03), 0.0),
        dropout=rng.uniform(0, 0.15),
        beams=beams,
    )


def street_scene(rng: np.random.Generator) -> Scene:
    """A street along x with cars, trees, poles and houses; half of the time another one crosses it, and half of the
    time most houses make way for trees and bushes."""
    draw = Draw(torch.Generator().manual_seed(int(rng.integers(2**62))))
    b, crossing = Builder(), rng.uniform(-30, 30) if rng.random() < 0.5 else None
    _street(b, streets(1, rng, draw)[0], np.eye(3), np.zeros(3), crossing)
    if crossing is not None:
        quarter = about(2, np.array([np.pi / 2]))[0]
        _street(b, streets(1, rng, draw)[0], quarter, np.array([crossing, 0, 0]), 0.0)
    if rng.random() < 0.5:
        b = _open(b.scene(), rng)
    return b.scene(ground=True)


def _street(b: Builder, street: Scene, turn: Floats, shift: Floats, crossing: float | None) -> None:
    """A street turned and moved; where another one crosses it at that place along it, it is left out."""
    reach = np.abs(street.linear[:, 0]).sum(axis=1)
    kept = np.ones(len(reach), bool) if crossing is None else np.abs(street.centre[:, 0] - crossing) > _STREET + reach
    b.add(street.kind[kept], turn @ street.linear[kept], street.centre[kept] @ turn.T + shift, street.rough[kept])


def _open(scene: Scene, rng: np.random.Generator) -> Builder:
    """A street with only some of its houses, and greenery in their place."""
    b = Builder()
    house = (scene.kind == BOX) & (np.abs(scene.linear).sum(axis=2).max(axis=1) > 3) & (scene.rough == 0)
    kept = ~house | (rng.random(len(house)) < rng.uniform(0.1, 0.6))
    b.add(scene.kind[kept], scene.linear[kept], scene.centre[kept], scene.rough[kept])
    trees = int(rng.integers(20, 80))
    across = rng.choice([-1, 1], trees) * rng.uniform(7, 40, trees)
    foot = np.column_stack([rng.uniform(-95, 95, trees), across, np.zeros(trees)])
    trunk = np.column_stack([*[rng.uniform(0.08, 0.4, trees)] * 2, rng.uniform(0.8, 3, trees)])
    high = np.array([0, 0, 1]) * trunk
    b.boxes(foot + high, trunk, kind=CYLINDER)
    b.boxes(foot + 2 * high, rng.uniform(0.6, 3, (trees, 3)), kind=BALL, rough=0.25)
    bushes = foot + rng.normal(0, 3, foot.shape) * np.array([1.0, 1, 0])
    b.boxes(bushes[np.abs(bushes[:, 1]) > 6], rng.uniform(0.4, 1.5, 3), kind=BALL, rough=0.15)
    return b


def _busy(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with what happens to stand or drive on the road just now."""
    b = Builder()
    b.add(scene.kind, scene.linear, scene.centre, scene.rough)
    draw = Draw(torch.Generator().manual_seed(int(rng.integers(2**62))))
    for piece in draw_pieces(int(rng.integers(0, 10)), TRAFFIC, rng, draw):
        place(b, piece, np.array([rng.uniform(-80, 80), rng.uniform(-6, 6), 0]), rng.normal(0, 0.2))
    return b.scene(ground=True)


def street_pair(rng: np.random.Generator, *, beams: float = 64, near: float = 10, far: float = 40) -> Planned:
    """Two views of a street, `near` to `far` metres apart at any heading; the target in the frame of its sensor.

    Cars and people on the road are others in each view.

    Up to as many points as one turn of the sensor brings (some 75,000 of 64 beams) clouds are drawn from one turn;
    larger ones are fused from more frames around it. Right within 5 degrees and 2 m. Raises `InvalidConfig` for
    distances that no street has.
    """
    if not 0 <= near <= far <= _REACH:
        raise InvalidConfig(f"views {near:g} to {far:g} m apart do not fit; give distances up to {_REACH:g} m")
    frames = round(2 * _REACH / _FUSED)
    for _ in range(100):
        way = drive(rng, frames=frames, spacing=_FUSED, beams=int(beams))
        first = int(rng.integers(frames))
        second = first + round(rng.choice([-1, 1]) * rng.uniform(near, far) / _FUSED)
        if not 0 <= second < frames:
            continue
        turned = np.eye(4)
        turned[:3, :3] = about(2, rng.uniform(-np.pi, np.pi, 1))[0]
        here, there = way.poses[first] @ turned, way.poses[second]
        then, now = _busy(way.scene, rng), _busy(way.scene, rng)
        scan = way.view(here).scan(then, 4000, rng)
        shared = way.view(there).sees(now, scan.world)
        if shared.mean() > 0.1 and determined(scan.normals[shared], _HELD):
            break
    else:
        raise InvalidConfig(f"found no two views {near:g} to {far:g} m apart that share enough")
    pose, seed = any_pose(rng, 100.0), int(rng.integers(2**62))

    def clouds(points: int) -> tuple[Floats, Floats]:
        again = np.random.default_rng(seed)
        source = _turns(way, then, here, points, again) @ pose[:3, :3].T + pose[:3, 3]
        return source.astype(np.float32), _turns(way, now, there, points, again).astype(np.float32)

    truth = inverse(there) @ here @ inverse(pose)
    origins = pose[:3, 3], np.zeros(3)
    return Planned(truth, clouds, degrees=5.0, metres=2.0, overlap=float(shared.mean()), origins=origins)


def _turns(way: Drive, scene: Scene, pose: Floats, points: int, rng: np.random.Generator) -> Floats:
    """Points (points, 3) in the frame of a pose: a draw from one turn there, or from as many as it takes around it."""
    found, have, turn = [], 0, 0
    while have < points:
        at = pose.copy()
        at[0, 3] += _FUSED * ((turn + 1) // 2) * (-1) ** turn  # there, before it, after it, ...
        cloud = way.view(at).scan(scene, _rays(way.sensor), rng).points + (at[:3, 3] - pose[:3, 3]) @ pose[:3, :3]
        found.append(cloud.astype(np.float32))
        have, turn = have + len(cloud), turn + 1
    cloud = np.concatenate(found)
    return cloud[rng.permutation(len(cloud))[:points]]


def _rays(sensor: View) -> int:
    return _STEPS * (sensor.beams or 64)
