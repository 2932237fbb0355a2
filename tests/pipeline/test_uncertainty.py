"""The stated covariance: as large as the errors are, moved as an adjoint moves it, and free where nothing holds."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from problems_pipeline import SETTINGS
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

import deepgmr
from deepgmr.errors import InvalidConfig
from deepgmr.evaluation.covariance import error_about
from deepgmr.pipeline.precision import FreeDirection, Precision
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.uncertainty import Uncertainty, observe

PLACE = np.array([10.0, -5.0, 3.0])


def corridor(count: int, rng: np.random.Generator) -> np.ndarray:
    """Floor, ceiling and two walls along x, without ends."""
    side, along, across = rng.integers(0, 4, count), rng.uniform(-10, 10, count), rng.uniform(-1, 1, count)
    y = np.select([side == 0, side == 1], [-1.0, 1.0], across)
    return np.stack([along, y, np.select([side == 2, side == 3], [-1.25, 1.25], 1.25 * across)], axis=1)


def plane(count: int, rng: np.random.Generator) -> np.ndarray:
    return np.hstack([rng.uniform(-3, 3, (count, 2)), np.zeros((count, 1))])


def cylinder(count: int, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle), rng.uniform(-2, 2, count)], axis=1)


def sphere(count: int, rng: np.random.Generator) -> np.ndarray:
    points = rng.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@cache
def near() -> Registrar:
    """One that looks at the frames as they are, and nowhere else."""
    look = {"refined": 1, "learned": False}
    return Registrar.load().replace(**{"search.looks": [look], "search.detailed": [look]})


def answered(make, noise: float = 0.01, count: int = 1000) -> deepgmr.Registration:
    rng = np.random.default_rng(3)
    source, target = (make(count, rng) + PLACE + noise * rng.normal(size=(count, 3)) for _ in range(2))
    return near().register(source, target, max_rotation_degrees=20)


# -- free directions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kinds", "axis"),
    [
        (corridor, ["shift"], [1, 0, 0]),
        (plane, ["shift", "shift", "turn"], [0, 0, 1]),
        (cylinder, ["shift", "turn"], [0, 0, 1]),
        (sphere, ["turn", "turn", "turn"], None),
    ],
)
def test_free_directions_are_those_of_the_surface_and_no_others(make, kinds, axis) -> None:
    answer = answered(make)
    found = answer.free_directions
    assert [free.kind for free in found] == kinds
    for free in found:
        # Moving a noiseless surface along it leaves its points on the surface.
        points = make(500, np.random.default_rng(0)) + PLACE
        velocity = free.twist[3:] + np.cross(free.twist[:3], points)
        height = np.einsum("ij,ij->i", velocity, normals_of(make, points - PLACE))
        assert np.sqrt(np.mean(height**2)) < 0.03 * np.sqrt(np.mean(np.sum(velocity**2, axis=1)))
    if axis is not None:
        last = found[-1]
        assert abs(last.direction @ axis) > 0.999
    if found[-1].point is not None and make is not plane:
        off = found[-1].point - PLACE
        assert np.linalg.norm(off - (0 if axis is None else off @ axis) * np.array(axis or [0, 0, 0])) < 0.02
    # Large along those directions, and along no other.
    variances = np.linalg.eigvalsh(answer.precision.covariance)
    assert (variances[-len(kinds) :] > 100).all() and (variances[: -len(kinds)] < 0.05**2).all()
    assert len(answer.to_dict()["free_directions"]) == len(kinds)


def normals_of(make, points: np.ndarray) -> np.ndarray:
    if make is sphere:
        return points
    if make is cylinder:
        return points * [1, 1, 0]
    if make is plane:
        return np.broadcast_to([0.0, 0.0, 1.0], points.shape)
    wall = np.abs(np.abs(points[:, 1]) - 1) < 1e-9
    return np.where(wall[:, None], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])


def test_what_is_held_is_not_free() -> None:
    def furnished(count: int, rng: np.random.Generator) -> np.ndarray:
        points = corridor(count, rng)
        steps = rng.choice([-4.0, 1.0, 5.0], count // 8), *rng.uniform(-1, 0.5, (2, count // 8))
        points[: count // 8] = np.stack(steps, axis=1)  # three bulkheads
        return points

    answer = answered(furnished, count=2000)
    assert answer.free_directions == ()
    assert np.linalg.eigvalsh(answer.precision.covariance)[-1] < 0.1**2


def test_free_directions_name_themselves_and_give_twists_about_the_origin() -> None:
    shift = FreeDirection("shift", np.array([0.0, 0.0, 1.0]))
    turn = FreeDirection("turn", np.array([0.0, 0.0, 1.0]), np.array([2.0, 0.0, 7.0]))
    assert str(shift) == "shift along (0.000, 0.000, 1.000)"
    assert str(turn) == "turn about (0.000, 0.000, 1.000) through (2, 0, 7)"
    np.testing.assert_array_equal(shift.twist, [0, 0, 0, 0, 0, 1])
    np.testing.assert_allclose(turn.twist[3:] + np.cross(turn.twist[:3], turn.point), 0, atol=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_spans_of_twists_are_told_apart_exactly(seed: int) -> None:
    """Any basis of the span gives the same shifts and turns: a screw motion group about a known axis, and a sphere's."""
    rng = np.random.default_rng(seed)
    lever, scale, centre, through = 0.3, 5.0, rng.normal(size=3), rng.normal(size=3)
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)

    def found(twists: np.ndarray) -> tuple[FreeDirection, ...]:
        unit = np.repeat([lever, 1.0], 3)
        basis = np.linalg.qr((twists * unit).T)[0] @ np.linalg.qr(rng.normal(size=(len(twists),) * 2))[0]
        uncertainty = Uncertainty((centre - through) / scale, np.eye(6), basis.T / unit, lever, 0.0)
        return Precision.of(uncertainty, scale=scale, origin=through).free

    arm = (through - centre) / scale
    cylinder = np.array([np.r_[axis, np.cross(arm, axis)], np.r_[0, 0, 0, axis]])
    shift, turn = found(cylinder)
    assert abs(shift.direction @ axis) == pytest.approx(1) and abs(turn.direction @ axis) == pytest.approx(1)
    np.testing.assert_allclose(np.cross(turn.point - through, axis), 0, atol=1e-9)
    for turn in found(np.array([np.r_[w, np.cross(arm, w)] for w in np.eye(3)])):
        np.testing.assert_allclose(turn.point, through, atol=1e-9)


