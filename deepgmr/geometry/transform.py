"""Rigid motions: SE(3) and SO(3) in torch, with any leading batch dimensions.

Points are columns: `x_target = R x_source + t`. A `RigidTransform` named `target_from_source` takes source
coordinates to target coordinates, so frames cancel as they are read:
`c_from_a = c_from_b @ b_from_a`. Angles are radians. Twists are ordered (rotation vector, translation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgmr.errors import InvalidTransform

# The one tolerance of every rigidity check: texts with five digits pass, the scale of a UTM grid (.9996) does not.
RIGID_TOLERANCE = 1e-4
_LAST_ROW = np.array([0.0, 0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class RigidTransform:
    """A rotation and a translation (or a batch of them): `x -> rotation @ x + translation`."""

    rotation: Tensor  # (*B, 3, 3)
    translation: Tensor  # (*B, 3)

    def __post_init__(self) -> None:
        if self.rotation.shape[-2:] != (3, 3) or self.translation.shape != self.rotation.shape[:-1]:
            raise InvalidTransform(
                f"a rigid transform needs rotation (*B, 3, 3) and translation (*B, 3), got "
                f"{tuple(self.rotation.shape)} and {tuple(self.translation.shape)}"
            )

    # -- making one ----------------------------------------------------------------------------------------

    @classmethod
    def identity(
        cls,
        batch: tuple[int, ...] = (),
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> RigidTransform:
        """The motion that moves nothing."""
        eye = torch.eye(3, dtype=dtype, device=device).expand(*batch, 3, 3)
        return cls(eye, eye.new_zeros(*batch, 3))

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> RigidTransform:
        """Read a homogeneous matrix (*B, 4, 4). Raises `InvalidTransform` if it is not a rigid motion."""
        if matrix.shape[-2:] != (4, 4):
            raise InvalidTransform(f"a homogeneous transform is (*B, 4, 4), got {tuple(matrix.shape)}")
        _check_rigid(matrix.detach().double().cpu().numpy(), "the transform")
        return cls(matrix[..., :3, :3], matrix[..., :3, 3])

    @classmethod
    def exp(cls, twist: Tensor) -> RigidTransform:
        """The SE(3) exponential of twists (*B, 6) = (rotation vector, translation part)."""
        rotation_vector, rho = twist[..., :3], twist[..., 3:]
        left = _left_jacobian(rotation_vector)
        return cls(so3_exp(rotation_vector), (left @ rho.unsqueeze(-1)).squeeze(-1))

    @classmethod
    def random(
        cls,
        batch: tuple[int, ...] = (),
        *,
        generator: torch.Generator,
        max_rotation: float = math.pi,
        max_translation: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> RigidTransform:
        """Random motions.

        With `max_rotation` = pi the rotations are uniform on SO(3) (Haar); below that the axis is uniform on the
        sphere and the angle uniform in [0, max_rotation] radians. Translations are uniform in a ball.
        """
        device = generator.device
        if max_rotation >= math.pi:
            rotation = random_rotations(batch, generator=generator, dtype=dtype)
        else:
            axis = torch.randn(*batch, 3, generator=generator, dtype=dtype, device=device)
            axis = axis / axis.norm(dim=-1, keepdim=True)
            angle = max_rotation * torch.rand(*batch, 1, generator=generator, dtype=dtype, device=device)
            rotation = so3_exp(axis * angle)
        direction = torch.randn(*batch, 3, generator=generator, dtype=dtype, device=device)
        radius = torch.rand(*batch, 1, generator=generator, dtype=dtype, device=device) ** (1 / 3)
        return cls(rotation, max_translation * radius * direction / direction.norm(dim=-1, keepdim=True))

    # -- using one -----------------------------------------------------------------------------------------

    @property
    def batch_shape(self) -> torch.Size:
        return self.translation.shape[:-1]

    @property
    def matrix(self) -> Tensor:
        """The homogeneous matrix (*B, 4, 4)."""
        top = torch.cat([self.rotation, self.translation.unsqueeze(-1)], dim=-1)  # (*B, 3, 4)
        bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*self.batch_shape, 1, 4)
        return torch.cat([top, bottom], dim=-2)

    def apply(self, points: Tensor) -> Tensor:
        """Move points (*B, N, 3)."""
        return points @ self.rotation.mT + self.translation.unsqueeze(-2)

    def rotate(self, vectors: Tensor) -> Tensor:
        """Turn vectors (*B, N, 3), normals for instance, without translating them."""
        return vectors @ self.rotation.mT

    def compose(self, other: RigidTransform) -> RigidTransform:
        """`self` after `other`: `c_from_b.compose(b_from_a)` is `c_from_a`."""
        translation = (self.rotation @ other.translation.unsqueeze(-1)).squeeze(-1) + self.translation
        return RigidTransform(self.rotation @ other.rotation, translation)

    __matmul__ = compose

    def inverse(self) -> RigidTransform:
        rotation = self.rotation.mT
        return RigidTransform(rotation, -(rotation @ self.translation.unsqueeze(-1)).squeeze(-1))

    def log(self) -> Tensor:
        """The twist (*B, 6) whose exponential this is, rotation angle in [0, pi]."""
        rotation_vector = so3_log(self.rotation)
        rho = torch.linalg.solve(_left_jacobian(rotation_vector), self.translation.unsqueeze(-1)).squeeze(-1)
        return torch.cat([rotation_vector, rho], dim=-1)

    def to(self, *args: object, **kwargs: object) -> RigidTransform:
        """Move to a dtype or device, as `torch.Tensor.to`."""
        return RigidTransform(self.rotation.to(*args, **kwargs), self.translation.to(*args, **kwargs))  # type: ignore[call-overload]

    def __getitem__(self, index: object) -> RigidTransform:
        """Index the leading batch dimensions."""
        return RigidTransform(self.rotation[index], self.translation[index])  # type: ignore[index]


def rigid_matrix(motion: Any, name: str) -> np.ndarray:
    """A (4, 4) float64 rigid motion from an array, nested lists, a tensor or a `RigidTransform`.

    Raises `InvalidTransform`, beginning with `name`, for anything else.
    """
    matrix = _square(motion, name)
    _check_rigid(matrix, name)
    return matrix


def _square(motion: Any, name: str) -> np.ndarray:
    if isinstance(motion, RigidTransform):
        motion = motion.matrix
    if isinstance(motion, Tensor):
        motion = motion.detach().double().cpu().numpy()
    try:
        matrix = np.array(motion, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InvalidTransform(
            f"{name}: a motion is a 4x4 matrix of numbers, got {type(motion).__name__} ({error})"
        ) from None
    if matrix.shape != (4, 4):
        raise InvalidTransform(f"{name}: a motion is a 4x4 matrix, got shape {matrix.shape}")
    return matrix


def similarity_matrix(motion: Any, name: str) -> np.ndarray:
    """A (4, 4) float64 rigid motion, or one that scales as well, from what `rigid_matrix` takes; raises as that does."""
    matrix = _square(motion, name)
    scale = scale_of(matrix)
    unit = matrix.copy()
    if math.isfinite(scale) and scale > 0:
        unit[:3, :3] /= scale
    _check_rigid(unit, name)
    return matrix


def scale_of(matrices: np.ndarray) -> Any:
    """By how much similarities (*B, 4, 4) scale: the cube root of the determinant (*B)."""
    with np.errstate(all="ignore"):
        return np.cbrt(np.linalg.det(np.asarray(matrices)[..., :3, :3]))


def is_rigid(matrices: np.ndarray) -> np.ndarray:
    """Which homogeneous matrices (*B, 4, 4) are a rotation and a translation (*B), within `RIGID_TOLERANCE`."""
    finite = np.isfinite(matrices).all(axis=(-2, -1))
    matrices = np.where(finite[..., None, None], matrices, np.eye(4))
    with np.errstate(all="ignore"):  # entries of 1e200 leave no number
        turned = (_skewness(matrices) <= RIGID_TOLERANCE) & (np.linalg.det(matrices[..., :3, :3]) > 0)
    return finite & turned & (np.abs(matrices[..., 3, :] - _LAST_ROW).max(-1) <= RIGID_TOLERANCE)


def _check_rigid(matrices: np.ndarray, name: str) -> None:
    """Raise `InvalidTransform`, beginning with `name`, that says why the first that is not rigid (*B, 4, 4) is not."""
    rigid = is_rigid(matrices)
    if rigid.all():
        return
    matrix = matrices[~rigid][0]
    rotation, row, column = matrix[:3, :3], matrix[3], matrix[:, 3]
    if not np.isfinite(matrix).all():
        raise InvalidTransform(f"{name}: {int((~np.isfinite(matrix)).sum())} entries are NaN or infinite")
    if np.abs(row - _LAST_ROW).max() > RIGID_TOLERANCE:
        hint = "; it seems transposed" if np.abs(column - _LAST_ROW).max() <= RIGID_TOLERANCE else ""
        raise InvalidTransform(f"{name}: the last row must be 0 0 0 1, got {row.tolist()}{hint}")
    with np.errstate(all="ignore"):
        off, scale = float(_skewness(matrix)), float(np.cbrt(abs(np.linalg.det(rotation))))
    if not off <= RIGID_TOLERANCE:
        raise InvalidTransform(
            f"{name}: the upper left 3x3 is not a rotation (|R R^T - I| reaches {off:.2g}, scale "
            f"{scale:.4g}); remove scale and shear, and give more digits if it was rounded"
        )
    raise InvalidTransform(f"{name}: the upper left 3x3 is a reflection (determinant -1); a motion has +1")


def _skewness(matrices: np.ndarray) -> np.ndarray:
    """How far R R^T is from the identity (*B)."""
    rotation = matrices[..., :3, :3]
    return np.abs(rotation @ rotation.swapaxes(-1, -2) - np.eye(3)).max(axis=(-2, -1))


def hat(vector: Tensor) -> Tensor:
    """The skew matrix (*B, 3, 3) of vectors (*B, 3): `hat(a) @ b = a x b`."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def so3_exp(rotation_vector: Tensor) -> Tensor:
    """Rotation matrices (*B, 3, 3) of rotation vectors (*B, 3); Rodrigues' formula, smooth at zero."""
    a, b, _ = _rodrigues_coefficients(rotation_vector)
    skew = hat(rotation_vector)
    eye = torch.eye(3, dtype=skew.dtype, device=skew.device)
    return eye + a[..., None, None] * skew + b[..., None, None] * (skew @ skew)


