"""splats.py: Gaussian splats are the mixtures they are, and what is seen of them turns with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deepgmr.errors import InvalidCloud, InvalidMixture
from deepgmr.io import CloudFile, read_cloud, transformed, write_cloud
from deepgmr.io.splats import harmonics, harmonics_rotation
from deepgmr.pipeline.clouds import as_points


def splat(count: int = 40, degree: int = 3, seed: int = 0, dtype: type = np.float64) -> CloudFile:
    """A splat with every kind of property, in the order in which training writes them."""
    rng = np.random.default_rng(seed)
    properties = dict.fromkeys(("nx", "ny", "nz"), np.zeros(count))
    names = [f"f_dc_{i}" for i in range(3)] + [f"f_rest_{i}" for i in range(3 * ((degree + 1) ** 2 - 1))]
    properties |= {name: rng.normal(size=count) for name in (*names, "opacity")}
    properties |= {f"scale_{i}": rng.uniform(-4, -1, count) for i in range(3)}
    properties |= {f"rot_{i}": 3 * rng.normal(size=count) for i in range(4)}
    return CloudFile(rng.normal(size=(count, 3)), {name: values.astype(dtype) for name, values in properties.items()})


def motion(seed: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = np.random.default_rng(seed).normal(size=3)
    return matrix


def oracle_covariances(cloud: CloudFile) -> np.ndarray:
    """By scipy's quaternions (w last), one component at a time."""
    found = []
    for row in range(len(cloud)):
        w, x, y, z = (float(cloud.properties[f"rot_{i}"][row]) for i in range(4))
        axes = Rotation.from_quat([x, y, z, w]).as_matrix()
        deviations = np.exp([float(cloud.properties[f"scale_{i}"][row]) for i in range(3)])
        found.append(axes @ np.diag(deviations**2) @ axes.T)
    return np.array(found)


def colours(cloud: CloudFile, directions: np.ndarray, degree: int) -> np.ndarray:
    """(J, K, 3) what each component looks like from each direction: the sum of the harmonics."""
    rest = (degree + 1) ** 2 - 1
    columns = [[f"f_dc_{c}", *(f"f_rest_{c * rest + i}" for i in range(rest))] for c in range(3)]
    coefficients = np.array([[cloud.properties[name] for name in names] for names in columns])  # (3, n, J)
    return np.einsum("kn,cnj->jkc", oracle_harmonics(directions, degree), coefficients)


def oracle_harmonics(directions: np.ndarray, degree: int) -> np.ndarray:
    """Real spherical harmonics from associated Legendre functions, which carry the phase (-1)^m."""
    special = pytest.importorskip("scipy.special")
    x, y, z = directions.T
    azimuth, found = np.arctan2(y, x), []
    for band in range(degree + 1):
        for order in range(-band, band + 1):
            m = abs(order)
            scale = (2 * band + 1) / (4 * np.pi) * special.factorial(band - m) / special.factorial(band + m)
            legendre = special.lpmv(m, band, z)
            wave = np.sin(m * azimuth) if order < 0 else np.cos(m * azimuth)
            found.append(np.sqrt((2 if m else 1) * scale) * legendre * wave)
    return np.stack(found, axis=1)


def directions(count: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(count, 3))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_harmonics_have_the_values_and_the_signs_of_splats() -> None:
    there = directions(50, 1)
    np.testing.assert_allclose(harmonics(there, 3), oracle_harmonics(there, 3), atol=1e-12)
    x, y, z = there[:, :1].T, there[:, 1:2].T, there[:, 2:].T  # the constants that renderers of splats are written with
    np.testing.assert_allclose(harmonics(there, 3)[:, 1], -0.4886025119029199 * y[0], atol=1e-12)
    np.testing.assert_allclose(harmonics(there, 3)[:, 4], 1.0925484305920792 * (x * y)[0], atol=1e-12)
    np.testing.assert_allclose(
        harmonics(there, 3)[:, 9], -0.5900435899266435 * (y * (3 * x * x - y * y))[0], atol=1e-12
    )
    np.testing.assert_allclose(harmonics(there, 3)[:, 14], 1.445305721320277 * (z * (x * x - y * y))[0], atol=1e-12)


