"""What procedural surfaces are drawn from: uniform numbers, closed sections and profiles.

A section is a closed curve given by its radius at 24 angles; a profile is a radius and a height at each level. Both
are NumPy in float32, with a row for each shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]

ANGLES = 24  # points of a section; 15 degrees apart, so polygons of 3, 4, 6, 8, 12 and 24 sides are exact
LEVELS = 16  # levels of a curved loft
_THETA = (2 * np.pi / ANGLES * np.arange(ANGLES)).astype(np.float32)
COS, SIN = np.cos(_THETA), np.sin(_THETA)


class Draw:
    """Uniform numbers as NumPy arrays, all of them from one torch generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, low: ArrayLike, high: ArrayLike, *shape: int) -> Floats:
        """Uniform in [low, high), float32."""
        unit = torch.rand(shape, generator=self._generator).numpy()
        return (np.asarray(low, np.float32) + (np.subtract(high, low)).astype(np.float32) * unit).astype(np.float32)

    def chance(self, probability: float, *shape: int) -> NDArray[np.bool_]:
        return torch.rand(shape, generator=self._generator).numpy() < probability

    def integer(self, low: int, high: int, *shape: int) -> NDArray[np.int64]:
        """Uniform integers in [low, high)."""
        return torch.randint(low, high, shape, generator=self._generator).numpy()

    def normal(self, *shape: int) -> Floats:
        return torch.randn(shape, generator=self._generator).numpy()

    def rotations(self, *shape: int) -> Floats:
        """Uniform rotations (*shape, 3, 3)."""
        q = self.normal(*shape, 4)
        q /= np.linalg.norm(q, axis=-1, keepdims=True)
        w, x, y, z = np.moveaxis(q, -1, 0)
        rows = [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ]
        return np.stack(rows, axis=-1).reshape(*shape, 3, 3)


