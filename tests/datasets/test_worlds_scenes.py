"""Rays, sensors and scenes against brute force and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from deepgmr.datasets.worlds.layouts import rooms, streets, tabletops
from deepgmr.datasets.worlds.scenes import KINDS, scene_pairs
from deepgmr.datasets.worlds.sections import Draw
from deepgmr.datasets.worlds.sensors import BALL, BOX, CYLINDER, Scene, View, determined, seen_by
from deepgmr.errors import InvalidConfig


def one(kind: int, linear: np.ndarray | None = None, centre: tuple[float, ...] = (4.0, 0.0, 0.0), **more) -> Scene:
    return Scene(
        kind=np.array([kind], np.int8),
        linear=(np.eye(3) if linear is None else linear)[None].astype(np.float32),
        centre=np.array([centre], np.float32),
        rough=np.zeros(1, np.float32),
        **more,
    )


def directions(count: int, seed: int = 0) -> np.ndarray:
    rays = np.random.default_rng(seed).normal(size=(count, 3))
    return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "depth", "slope"),
    [(BOX, 3.0, (1.0, 0.0, 0.0)), (BALL, 3.0, (1.0, 0.0, 0.0)), (CYLINDER, 3.0, (1.0, 0.0, 0.0))],
)
def test_a_ray_straight_ahead(kind: int, depth: float, slope: tuple[float, ...]) -> None:
    distance, normal, part = one(kind).cast(np.zeros(3), np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 1.0]]))
    assert distance[0] == pytest.approx(depth) and part[0] == 0
    assert np.allclose(np.abs(normal[0]), slope, atol=1e-5)
    assert np.isinf(distance[1:]).all() and (part[1:] == -1).all()


@pytest.mark.parametrize("kind", [BOX, BALL, CYLINDER])
def test_hits_lie_on_the_surface_and_nothing_lies_before_them(kind: int) -> None:
    """Against the unit primitive's own equation, marched along each ray."""
    linear = np.array([[0.9, 0.2, 0.0], [-0.3, 1.4, 0.1], [0.1, 0.0, 0.6]])
    scene = one(kind, linear, (2.5, 0.7, -0.4))
    rays = directions(3000)
    distance, normal, part = scene.cast(np.zeros(3), rays)

    def outside(points: np.ndarray) -> np.ndarray:
        x, y, z = ((points - scene.centre[0]) @ np.linalg.inv(linear).T).T
        if kind == BOX:
            return np.max(np.abs([x, y, z]), axis=0) - 1
        if kind == BALL:
            return np.sqrt(x * x + y * y + z * z) - 1
        return np.maximum(np.hypot(x, y), np.abs(z)) - 1

    steps = np.linspace(0, 8, 1600)
    marched = np.stack([outside(step * rays) for step in steps])
    enters = (marched < 0).any(axis=0)
    hit = np.isfinite(distance)
    assert 50 < hit.sum() < 2950
    assert (hit == enters).mean() > 0.995  # a march of 5 mm steps misses the thinnest grazes
    assert np.abs(outside(distance[hit, None] * rays[hit])).max() < 1e-4
    first = steps[(marched < 0).argmax(axis=0)]
    both = hit & enters
    assert (np.abs(first[both] - distance[both]) < 0.011).mean() > 0.99
    # The normal is the direction in which the equation grows fastest.
    spot = distance[hit, None] * rays[hit]
    gradient = np.stack([outside(spot + 1e-4 * e) - outside(spot - 1e-4 * e) for e in np.eye(3)], axis=1)
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    assert (np.abs(np.einsum("ni,ni->n", gradient, normal[hit])) > 0.999).mean() > 0.98  # edges have no gradient
    assert (part[hit] == 0).all()


