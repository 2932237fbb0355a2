"""clouds.py: every bad input has its own clear line, and large coordinates survive exactly."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from deepgmr.errors import DeepGMRError, InvalidCloud, InvalidInput
from deepgmr.io.meshes import SAMPLES
from deepgmr.pipeline.clouds import as_points, check_units, size_note
from deepgmr.pipeline.scan import Pair, Scan
from deepgmr.pipeline.settings import JudgeSettings

GOOD = np.random.default_rng(0).normal(size=(20, 3))
JUDGE = JudgeSettings()


def with_bad(count: int, value: float = np.nan) -> np.ndarray:
    points = np.tile(GOOD, (1, 1))
    points[:count, 1] = value
    return points


# -- what is taken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int32, np.int64, np.uint16, ">f4"])
def test_numpy_of_any_real_type(dtype: str) -> None:
    given_points = (np.arange(30).reshape(10, 3) % 7).astype(dtype)
    points = as_points(given_points)
    assert points.dtype == (np.float32 if dtype == np.float32 else np.float64)
    assert points.flags.c_contiguous
    np.testing.assert_array_equal(points, given_points.astype(np.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32])
def test_torch_of_any_real_type(dtype: torch.dtype) -> None:
    tensor = (torch.arange(30).reshape(10, 3) % 7).to(dtype)
    np.testing.assert_array_equal(as_points(tensor), tensor.double().numpy())


def test_torch_with_a_gradient() -> None:
    np.testing.assert_array_equal(as_points(torch.tensor(GOOD, requires_grad=True)), GOOD)


def test_nested_lists_and_tuples() -> None:
    np.testing.assert_array_equal(as_points([[0, 1, 2], (3.5, 4, 5), [6, 7, 8]]), [[0, 1, 2], [3.5, 4, 5], [6, 7, 8]])


def test_views_that_are_not_contiguous() -> None:
    wide = np.random.default_rng(1).normal(size=(40, 6))
    np.testing.assert_array_equal(as_points(wide[::2, 2:5]), wide[::2, 2:5])


def test_the_input_is_left_alone() -> None:
    points = with_bad(2)
    before = points.copy()
    as_points(points, drop_invalid=True)
    np.testing.assert_array_equal(points, before)


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8", "<i4", ">i2", "u1"])
def test_structured_arrays(kind: str) -> None:
    values = np.arange(36).reshape(12, 3) % 7
    cloud = np.zeros(12, dtype=[("intensity", "f4"), ("z", kind), ("x", kind), ("y", kind), ("label", "S4")])
    for axis, column in zip("xyz", values.T, strict=True):
        cloud[axis] = column
    for given_cloud in (cloud, cloud.reshape(3, 4), cloud.view(np.recarray), cloud[::-1][::-1]):
        np.testing.assert_array_equal(as_points(given_cloud), values)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([("x", "f4"), ("y", "f4"), ("height", "f4")], "cloud: .* fields x, y, z, got x, y, height"),
        ([("x", "f4"), ("y", "S3"), ("z", "f4")], r"cloud: the field y must hold one real number a point, got \|S3"),
        ([("x", "f4"), ("y", "f4"), ("z", "f4", (2,))], "cloud: the field z must hold one real number a point"),
    ],
)
def test_structured_arrays_that_hold_no_cloud(fields: list, words: str) -> None:
    with pytest.raises(InvalidCloud, match=words):
        as_points(np.zeros(5, dtype=fields))


def test_trimesh_cloud() -> None:
    np.testing.assert_array_equal(as_points(trimesh.PointCloud(GOOD)), GOOD)


def test_trimesh_mesh_is_sampled_on_its_surface_the_same_way_each_time() -> None:
    sphere = trimesh.creation.icosphere(subdivisions=4)
    points = as_points(sphere)
    assert points.shape == (SAMPLES, 3)
    assert np.abs(np.linalg.norm(points, axis=1) - 1).max() < 5e-3
    assert np.abs(points.mean(axis=0)).max() < 0.02  # by area, not by vertex
    np.testing.assert_array_equal(points, as_points(sphere))


def test_trimesh_scene() -> None:
    scene = trimesh.Scene([trimesh.creation.box(), trimesh.creation.icosphere().apply_translation([5, 0, 0])])
    assert as_points(scene)[:, 0].max() > 5


def test_open3d_clouds_and_meshes() -> None:
    o3d = pytest.importorskip("open3d")
    legacy = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(GOOD))
    np.testing.assert_array_equal(as_points(legacy), GOOD)
    tensor = o3d.t.geometry.PointCloud(o3d.core.Tensor(GOOD))
    np.testing.assert_array_equal(as_points(tensor), GOOD)
    mesh = o3d.geometry.TriangleMesh.create_sphere(1.0, resolution=40)
    points = as_points(mesh)
    assert points.shape == (SAMPLES, 3)
    assert np.abs(np.linalg.norm(points, axis=1) - 1).max() < 5e-3


# -- what is not -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cloud", "words"),
    [
        pytest.param(np.zeros((5, 2)), r"expected an array of shape \(N, 3\), got \(5, 2\)", id="two columns"),
        pytest.param(np.zeros((3, 50)), r"got \(3, 50\); give one row of x, y, z per point", id="transposed"),
        pytest.param(np.zeros((2, 5, 4, 3)), r"got \(2, 5, 4, 3\)", id="four dimensions"),
        pytest.param(np.zeros((2, 5, 4)), r"got \(2, 5, 4\)", id="a batch of four columns"),
        pytest.param(np.zeros((0, 0)), r"got \(0, 0\)", id="nothing by nothing"),
        pytest.param(np.zeros((4, 3, 0)), r"got \(4, 3, 0\)", id="points of no columns"),
        pytest.param((1e6 * GOOD).astype(np.int64) + 2**60, "integers up to 1.15e.18 lose digits", id="large integers"),
        pytest.param(GOOD.astype(np.longdouble) * np.longdouble(1e4000), "20 of 20 points", id="beyond float64"),
        pytest.param(np.zeros(3), r"got \(3,\)", id="one dimension"),
        pytest.param(np.float64(3.0), r"got \(\)", id="a number"),
        pytest.param([], r"got \(0,\)", id="empty list"),
        pytest.param("bunny.ply", "coordinates must be real numbers, got dtype <U9", id="a string"),
        pytest.param([["a", "b", "c"]] * 4, "real numbers, got dtype <U1", id="strings for numbers"),
        pytest.param(None, "real numbers, got dtype object", id="None"),
        pytest.param(object(), "real numbers, got dtype object", id="an object"),
        pytest.param(np.zeros((5, 3), dtype=bool), "real numbers, got dtype bool", id="booleans"),
        pytest.param(np.zeros((5, 3), dtype=complex), "real numbers, got dtype complex128", id="complex"),
        pytest.param([[10**30, 0, 0], [1, 2, 3], [4, 5, 6]], "real numbers, got dtype object", id="integer overflow"),
        pytest.param([[0, 1, 2], [3, 4], [5, 6, 7]], "cannot read points from list", id="ragged rows"),
        pytest.param(np.zeros((0, 3)), "0 usable points; registration needs at least 3", id="no points"),
        pytest.param(GOOD[:1], "1 usable points", id="one point"),
        pytest.param(GOOD[:2], "2 usable points; registration needs at least 3", id="two points"),
        pytest.param(with_bad(1), "1 of 20 points have NaN or infinite.*drop_invalid=True", id="a NaN"),
        pytest.param(with_bad(7, np.inf), "7 of 20 points have NaN or infinite.*--drop-invalid", id="infinities"),
        pytest.param(with_bad(7, -np.inf), "7 of 20 points", id="negative infinities"),
        pytest.param(np.full((5, 3), 2.5), "all 5 points are equal; there is no shape to register", id="all equal"),
        pytest.param(GOOD * 1e200, r"a coordinate of .*e\+200 overflows; check the units", id="too large"),
        pytest.param(GOOD * 1e-200, "differ by less than 1e-150; check the units", id="too small"),
    ],
)
def test_bad_clouds_are_named(cloud: object, words: str) -> None:
    with pytest.raises(InvalidCloud, match=f"^source: .*{words}") as caught:
        as_points(cloud, name="source")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError | InvalidInput | DeepGMRError)


def test_invalid_points_are_dropped_only_on_request() -> None:
    np.testing.assert_array_equal(as_points(with_bad(7), drop_invalid=True), GOOD[7:])
    with pytest.raises(InvalidCloud, match="cloud: 2 usable points"):
        as_points(with_bad(18, np.inf), drop_invalid=True)


def test_the_minimum_is_the_callers() -> None:
    assert as_points(GOOD[:2], minimum=2).shape == (2, 3)
    with pytest.raises(InvalidCloud, match="20 usable points; registration needs at least 21"):
        as_points(GOOD, minimum=21)


# -- rounding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "step"),
    [
        pytest.param((GOOD + 5e6).astype(np.float32), 0.5, id="survey coordinates"),
        pytest.param((GOOD * 0.01 + 1000).astype(np.float32), 2**-14, id="a small thing far from the origin"),
        pytest.param(
            (np.random.default_rng(0).uniform(0, 2e3, (4000, 3)) * [1, 1, 0] + 5e6).astype(np.float32), None, id="wide"
        ),
        pytest.param(
            (np.random.default_rng(0).uniform(0, 1e3, (400_000, 3)) * [1, 0.1, 0] + 5e6).astype(np.float32),
            0.5,
            id="wide and dense",
        ),
        pytest.param(GOOD + 5e6, None, id="float64"),
        pytest.param(GOOD.astype(np.float32), None, id="about the origin"),
        pytest.param((1e5 * GOOD).round() + 5_000_000, None, id="whole numbers"),
        pytest.param(1e100 * GOOD, None, id="beyond float32"),
    ],
)
def test_coordinates_that_float32_rounds_coarsely_are_told(points: np.ndarray, step: float | None) -> None:
    assert Scan.of(as_points(points)).coarse == step


# -- units -----------------------------------------------------------------------------------------------------


def size_ratio(source: np.ndarray, target: np.ndarray) -> float:
    return Pair(Scan.of(source), Scan.of(target)).size_ratio


def test_size_ratio_is_robust_and_does_not_care_where() -> None:
    assert size_ratio(GOOD * 3 + 1e3, GOOD - 5) == pytest.approx(3, rel=1e-9)
    stray = np.concatenate([GOOD, [[1e6, 0, 0]]])
    assert size_ratio(stray, GOOD) == pytest.approx(1, rel=0.5)
    mostly_one_place = np.concatenate([np.zeros((60, 3)), GOOD])
    assert 0.1 < size_ratio(mostly_one_place, GOOD) < 10  # not zero, not a division by zero


@pytest.mark.parametrize("factor", [0.02, 1.0, 50.0])
def test_units_that_may_agree(factor: float) -> None:
    check_units(size_ratio(GOOD * factor, GOOD), JUDGE)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ((1000.0, 1.0), "the source is 1000 times larger than the target.*one unit .millimetres against metres"),
        ((1.0, 1000.0), "the target is 1000 times larger than the source.*one unit .millimetres against metres"),
        ((1e6, 1.0), "the source is 1000000 times larger.*one unit$"),
    ],
)
def test_units_that_cannot(factors: tuple[float, float], words: str) -> None:
    with pytest.raises(InvalidCloud, match=words):
        check_units(size_ratio(GOOD * factors[0], GOOD * factors[1] + 3), JUDGE)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (10.0, "millimetres against centimetres or inches against feet"),
        (25.4, "millimetres against inches"),
        (39.37, "inches against metres"),
        (52.0, "one unit$"),
        (100.0, "centimetres against metres"),
    ],
)
def test_the_likely_units_are_named(factor: float, words: str) -> None:
    for ratio, larger in ((factor, "source"), (1 / factor, "target")):
        note = size_note(ratio, JUDGE, doubtful=False)
        assert note is not None and note.startswith(f"the {larger} is about {factor:.3g} times")
        assert re.search(words, note)


def test_sizes_of_two_views_are_not_worth_a_word() -> None:
    assert size_note(2.5, JUDGE, doubtful=True) is None and size_note(0.2, JUDGE, doubtful=False) is None
    assert size_note(0.2, JUDGE, doubtful=True) is not None


# -- far outside ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), far=st.integers(1, 40), times=st.floats(40, 1e9))
def test_points_far_outside_are_told_from_the_rest(seed: int, far: int, times: float) -> None:
    rng = np.random.default_rng(seed)
    cloud = rng.uniform(-1, 1, size=(500, 3))
    outside = times * rng.normal(size=(far, 3))
    outside = outside[np.linalg.norm(outside, axis=1) > times / 2]
    spoilt, clean = Scan.of(np.concatenate([cloud, outside])), Scan.of(cloud)
    assert spoilt.far == len(outside)
    assert spoilt.level(None, 1.0).points.tobytes() == clean.level(None, 1.0).points.tobytes()


def test_a_thin_end_of_a_cloud_is_not_far() -> None:
    """A LiDAR scan: most points within ten metres of the sensor, the last at two hundred."""
    rng = np.random.default_rng(0)
    reach = 2.0 * 100 ** rng.uniform(size=20_000)  # equally many between 2 and 20 m as between 20 and 200 m
    direction = rng.normal(size=(20_000, 3))
    cloud = reach[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    assert Scan.of(cloud).far == 0
    mostly_one_place = np.concatenate([np.zeros((5000, 3)), GOOD])
    assert Scan.of(mostly_one_place).far == 0


def test_names_of_errors_make_one_tree() -> None:
    for child, parent in itertools.pairwise([InvalidCloud, InvalidInput, DeepGMRError, Exception]):
        assert issubclass(child, parent)
    assert issubclass(InvalidInput, ValueError)