def about(axis: int, angle: Floats) -> Floats:
    """Rotations (n, 3, 3) about a coordinate axis."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.zeros((len(angle), 3, 3), np.float32)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, axis, axis] = 1
    matrix[:, i, i], matrix[:, j, j], matrix[:, i, j], matrix[:, j, i] = c, c, -s, s
    return matrix


# -- sections: radius at each of the 24 angles -------------------------------------------------------------------


def polygon(angles_degrees: Sequence[float], radii: Sequence[float]) -> Floats:
    """The section (24,) of a polygon that is star-shaped about the origin, from its vertices in order of angle."""
    a = np.deg2rad(np.append(angles_degrees, angles_degrees[0] + 360.0))
    x, y = np.append(radii, radii[0]) * np.cos(a), np.append(radii, radii[0]) * np.sin(a)
    rho = np.empty(ANGLES)
    for k in range(ANGLES):
        theta = a[0] + (float(_THETA[k]) - a[0] + 1e-9) % (2 * np.pi) - 1e-9
        i = min(int(np.searchsorted(a, theta + 1e-6)) - 1, len(a) - 2)
        dx, dy = x[i + 1] - x[i], y[i + 1] - y[i]
        c, s = np.cos(theta), np.sin(theta)
        rho[k] = (x[i] * dy - y[i] * dx) / (c * dy - s * dx)
    return rho.astype(np.float32)


CIRCLE = np.ones(ANGLES, np.float32)
SQUARE = polygon([45, 135, 225, 315], [2**0.5] * 4)  # half-width 1
TRIANGLE = polygon([0, 120, 240], [1.0] * 3)
HEXAGON = polygon(list(range(0, 360, 60)), [1.0] * 6)
OCTAGON = polygon(list(range(0, 360, 45)), [1.0] * 8)
HALF_DISC = np.where(COS < -1e-6, np.minimum(0.25 / np.maximum(-COS, 1e-6), 1.0), 1.0).astype(np.float32)
CROSS = polygon(
    [15, 45, 75, 105, 135, 165, 195, 225, 255, 285, 315, 345],
    [1.0353, 0.3789, 1.0353] * 4,
)
ANGLE = polygon([45, 105, 135, 225, 315, 345], [0.35, 1.0, 1.1, 0.5, 1.1, 1.0])
STARS = [polygon(list(range(0, 360, 180 // n)), [1.0, 0.55] * n) for n in (3, 4, 6, 12)]
PROFILES = np.stack([CIRCLE, SQUARE, TRIANGLE, HEXAGON, OCTAGON, HALF_DISC, CROSS, ANGLE, *STARS])


def superellipse(exponent: Floats) -> Floats:
    """Sections (*B, 24): |x|^p + |y|^p = 1 for exponents (*B,); 2 is a circle, large is a square."""
    p = exponent[..., None]
    return ((np.abs(COS) ** p + np.abs(SIN) ** p) ** (-1 / p)).astype(np.float32)


def blob(draw: Draw, *shape: int, roughness: float = 0.35) -> Floats:
    """Smooth random sections (*shape, 24) with radius at most 1."""
    rho = np.ones((*shape, ANGLES), np.float32)
    for order in (1, 2, 3, 4):
        size, phase = draw.uniform(0, roughness / order, *shape, 1), draw.uniform(0, 2 * np.pi, *shape, 1)
        rho += size * np.cos(order * _THETA + phase)
    return rho / rho.max(axis=-1, keepdims=True)


# -- profiles: (radius, height) at each level ----------------------------------------------------------------------


def padded(levels: ArrayLike) -> Floats:
    """Levels (*B, L, 2) brought to LEVELS by repeating the last one; a repeated level has no area."""
    levels = np.asarray(levels, np.float32)
    missing = LEVELS - levels.shape[-2]
    return np.concatenate([levels, np.repeat(levels[..., -1:, :], missing, axis=-2)], axis=-2)


def ball(exponent: Floats | float = 1.0) -> Floats:
    """(*B, LEVELS, 2): the half of a superellipse; exponent 1 is a circle, small is boxy, 2 is a double cone."""
    phi = np.linspace(-np.pi / 2, np.pi / 2, LEVELS)
    e = np.asarray(exponent, np.float32)[..., None]
    radius = np.maximum(np.cos(phi), 0) ** e
    return np.stack([radius, np.sign(np.sin(phi)) * np.abs(np.sin(phi)) ** e], axis=-1).astype(np.float32)


def capsule(roundness: Floats) -> Floats:
    """(*B, LEVELS, 2): a cylinder with domes of height `roundness` (*B,) of the half-length."""
    phi = np.linspace(0, np.pi / 2, LEVELS // 2)
    end = np.sin(phi) * roundness[..., None]
    height = np.concatenate([-(1 - roundness[..., None]) - end[..., ::-1], (1 - roundness[..., None]) + end], -1)
    radius = np.concatenate([np.cos(phi)[::-1], np.cos(phi)])
    return np.stack([np.broadcast_to(radius, height.shape), height], axis=-1).astype(np.float32)


def ring(thickness: Floats, *, square: bool = False) -> Floats:
    """(*B, LEVELS, 2): a closed loop around the axis: a torus, or with `square` a tube with straight walls."""
    t = np.asarray(thickness, np.float32)[..., None]
    if square:
        radius = np.concatenate([np.ones_like(t), np.ones_like(t), 1 - t, 1 - t, np.ones_like(t)], axis=-1)
        height = np.broadcast_to(np.array([-1.0, 1, 1, -1, -1], np.float32), radius.shape)
        return padded(np.stack([radius, height], axis=-1))
    phi = np.linspace(-np.pi, np.pi, LEVELS)
    radius = 1 - t / 2 + t / 2 * np.cos(phi)
    return np.stack([radius, np.broadcast_to(np.sin(phi), radius.shape)], axis=-1).astype(np.float32)


def turned(draw: Draw, count: int) -> Floats:
    """(count, LEVELS, 2): the closed profile of something turned on a lathe."""
    s = np.linspace(-1, 1, LEVELS - 2)
    radius = np.full((count, len(s)), 0.6, np.float32) + draw.uniform(-0.5, 0.5, count, 1) * s
    for order in (1, 2, 3, 4):
        size, phase = draw.uniform(0, 0.35 / order**0.7, count, 1), draw.uniform(0, 2 * np.pi, count, 1)
        radius += size * np.sin(order * np.pi / 2 * s + phase)
    radius = np.maximum(radius, 0.08)
    radius /= radius.max(axis=1, keepdims=True)
    zero, height = np.zeros((count, 1), np.float32), np.broadcast_to(s, radius.shape)
    ends = np.full((count, 1), 1.0, np.float32)
    return np.stack(
        [np.concatenate([zero, radius, zero], 1), np.concatenate([-ends, height, ends], 1)], axis=-1
    ).astype(np.float32)


def vessel(draw: Draw, count: int) -> Floats:
    """(count, LEVELS, 2): an open vessel: up the outside, over the rim, down the inside to its floor."""
    half = (LEVELS - 2) // 2
    outer = turned(draw, count)[:, 1:-1][:, :: (LEVELS - 2) // half][:, :half]  # (count, half, 2)
    outer = outer.copy()
    outer[..., 1] = np.linspace(-1, 1, half)
    wall = draw.uniform(0.03, 0.15, count, 1)
    inner = outer[:, ::-1].copy()
    inner[..., 0] = np.maximum(inner[..., 0] - wall, 0.02)
    inner[..., 1] = np.maximum(inner[..., 1], -1 + wall)
    bottom, floor = np.zeros((count, 1, 2), np.float32), np.zeros((count, 1, 2), np.float32)
    bottom[..., 1], floor[..., 0, 1] = -1, inner[:, -1, 1]
    return np.concatenate([bottom, outer, inner, floor], axis=1).astype(np.float32)