@pytest.mark.parametrize("layout", [rooms, streets, tabletops])
def test_leaving_out_far_primitives_changes_nothing(layout, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    scene = layout(1, np.random.default_rng(0), Draw(generator))[0]
    origin, rays = np.array([0.1, 0.2, 1.3]), directions(800)
    quick = scene.cast(origin, rays)
    parts, count = len(scene.kind), len(rays)
    everything = np.repeat(np.arange(parts), count), np.tile(np.arange(count), parts)
    monkeypatch.setattr(Scene, "candidates", lambda self, origin, directions: everything)
    slow = scene.cast(origin, rays)
    assert all(np.array_equal(a, b) for a, b in zip(quick, slow, strict=True))
    assert (quick[2] >= 0).any()


def test_the_nearer_of_two_hides_the_other_and_walls_hide_nothing_inside() -> None:
    scene = Scene(
        kind=np.array([BALL, BALL], np.int8),
        linear=np.stack([np.eye(3)] * 2).astype(np.float32),
        centre=np.array([[6, 0, 0], [3, 0, 0]], np.float32),
        rough=np.zeros(2, np.float32),
        walls=np.array([[-2.0, -5, -1], [9, 5, 3]]),
    )
    distance, _, part = scene.cast(np.zeros(3), np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 1.0]]))
    assert distance.tolist() == pytest.approx([2, 2, 3]) and part.tolist() == [1, -1, -1]
    assert not view().sees(scene, np.array([[5.0, 0, 0]]))[0]  # the near side of the far ball
    assert view().sees(scene, np.array([[2.0, 0, 0]]))[0]


def view(**changes: object) -> View:
    ahead = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # a camera that looks along x, its y down
    settings: dict[str, object] = {
        "position": np.zeros(3),
        "rotation": ahead,
        "spinning": False,
        "low": np.array([-0.6, -0.4]),
        "high": np.array([0.6, 0.4]),
        "near": 0.1,
        "far": 8.0,
        "noise": (0.0, 0.0),
        "dropout": 0.0,
    }
    return View(**{**settings, **changes})  # type: ignore[arg-type]


def wall(distance: float) -> Scene:
    return one(BOX, np.diag([0.1, 50, 50]), (distance + 0.1, 0, 0))


def test_a_camera_measures_a_wall() -> None:
    rng = np.random.default_rng(0)
    scan = view().scan(wall(3.0), 2000, rng)
    assert 1500 < len(scan.points) <= 2100
    assert np.allclose(scan.points[:, 2], 3.0, atol=1e-4)  # depth along the camera's z
    assert np.allclose(scan.world[:, 0], 3.0, atol=1e-4) and np.allclose(np.abs(scan.normals[:, 0]), 1)
    assert np.abs(scan.points[:, :2] / 3).max(axis=0) == pytest.approx([0.6, 0.4], abs=0.05)


def test_noise_grows_with_distance_and_points_thin_out() -> None:
    rng = np.random.default_rng(0)
    noisy = view(noise=(0.001, 0.004))
    spread = {}
    for distance in (1.0, 4.0):
        scan = noisy.scan(wall(distance), 4000, rng)
        along = np.linalg.norm(scan.points, axis=1) - np.linalg.norm(scan.world, axis=1)
        spread[distance] = along.std()
        assert along.std() == pytest.approx(0.001 + 0.004 * distance**2, rel=0.5)
        assert np.median(scan.area) > 0
    assert spread[4.0] > 5 * spread[1.0]
    lidar = view(spinning=True, rotation=np.eye(3), low=np.array([-0.4, -3.2]), high=np.array([0.1, 3.2]), far=60.0)
    ground = one(BALL, centre=(0, 0, -50), ground=True)
    lidar = View(**{**lidar.__dict__, "position": np.array([0, 0, 1.7])})
    radius = np.linalg.norm(lidar.scan(ground, 20_000, rng).points[:, :2], axis=1)
    ring, wider = ((radius > 5) & (radius < 10)).sum() / 75, ((radius > 20) & (radius < 40)).sum() / 1200
    assert ring > 4 * wider  # returns for each square metre of ground


def test_dropout_loses_the_stated_share() -> None:
    rng = np.random.default_rng(0)
    full, half = (len(view(dropout=d).scan(wall(2.0), 5000, rng).points) for d in (0.0, 0.5))
    assert half / full == pytest.approx(0.5, abs=0.05)


def test_sight_is_limited_by_field_and_range() -> None:
    scene = one(BALL, centre=(0.0, 0.0, -30.0))
    points = np.array([[2.0, 0, 0], [-2, 0, 0], [2, 1.5, 0], [2, 0, 1.0], [9, 0, 0], [0.05, 0, 0]])
    assert view().sees(scene, points).tolist() == [True, False, False, False, False, False]


def test_determined_needs_three_directions() -> None:
    floor_and_wall = np.array([[0.0, 0, 1], [1, 0, 0]] * 20)
    assert not determined(floor_and_wall, 0.01)
    assert determined(np.concatenate([floor_and_wall, np.array([[0.0, 1, 0]] * 10)]), 0.1)
    assert not determined(np.eye(3), 0.01)  # too few