@given(seed=st.integers(0, 10_000), degree=st.integers(0, 3))
def test_turned_harmonics_are_a_representation(seed: int, degree: int) -> None:
    """What was seen along d is seen along R d; turns compose, and keep lengths."""
    first, second = Rotation.random(2, random_state=seed).as_matrix()
    there = directions(30, seed + 1)
    coefficients = np.random.default_rng(seed).normal(size=(degree + 1) ** 2)
    matrix = harmonics_rotation(first, degree)
    seen = harmonics(there @ first.T, degree) @ (matrix @ coefficients)
    np.testing.assert_allclose(seen, harmonics(there, degree) @ coefficients, atol=1e-11)
    np.testing.assert_allclose(
        harmonics_rotation(second, degree) @ matrix, harmonics_rotation(second @ first, degree), atol=1e-11
    )
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-11)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_moved_splat_looks_the_same_from_where_the_eye_moved_to(degree: int) -> None:
    before, there = splat(degree=degree), directions(20, 5)
    turn = motion(3)
    after = transformed(before, turn)
    np.testing.assert_allclose(after.points, before.points @ turn[:3, :3].T + turn[:3, 3], atol=1e-12)
    wanted = turn[:3, :3] @ oracle_covariances(before) @ turn[:3, :3].T
    np.testing.assert_allclose(oracle_covariances(after), wanted, atol=1e-12)
    np.testing.assert_allclose(
        colours(after, there @ turn[:3, :3].T, degree), colours(before, there, degree), atol=1e-11
    )
    for name in ("opacity", "scale_0", "scale_1", "scale_2", "f_dc_0", "f_dc_1", "f_dc_2"):
        np.testing.assert_array_equal(after.properties[name], before.properties[name])
    lengths = [sum(cloud.properties[f"rot_{i}"] ** 2 for i in range(4)) for cloud in (before, after)]
    np.testing.assert_allclose(*lengths)


def test_a_splat_is_the_mixture_it_is() -> None:
    cloud = splat(count=30)
    mixture = cloud.mixture().validated()
    opacities = 1 / (1 + np.exp(-cloud.properties["opacity"]))
    np.testing.assert_allclose(mixture.weights, opacities / opacities.sum(), atol=1e-14)
    np.testing.assert_allclose(mixture.means, cloud.points)
    np.testing.assert_allclose(mixture.covariances, oracle_covariances(cloud), atol=1e-14)
    from deepgmr import RigidTransform

    turn = motion(7)
    moved = mixture.transformed(RigidTransform.from_matrix(torch.from_numpy(turn)))
    np.testing.assert_allclose(transformed(cloud, turn).mixture().covariances, moved.covariances, atol=1e-12)


@pytest.mark.parametrize("text", [False, True])
def test_a_splat_goes_through_a_file(tmp_path: Path, text: bool) -> None:
    cloud = replace(splat(dtype=np.float32), text=text, coordinate_dtype=np.dtype(np.float32))
    moved = transformed(cloud, motion(1))
    assert write_cloud(tmp_path / "a.ply", moved) == ()
    back = read_cloud(tmp_path / "a.ply")
    assert list(back.properties) == list(cloud.properties)  # viewers expect them in this order
    assert {values.dtype for values in back.properties.values()} == {np.dtype(np.float32)}
    for name, values in moved.properties.items():
        np.testing.assert_array_equal(back.properties[name], values)
    alone = read_cloud(tmp_path / "a.ply", properties=False)
    assert set(alone.properties) == {"opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"}
    np.testing.assert_array_equal(as_points(alone), as_points(back))


def test_harmonics_of_a_degree_that_nobody_knows() -> None:
    cloud = splat()
    with pytest.raises(InvalidCloud, match=r"44 coefficients f_rest_.*9, 24 and 45"):
        transformed(
            replace(cloud, properties={k: v for k, v in cloud.properties.items() if k != "f_rest_7"}), motion(0)
        )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("scale_1", np.nan, "1 of 40 components of the splat are not finite"),
        ("scale_1", 1e4, "1 of 40 components of the splat are not finite"),
        ("opacity", np.nan, "1 of 40 components of the splat are not finite"),
    ],
)
def test_splats_that_are_no_mixtures(name: str, value: float, words: str) -> None:
    cloud = splat()
    cloud.properties[name][3] = value
    with pytest.raises(InvalidMixture, match=words):
        cloud.mixture()
    with pytest.raises(InvalidCloud, match=r"1 of .* points have NaN"):
        as_points(cloud)
    assert np.isfinite(as_points(cloud, drop_invalid=True)).all()


def test_a_quaternion_of_no_length_a_cloud_and_a_transparent_splat_are_no_mixtures() -> None:
    cloud = splat()
    for i in range(4):
        cloud.properties[f"rot_{i}"][0] = 0.0
    with pytest.raises(InvalidMixture, match="1 of 40"):
        cloud.mixture()
    assert np.isfinite(transformed(splat(), motion(2)).properties["rot_0"]).all()
    np.testing.assert_array_equal(transformed(cloud, motion(2)).properties["rot_1"][:1], 0.0)  # left as it was
    with pytest.raises(InvalidMixture, match=r"a splat has the properties opacity, .*the cloud's are: none"):
        CloudFile(cloud.points).mixture()
    clear = splat()
    clear.properties["opacity"][:] = -np.inf
    with pytest.raises(InvalidMixture, match="all 40 components of the splat are transparent"):
        clear.mixture()
    with pytest.raises(InvalidCloud, match="0 usable points"):
        as_points(clear)


def test_haze_is_no_surface() -> None:
    cloud = splat(count=200)
    cloud.properties["opacity"] = np.where(np.arange(200) < 50, 3.0, -6.0)
    cloud.points[50:] += 100.0
    assert as_points(cloud).max() < 50.0