def so3_log(rotation: Tensor) -> Tensor:
    """Rotation vectors (*B, 3), angle in [0, pi], of rotation matrices (*B, 3, 3).

    Goes through the unit quaternion of largest component (Shepperd 1978), so it keeps full precision both near
    zero and near pi, where the axis is only determined up to sign.
    """
    w, x, y, z = _quaternion(rotation).unbind(-1)
    vector = torch.stack([x, y, z], dim=-1) * torch.where(w < 0, -1.0, 1.0).to(w.dtype).unsqueeze(-1)
    squared = (vector * vector).sum(-1)
    small = squared < torch.finfo(rotation.dtype).eps
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()  # of half the angle; safe under the gradient
    angle = 2 * torch.atan2(sine, w.abs())
    scale = torch.where(small, 2 / w.abs().clamp_min(0.5), angle / sine)
    return vector * scale.unsqueeze(-1)


def rotation_angle(rotation: Tensor) -> Tensor:
    """The angle (*B) in radians, in [0, pi], by which rotation matrices (*B, 3, 3) turn."""
    sine = torch.linalg.vector_norm(_vee(rotation), dim=-1)  # |sin angle|
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2(sine, cosine)


def first_apart(motions: RigidTransform, count: int, *, angle: float, distance: float) -> list[int]:
    """The first `count` of motions (H,) of which no two are within both `angle` (rad) and `distance`."""
    flat, places = motions.rotation.flatten(1), motions.translation
    # trace(A^T B) = 1 + 2 cos(angle), and no more is asked for than which side of the limit it lies on.
    turned = 1 + 2 * math.cos(min(angle, math.pi)) < flat @ flat.mT
    near = (turned & (torch.cdist(places, places) < distance)).numpy()
    kept: list[int] = []
    free = np.ones(len(near), dtype=bool)
    while len(kept) < count and free.any():
        kept.append(int(free.argmax()))
        free &= ~near[kept[-1]]
        free[kept[-1]] = False
    return kept