# -- about another point -----------------------------------------------------------------------------------------


def test_the_covariance_moves_with_the_point_and_keeps_its_digits() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6)) * np.repeat([1e-3, 1e-2], 3)[:, None]
    far = np.array([4.5e5, 5.4e6, 300.0])
    precision = Precision(far, root @ root.T)
    step = np.array([3.0, -2.0, 1.0])
    # Of many small motions about one point, the covariance of what they do to the other.
    twists = rng.normal(size=(200_000, 6)) @ root.T
    at_other = np.hstack([twists[:, :3], twists[:, 3:] + np.cross(twists[:, :3], step)])
    np.testing.assert_allclose(
        precision.about(far + step), np.cov(at_other.T), atol=0.02 * np.diag(root @ root.T).max()
    )
    answer = answered(sphere)
    moved = deepgmr.Registration(**{**vars(answer), "precision": precision, "covariance": precision.about(np.zeros(3))})
    assert moved.covariance[3, 3] > 1e6  # about an origin thousands of kilometres off the least turn moves far
    np.testing.assert_allclose(moved.covariance_about(far), root @ root.T, rtol=1e-12)
    with pytest.raises(InvalidConfig, match="point must be three"):
        moved.covariance_about([1.0, 2.0])


def test_the_covariance_is_of_a_left_perturbation() -> None:
    """The error twist about a point carries the motion found to the true one, by scipy's matrix exponential."""
    rng = np.random.default_rng(1)
    found, centre, twist = np.eye(4), rng.normal(size=3), 0.1 * rng.normal(size=6)
    found[:3, :3], found[:3, 3] = Rotation.random(random_state=1).as_matrix(), rng.normal(size=3)
    generator, about = np.zeros((4, 4)), np.eye(4)
    x, y, z = twist[:3]
    generator[:3] = [[0, -z, y, twist[3]], [z, 0, -x, twist[4]], [-y, x, 0, twist[5]]]
    about[:3, 3] = centre
    truth = about @ expm(generator) @ np.linalg.inv(about) @ found
    np.testing.assert_allclose(error_about(centre, found, truth), twist, atol=1e-12)


# -- how large ---------------------------------------------------------------------------------------------------


def bumpy(count: int, rng: np.random.Generator) -> np.ndarray:
    """A closed surface that holds every direction."""
    points = sphere(count, rng)
    x, y, z = points.T
    return points * (1 + 0.25 * np.sin(3 * x + 1) * np.cos(2 * y) + 0.15 * np.sin(4 * z + x))[:, None] * [1.2, 1.0, 0.7]