# -- pairs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_overlap_as_they_say(kind: str) -> None:
    generator = torch.Generator().manual_seed(11)
    pair = scene_pairs(6, 1500, kind=kind, generator=generator)
    assert pair.source.shape == pair.target.shape == (6, 1500, 3) and pair.source.dtype == torch.float32
    assert torch.isfinite(pair.source).all() and torch.isfinite(pair.target).all()
    assert ((pair.overlap >= 0.2) & (pair.overlap <= 0.95)).all()
    assert (pair.source.mean(1).norm(dim=-1) < 1e-3 * pair.source.abs().amax()).all()  # a pose about its centroid
    moved = pair.target_from_source.apply(pair.source)
    counted = []
    for source, target in zip(moved.numpy(), pair.target.numpy(), strict=True):
        tree = cKDTree(target)
        radius = 4 * np.median(tree.query(target, k=2)[0][:, 1])
        counted.append((tree.query(source)[0] < radius).mean())
    # Sparse far ground has neighbours beyond any one radius, so a street's count is only a hint.
    assert np.abs(np.array(counted) - pair.overlap.numpy()).mean() < (0.3 if kind == "street" else 0.15)
    # The truth is what makes them meet: another motion of the same size does not.
    other = pair.target_from_source[torch.tensor([1, 2, 3, 4, 5, 0])].apply(pair.source)
    wrong = [cKDTree(t).query(s)[0].mean() for s, t in zip(other.numpy(), pair.target.numpy(), strict=True)]
    right = [cKDTree(t).query(s)[0].mean() for s, t in zip(moved.numpy(), pair.target.numpy(), strict=True)]
    assert np.mean(right) < 0.7 * np.mean(wrong)


@pytest.mark.parametrize(("kind", "size"), [("room", (1.0, 15.0)), ("street", (20.0, 220.0)), ("object", (0.01, 4.0))])
def test_scenes_are_in_metres(kind: str, size: tuple[float, float]) -> None:
    pair = scene_pairs(4, 500, kind=kind, generator=torch.Generator().manual_seed(3))
    extent = (pair.target.amax(1) - pair.target.amin(1)).amax(dim=-1)
    assert (extent > size[0]).all() and (extent < size[1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_generator_decides_everything(kind: str) -> None:
    first, second, other = (
        scene_pairs(2, 300, kind=kind, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.source, second.source) and torch.equal(first.target, second.target)
    assert torch.equal(first.target_from_source.matrix, second.target_from_source.matrix)
    assert not torch.equal(first.target, other.target)


def test_the_wanted_overlap_is_kept() -> None:
    pair = scene_pairs(4, 400, kind="room", generator=torch.Generator().manual_seed(0), overlap=(0.3, 0.5))
    assert ((pair.overlap >= 0.3) & (pair.overlap <= 0.5)).all()


def test_rooms_hold_their_furniture() -> None:
    for scene in rooms(4, np.random.default_rng(5), Draw(torch.Generator().manual_seed(5))):
        assert scene.walls is not None and len(scene.kind) > 30
        assert (np.abs(np.linalg.det(scene.linear)) > 0).all()
        low, high = scene.walls
        assert ((scene.centre > low - 1.0) & (scene.centre < high + 1.0)).all()


def test_a_scan_from_far_behind_something_is_hidden_by_it() -> None:
    """Two cameras on opposite sides of a thick slab share nothing."""
    slab = one(BOX, np.diag([0.5, 50, 50]), (0.0, 0, 0))
    front = view(position=np.array([-3.0, 0, 0]))
    scan = front.scan(slab, 500, np.random.default_rng(0))
    turned = np.diag([-1.0, 1, 1]) @ front.rotation @ np.diag([-1.0, 1, 1])
    behind = view(position=np.array([3.0, 0, 0]), rotation=turned)
    assert seen_by(slab, [front], scan.world).mean() > 0.98
    assert seen_by(slab, [behind], scan.world).mean() == 0


@pytest.mark.parametrize(
    "arguments", [{"kind": "castle"}, {"count": 0}, {"points": 0}, {"overlap": (0.9, 0.2)}, {"overlap": (0.2, 1.2)}]
)
def test_bad_requests_are_named(arguments: dict) -> None:
    settings = {"count": 1, "points": 10, "kind": "room", "generator": torch.Generator(), **arguments}
    with pytest.raises(InvalidConfig):
        scene_pairs(**settings)