def random_rotations(
    batch: tuple[int, ...] = (), *, generator: torch.Generator, dtype: torch.dtype | None = None
) -> Tensor:
    """Rotations (*batch, 3, 3) uniform on SO(3): normalised Gaussian quaternions."""
    return rotation_from_quaternion(torch.randn(*batch, 4, generator=generator, dtype=dtype, device=generator.device))


def rotation_grid(count: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
    """`count` rotations (count, 3, 3) spread evenly over SO(3), the same ones every time.

    Super-Fibonacci spirals (Alexa, CVPR 2022, Algorithm 1): low discrepancy for any count, no randomness.
    """
    psi = 1.533751168755204288118041  # the positive root of psi^4 = psi + 4
    s = torch.arange(count, dtype=torch.float64) + 0.5
    radius, other = (s / count).sqrt(), (1 - s / count).sqrt()
    alpha, beta = 2 * math.pi * s / math.sqrt(2.0), 2 * math.pi * s / psi
    quaternion = torch.stack(
        [radius * alpha.sin(), radius * alpha.cos(), other * beta.sin(), other * beta.cos()], dim=-1
    )
    return rotation_from_quaternion(quaternion).to(dtype=dtype or torch.get_default_dtype(), device=device)


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """Rotation matrices (*B, 3, 3) of quaternions (*B, 4) = (w, x, y, z) of any non-zero length."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _quaternion(rotation: Tensor) -> Tensor:
    """Unit quaternions (*B, 4) = (w, x, y, z): the best conditioned of the four columns of Shepperd's matrix."""
    m = rotation
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 2, 0] + m[..., 0, 2], m[..., 2, 1] + m[..., 1, 2]
    columns = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, a, b, c], dim=-1),
            torch.stack([a, 1 + m00 - m11 - m22, d, e], dim=-1),
            torch.stack([b, d, 1 - m00 + m11 - m22, f], dim=-1),
            torch.stack([c, e, f, 1 - m00 - m11 + m22], dim=-1),
        ],
        dim=-2,
    )  # (*B, 4, 4): row k is 4 q_k q
    best = columns.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = columns.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    return chosen / chosen.norm(dim=-1, keepdim=True)


