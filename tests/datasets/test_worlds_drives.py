"""Drives: poses along a street, and turns of a LiDAR against a march through the equations of what stands there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepgmr.datasets.worlds.drives import Drive, drive, street_pair, street_scene
from deepgmr.datasets.worlds.sensors import BALL, BOX, Scene
from deepgmr.geometry.transform import is_rigid


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def depth_inside(scene: Scene, points: np.ndarray) -> np.ndarray:
    """The least value (n,) of all primitives' equations at points (n, 3): below one inside, one on a surface."""
    local = np.einsum("pij,npj->npi", np.linalg.inv(scene.linear), points[:, None] - scene.centre)
    flat, high = np.hypot(local[..., 0], local[..., 1]), np.abs(local[..., 2])
    value = np.where(
        scene.kind == BOX,
        np.abs(local).max(axis=2),
        np.where(scene.kind == BALL, np.linalg.norm(local, axis=2), np.maximum(flat, high)),
    )
    return value.min(axis=1)


def exact(way: Drive) -> Drive:
    """The same drive with a sensor that does not err, past things that are hard."""
    return replace(
        way,
        sensor=replace(way.sensor, noise=(0.0, 0.0), dropout=0.0),
        scene=replace_rough(way.scene),
    )


def replace_rough(scene: Scene) -> Scene:
    return Scene(scene.kind, scene.linear, scene.centre, 0 * scene.rough, scene.walls, scene.ground)


@pytest.mark.parametrize("beams", [16, 32, 64])
def test_frames_see_the_first_surface_on_each_ray(beams: int) -> None:
    way = exact(drive(rng(beams), frames=5, spacing=10.0, beams=beams))
    pose, cloud = way.poses[2], way.frame(2).astype(float)
    assert len(cloud) < 1800 * beams and np.linalg.norm(cloud, axis=1).max() < way.sensor.far <= 100
    some = cloud[rng().permutation(len(cloud))[:150]]
    world = some @ pose[:3, :3].T + pose[:3, 3]
    ground = np.abs(world[:, 2]) < 0.01
    assert ground.any() and not ground.all()
    assert np.allclose(depth_inside(way.scene, world[~ground]), 1, atol=0.02)
    for share in np.linspace(0.02, 0.98, 60):  # nothing stands between the sensor and what it sees
        between = pose[:3, 3] + share * (world - pose[:3, 3])
        free = depth_inside(way.scene, between) > 1 - 1e-3
        assert free[np.linalg.norm(some, axis=1) * (1 - share) > 0.3].all() and (between[:, 2] > -1e-3).all()
    elevation = np.degrees(np.arcsin(cloud[:, 2] / np.linalg.norm(cloud, axis=1)))
    rings = np.histogram(elevation, bins=4000, range=(-35, 20))[0]
    assert 0.3 * beams < (np.convolve(rings > 0, [1, 1, 1], "same") > 0).sum() / 3 < 12 * beams


def test_a_drive_goes_down_its_lane() -> None:
    way = drive(rng(3), frames=50, spacing=2.0)
    assert len(way) == 50 and is_rigid(way.poses).all()
    steps = np.linalg.norm(np.diff(way.poses[:, :3, 3], axis=0), axis=1)
    assert steps.min() >= 2.0 - 1e-6 and steps.max() < 2.1
    ahead = np.diff(way.poses[:, :3, 3], axis=0) / steps[:, None]
    assert np.degrees(np.arccos((ahead * way.poses[:-1, :3, 0]).sum(axis=1))).max() < 5  # it looks where it goes
    assert np.ptp(way.poses[:, 2, 3]) == 0 and 1.5 < way.poses[0, 2, 3] < 2.2
    short = drive(rng(3), frames=3, beams=16)
    frames = list(short.frames())
    assert len(frames) == 3 and np.array_equal(frames[1], short.frame(1))
    assert not np.array_equal(frames[1][:100], frames[2][:100])
    turned = drive(rng(3), frames=50, spacing=2.0, heading=np.pi / 2)
    assert np.allclose(turned.poses[:, :3, 0], way.poses[:, :3, 1], atol=0.03)


def test_streets_differ_and_hold_what_streets_hold() -> None:
    scenes = [street_scene(rng(seed)) for seed in range(8)]
    assert all(scene.ground and len(scene.kind) > 40 for scene in scenes)
    across = [np.abs(scene.centre[:, 1]).max() for scene in scenes]
    assert max(across) > 60 > min(across)  # some are crossed by another street
    assert all((scene.rough > 0).any() for scene in scenes)


def test_views_are_apart_at_any_heading_and_share_what_both_see() -> None:
    headings = []
    for seed in range(6):
        plan = street_pair(rng(seed), near=15, far=25)
        assert plan.overlap is not None and 0.1 < plan.overlap <= 1
        assert plan.degrees == 5.0 and plan.metres == 2.0
        source, target = plan.clouds(2000)
        up = plan.target_from_source[:3, :3] @ np.linalg.svd(source - source.mean(axis=0))[2][2]
        headings.append(plan.target_from_source[0, 0])
        assert abs(up[2]) > 0.7  # the least spread of a street scan is upwards, in the frame of the target's sensor
        assert np.linalg.norm(target, axis=1).min() > 1
    assert np.ptp(headings) > 0.3


def test_large_clouds_are_fused_from_more_turns() -> None:
    source, target = street_pair(rng(1), beams=16).clouds(60_000)
    assert len(source) == len(target) == 60_000 > 1800 * 16
