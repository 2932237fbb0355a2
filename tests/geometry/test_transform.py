"""transform.py against scipy's Rotation and the matrix exponential."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from deepgmr.errors import InvalidTransform
from deepgmr.geometry.transform import (
    RigidTransform,
    first_apart,
    hat,
    random_rotations,
    rotation_angle,
    rotation_from_quaternion,
    rotation_grid,
    so3_exp,
    so3_log,
)

EPS = {torch.float32: 1.2e-7, torch.float64: 2.3e-16}
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def vectors(angle: float, count: int = 64, *, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    axes = np.random.default_rng(5).normal(size=(count, 3))
    return torch.tensor(axes / np.linalg.norm(axes, axis=1, keepdims=True) * angle, dtype=dtype)


def motion(generator: torch.Generator, batch: tuple[int, ...] = (), **keywords: object) -> RigidTransform:
    settings = {"max_translation": 3.0, "dtype": torch.float64} | keywords
    return RigidTransform.random(batch, generator=generator, **settings)


# -- exponential and logarithm ---------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 1e-3, 9.9e-3, 1.01e-2, 0.5, 2.0, 3.1, math.pi, 5.0, 20.0])
def test_so3_exp_is_scipys(angle: float) -> None:
    rotvec = vectors(angle)
    expected = Rotation.from_rotvec(rotvec.numpy()).as_matrix()
    np.testing.assert_allclose(so3_exp(rotvec).numpy(), expected, rtol=0, atol=2e-15 * max(1, angle))


@given(st.integers(0, 2**20), st.floats(1e-9, 3.14))
def test_so3_log_is_scipys(seed: int, angle: float) -> None:
    rotvec = np.random.default_rng(seed).normal(size=3)
    rotation = Rotation.from_rotvec(rotvec / np.linalg.norm(rotvec) * angle)
    ours = so3_log(torch.from_numpy(rotation.as_matrix())).numpy()
    np.testing.assert_allclose(ours, rotation.as_rotvec(), rtol=0, atol=1e-14)


@BOTH
@pytest.mark.parametrize("angle", [0.0, 1e-30, 1e-8, 3e-4, 4e-4, 1e-2, 0.1, 1.0, 3.0])
def test_log_undoes_exp(angle: float, dtype: torch.dtype) -> None:
    rotvec = vectors(angle, dtype=dtype)
    torch.testing.assert_close(so3_log(so3_exp(rotvec)), rotvec, rtol=0, atol=8 * EPS[dtype] * max(angle, 1e-8))


@BOTH
@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-7, 1e-4, 1e-2])
def test_exp_undoes_log_near_half_a_turn(gap: float, dtype: torch.dtype) -> None:
    # The axis is determined up to sign there, so the rotation is compared, not the vector.
    rotation = so3_exp(vectors(math.pi - gap)).to(dtype)
    logarithm = so3_log(rotation)
    torch.testing.assert_close(so3_exp(logarithm), rotation, rtol=0, atol=16 * EPS[dtype])
    assert (logarithm.norm(dim=-1) <= math.pi * (1 + 2 * EPS[dtype])).all()
    torch.testing.assert_close(logarithm.norm(dim=-1), torch.full((64,), math.pi - gap, dtype=dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 9.9e-3, 1.01e-2, 0.7, 2.9, math.pi])
def test_se3_exp_is_the_matrix_exponential(angle: float) -> None:
    twist = torch.cat([vectors(angle, 8), vectors(2.0, 8).flip(0)], dim=-1)
    expected = np.stack([oracles.se3_exp(row) for row in twist.numpy()])
    np.testing.assert_allclose(RigidTransform.exp(twist).matrix.numpy(), expected, rtol=0, atol=1e-14)


@BOTH
@pytest.mark.parametrize("angle", [0.0, 1e-6, 5e-3, 0.2, 1.5, 3.0])
def test_se3_log_undoes_exp(angle: float, dtype: torch.dtype) -> None:
    twist = torch.cat([vectors(angle), vectors(2.0).flip(0)], dim=-1).to(dtype)
    torch.testing.assert_close(RigidTransform.exp(twist).log(), twist, rtol=0, atol=40 * EPS[dtype])


@BOTH
def test_se3_exp_undoes_log_at_half_a_turn(dtype: torch.dtype) -> None:
    there = RigidTransform(so3_exp(vectors(math.pi)).to(dtype), vectors(2.0, dtype=dtype))
    torch.testing.assert_close(RigidTransform.exp(there.log()).matrix, there.matrix, rtol=0, atol=64 * EPS[dtype])


def test_gradients_of_exp() -> None:
    for angle in (0.0, 1e-5, 9.99e-3, 1.0):
        rotvec = vectors(angle, 2).requires_grad_()
        assert torch.autograd.gradcheck(so3_exp, rotvec, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(so3_exp, rotvec)


def test_derivative_of_exp_at_zero_is_hat() -> None:
    direction = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    _, tangent = torch.func.jvp(so3_exp, (torch.zeros(3, dtype=torch.float64),), (direction,))
    torch.testing.assert_close(tangent, hat(direction), rtol=0, atol=0)


@BOTH
def test_gradients_of_log_at_the_identity(dtype: torch.dtype) -> None:
    # log o exp is the identity map, so its Jacobian is the identity matrix, at zero as anywhere.
    for angle in (0.0, 1e-10, 1e-5, 1e-3, 1.0):
        jacobian = torch.func.jacrev(lambda v: so3_log(so3_exp(v)))(vectors(angle, 1, dtype=dtype)[0])
        torch.testing.assert_close(jacobian, torch.eye(3, dtype=dtype), rtol=0, atol=100 * EPS[dtype])


@BOTH
def test_gradients_stay_finite_at_the_corners(dtype: torch.dtype) -> None:
    corners = [torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.diag(torch.tensor([-1.0, -1.0, 1.0]))]
    for function in (so3_log, rotation_angle):
        rotation = torch.stack(corners).to(dtype).requires_grad_()
        function(rotation).sum().backward()
        assert torch.isfinite(rotation.grad).all(), function.__name__


def test_gradcheck_of_log() -> None:
    twist = torch.cat([vectors(1.0, 2), vectors(2.0, 2)], dim=-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: RigidTransform.exp(t).log(), twist, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda t: RigidTransform.exp(t).log(), twist)


@BOTH
def test_rotation_angle(dtype: torch.dtype) -> None:
    for angle in (0.0, 1e-6, 1e-3, 1.0, 3.0, math.pi - 1e-6, math.pi):
        measured = rotation_angle(so3_exp(vectors(angle)).to(dtype))
        torch.testing.assert_close(measured, torch.full((64,), angle, dtype=dtype), rtol=0, atol=4 * EPS[dtype])


def test_hat_is_the_cross_product(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 5, 3, generator=generator)
    torch.testing.assert_close((hat(a) @ b.unsqueeze(-1)).squeeze(-1), torch.linalg.cross(a, b))


def test_rotation_from_quaternion_is_scipys() -> None:
    quaternion = np.random.default_rng(0).normal(size=(50, 4)) * 7  # any length
    expected = Rotation.from_quat(quaternion[:, [1, 2, 3, 0]]).as_matrix()
    np.testing.assert_allclose(
        rotation_from_quaternion(torch.from_numpy(quaternion)).numpy(), expected, rtol=0, atol=1e-15
    )


# -- the group -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (1,), (3, 4), (0,)])
def test_group_laws(generator: torch.Generator, batch: tuple[int, ...]) -> None:
    a, b, c = (motion(generator, batch) for _ in range(3))
    same = {"rtol": 0, "atol": 1e-14}
    torch.testing.assert_close(((a @ b) @ c).matrix, (a @ (b @ c)).matrix, **same)
    torch.testing.assert_close((a @ b).matrix, a.matrix @ b.matrix, **same)
    torch.testing.assert_close((a @ a.inverse()).matrix, torch.eye(4).double().expand(*batch, 4, 4), **same)
    torch.testing.assert_close((a @ b).inverse().matrix, (b.inverse() @ a.inverse()).matrix, **same)
    points = torch.randn(*batch, 7, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((a @ b).apply(points), a.apply(b.apply(points)), **same)
    torch.testing.assert_close(a.apply(points) - a.apply(0 * points), a.rotate(points), **same)
    assert a.batch_shape == batch
    assert a.log().shape == (*batch, 6)


def test_one_motion_composes_with_many(generator: torch.Generator) -> None:
    one, many = motion(generator), motion(generator, (5,))
    torch.testing.assert_close((one @ many).matrix, one.matrix @ many.matrix)
    torch.testing.assert_close((many @ one).matrix, many.matrix @ one.matrix)
    assert many.apply(torch.zeros(7, 3, dtype=torch.float64)).shape == (5, 7, 3)


def test_identity_indexing_and_dtype(generator: torch.Generator) -> None:
    nothing = RigidTransform.identity((2, 3), dtype=torch.float64)
    torch.testing.assert_close(nothing.matrix, torch.eye(4).double().expand(2, 3, 4, 4))
    many = motion(generator, (5,))
    torch.testing.assert_close(many[2].matrix, many.matrix[2])
    assert many[1:3].batch_shape == (2,)
    assert many.to(torch.float32).matrix.dtype == torch.float32


def test_from_matrix_returns_what_it_was_given(generator: torch.Generator) -> None:
    matrix = motion(generator, (3,)).matrix
    assert torch.equal(RigidTransform.from_matrix(matrix).matrix, matrix)
    assert RigidTransform.from_matrix(matrix[:0]).batch_shape == (0,)


def broken(kind: str) -> torch.Tensor:
    matrix = torch.eye(4, dtype=torch.float64)
    if kind == "scale":
        matrix[:3, :3] *= 1.01
    elif kind == "shear":
        matrix[0, 1] = 0.1
    elif kind == "reflection":
        matrix[2, 2] = -1
    elif kind == "transposed":
        matrix[3, 0] = 2.0
    elif kind == "nan":
        matrix[0, 3] = math.nan
    return matrix[:3] if kind == "shape" else matrix


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("scale", r"not a rotation.*0\.02.*remove scale and shear"),
        ("shear", "not a rotation"),
        ("reflection", r"reflection \(determinant -1\)"),
        ("transposed", "last row must be 0 0 0 1, got .*; it seems transposed"),
        ("nan", "NaN or infinite"),
        ("shape", r"\(\*B, 4, 4\), got \(3, 4\)"),
    ],
)
def test_bad_matrices_are_named(kind: str, words: str) -> None:
    with pytest.raises(InvalidTransform, match=words):
        RigidTransform.from_matrix(broken(kind))


def test_constructor_checks_shapes() -> None:
    with pytest.raises(InvalidTransform, match=r"got \(3, 3\) and \(2, 3\)"):
        RigidTransform(torch.eye(3), torch.zeros(2, 3))


# -- chance and grids ------------------------------------------------------------------------------------------


def haar_p_value(rotation: torch.Tensor) -> float:
    """The least p-value of three consequences of uniformity on SO(3).

    The angle has distribution (a - sin a) / pi; the image of any axis is uniform on the sphere, so each of its
    coordinates is uniform on [-1, 1] (Archimedes).
    """
    angle = rotation_angle(rotation.double()).numpy()
    tests = [kstest(angle, lambda a: (a - np.sin(a)) / np.pi)]
    tests += [kstest(rotation[:, row, 2].double().numpy(), "uniform", args=(-1, 2)) for row in (0, 2)]
    return min(test.pvalue for test in tests)


def test_random_rotations_are_uniform(generator: torch.Generator) -> None:
    assert haar_p_value(random_rotations((20_000,), generator=generator)) > 1e-3
    # The test has teeth: a uniform axis and a uniform angle, a common mistake, is caught.
    assert haar_p_value(so3_exp(vectors(1.0, 20_000) * torch.rand(20_000, 1, generator=generator) * math.pi)) < 1e-9


def test_random_motions_keep_their_promises(generator: torch.Generator) -> None:
    limited = motion(generator, (5000,), max_rotation=0.5, max_translation=2.0)
    angle, distance = rotation_angle(limited.rotation), limited.translation.norm(dim=-1)
    assert angle.max() <= 0.5
    assert distance.max() <= 2.0
    assert kstest(angle.numpy(), "uniform", args=(0, 0.5)).pvalue > 1e-3
    assert kstest((distance / 2).numpy() ** 3, "uniform").pvalue > 1e-3  # uniform in the ball
    assert motion(generator, max_translation=0.0).translation.abs().max() == 0


def test_random_draws_only_from_the_generator() -> None:
    torch.manual_seed(1)
    first = motion(torch.Generator().manual_seed(3), (4,), max_rotation=1.0)
    torch.manual_seed(2)
    second = motion(torch.Generator().manual_seed(3), (4,), max_rotation=1.0)
    assert torch.equal(first.matrix, second.matrix)


def test_rotation_grid_covers_the_group(generator: torch.Generator) -> None:
    def covering(rotations: torch.Tensor) -> torch.Tensor:
        probes = random_rotations((2000,), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        traces = probes.reshape(-1, 9) @ rotations.reshape(-1, 9).T  # trace(P^T R)
        return torch.rad2deg(torch.acos(((traces.amax(-1) - 1) / 2).clamp(-1, 1)))

    count = 4608
    grid = rotation_grid(count, dtype=torch.float64)
    assert grid.shape == (count, 3, 3)
    torch.testing.assert_close(grid @ grid.mT, torch.eye(3).double().expand(count, 3, 3), rtol=0, atol=1e-14)
    assert (torch.linalg.det(grid) > 0).all()
    # A ball of radius r radians holds (r - sin r) / pi of the group: 4608 balls cannot do with less than 9.2 degrees.
    by_chance = covering(random_rotations((count,), generator=generator, dtype=torch.float64))
    assert covering(grid).max() < min(14, 0.8 * by_chance.max())
    assert covering(grid).mean() < 0.95 * by_chance.mean()
    assert torch.equal(grid, rotation_grid(count, dtype=torch.float64))
    assert haar_p_value(grid) > 1e-3
    assert rotation_grid(1).shape == (1, 3, 3)
    assert rotation_grid(0).shape == (0, 3, 3)


def test_of_motions_that_are_close_the_first_is_kept(generator: torch.Generator) -> None:
    base = RigidTransform.random((20,), generator=generator)
    nudge = RigidTransform.exp(torch.tensor([0.02, 0, 0, 0.005, 0, 0]))
    parts = [(m.rotation, m.translation) for m in (base, nudge @ base)]
    both = RigidTransform(*(torch.cat(x) for x in zip(*parts, strict=True)))
    turned = rotation_angle(both.rotation.unsqueeze(1).mT @ both.rotation)
    close = (turned < 0.1) & (torch.cdist(both.translation, both.translation) < 0.1)
    expected = [i for i in range(40) if not close[i, :i].any()]
    assert first_apart(both, 40, angle=0.1, distance=0.1) == expected and len(expected) >= 20
    assert first_apart(both, 3, angle=0.1, distance=0.1) == expected[:3]
    assert first_apart(both, 40, angle=4.0, distance=math.inf) == [0]
    assert first_apart(both[:0], 40, angle=0.1, distance=0.1) == []