def _vee(matrix: Tensor) -> Tensor:
    """The vector (*B, 3) of the skew part of matrices (*B, 3, 3)."""
    m = matrix
    return torch.stack(
        [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], dim=-1
    ).div(2)


def _rodrigues_coefficients(rotation_vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin(a)/a, (1 - cos a)/a^2 and (a - sin a)/a^3 of the angle a, by series where the quotients lose digits."""
    squared = (rotation_vector * rotation_vector).sum(-1)
    small = squared < (1e-4 if rotation_vector.dtype == torch.float64 else 1e-2)
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    sine, cosine = angle.sin(), angle.cos()
    s = squared
    first = torch.where(small, 1 - s / 6 * (1 - s / 20 * (1 - s / 42)), sine / angle)
    second = torch.where(small, 0.5 * (1 - s / 12 * (1 - s / 30 * (1 - s / 56))), (1 - cosine) / safe)
    third = torch.where(small, (1 - s / 20 * (1 - s / 42 * (1 - s / 72))) / 6, (angle - sine) / (safe * angle))
    return first, second, third


def _left_jacobian(rotation_vector: Tensor) -> Tensor:
    """The left Jacobian (*B, 3, 3) of SO(3) (Barfoot, State Estimation for Robotics, eq. 7.77b)."""
    _, b, c = _rodrigues_coefficients(rotation_vector)
    skew = hat(rotation_vector)
    eye = torch.eye(3, dtype=skew.dtype, device=skew.device)
    return eye + b[..., None, None] * skew + c[..., None, None] * (skew @ skew)