def stated(source: np.ndarray, target: np.ndarray, *, same: bool = False, radius: float = 0.2) -> Uncertainty:
    source, target = (Level.of(cloud, SETTINGS.scan) for cloud in (source, target))
    return observe(source, target, np.eye(4), radius=radius, same=same, settings=SETTINGS.polish)


def test_errors_that_neighbours_share_widen_the_covariance() -> None:
    """As much noise, but the same for all points of a piece: a mean over N samples is no longer a mean over N."""
    rng = np.random.default_rng(2)
    source, target = bumpy(3000, rng), bumpy(3000, rng)
    outward = source / np.linalg.norm(source, axis=1, keepdims=True)
    pieces = np.unique(np.floor(3 * source), axis=0, return_inverse=True)[1].ravel()
    wave = rng.normal(size=pieces.max() + 1)[pieces]
    alone, shared = (
        stated(source + 0.01 * noise[:, None] * outward, target).covariance
        for noise in (rng.normal(size=3000), wave / wave.std())
    )
    ratio = np.trace(np.linalg.solve(alone, shared)) / 6
    assert ratio > 2


def test_the_same_points_are_as_sure_as_least_squares_has_it() -> None:
    rng = np.random.default_rng(3)
    points = bumpy(500, rng)
    noise = 0.002
    found = stated(points + noise * rng.normal(size=points.shape), points, same=True)
    arm = points - points.mean(axis=0)
    rows = np.concatenate([np.hstack([np.cross(arm, axis), np.tile(axis, (500, 1))]) for axis in np.eye(3)])
    np.testing.assert_allclose(found.covariance, noise**2 * np.linalg.inv(rows.T @ rows), rtol=0.2, atol=1e-7)
    exact = stated(points, points, same=True)
    floor = np.repeat([SETTINGS.polish.rounding / exact.lever, SETTINGS.polish.rounding], 3)
    np.testing.assert_allclose(np.sqrt(np.diag(exact.covariance)), floor)  # no surer than single precision


def test_errors_of_noise_on_the_same_points_follow_chi_squared() -> None:
    """The exact answer: least squares of points that are known to be the same, with normal noise on all coordinates."""
    rng = np.random.default_rng(5)
    points, noise, squares = bumpy(200, rng), 0.002, []
    target = Level.of(points, SETTINGS.scan)
    for _ in range(150):
        source = points + noise * rng.normal(size=points.shape)
        found = np.eye(4)
        turn, _ = Rotation.align_vectors(points - points.mean(axis=0), source - source.mean(axis=0))
        found[:3, :3] = turn.as_matrix()
        found[:3, 3] = points.mean(axis=0) - found[:3, :3] @ source.mean(axis=0)
        told = observe(Level.of(source, SETTINGS.scan), target, found, radius=0.2, same=True, settings=SETTINGS.polish)
        twist = error_about(told.centre, found, np.eye(4))
        squares.append(twist @ np.linalg.solve(told.covariance, twist))
    assert np.mean(squares) == pytest.approx(6.0, abs=1.1)  # four standard deviations of a mean of 150
    assert 0.88 < np.mean(np.array(squares) < 12.59) < 1.0
    assert 0.03 < np.mean(np.array(squares) < 2.20) < 0.20  # a tenth of them


def test_errors_of_other_samples_of_a_surface_are_as_large_as_they_are_said_to_be() -> None:
    squares = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        source, target = (bumpy(800, rng) + 0.01 * rng.normal(size=(800, 3)) for _ in range(2))
        answer = near().register(source, target, initial=np.eye(4))
        twist = error_about(answer.precision.centre, answer.target_from_source, np.eye(4))
        squares.append(twist @ np.linalg.solve(answer.precision.covariance, twist))
    assert 2.0 < np.mean(squares) < 9.0 and np.mean(np.array(squares) < 12.59) > 0.75


def test_fits_of_halves_that_differ_widen_the_covariance() -> None:
    """One half of the source is moved by half a spacing: no fit of all of it is as sure as its residuals are small."""
    rng = np.random.default_rng(6)
    source, target = bumpy(2000, rng), bumpy(2000, rng)
    torn = source + np.where(source[:, :1] > 0, [0.02, 0.0, 0.0], [-0.02, 0.0, 0.0])
    whole, apart = (np.trace(stated(cloud, target, radius=0.1).covariance[3:, 3:]) for cloud in (source, torn))
    assert apart > 2 * whole


def test_nothing_within_reach_is_nothing_known() -> None:
    rng = np.random.default_rng(4)
    found = stated(bumpy(300, rng), bumpy(300, rng) + 50.0)
    assert len(found.free) == 6 and found.observability == 0
    assert np.isfinite(found.covariance).all() and (np.linalg.eigvalsh(found.covariance) > 1e3).all()
