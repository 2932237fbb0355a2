"""Hypothesis strategies that draw a problem together with its exact answer. NumPy only, float64.

A draw is a kind, a batch shape and a seed; the arrays follow from the seed, so a failing example shrinks to a
short description that can be typed in again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

KINDS = ("generic", "planar", "collinear", "single", "symmetric", "coincident", "tiny", "huge")
DETERMINED = ("generic", "planar", "symmetric", "tiny", "huge")  # the kinds whose rotation is unique
BATCHES: tuple[tuple[int, ...], ...] = ((), (1,), (3, 4), (0,))
_SCALE = {"tiny": 1e-6, "huge": 1e6}
_CUBE = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


@dataclass(frozen=True)
class Problem:
    """Two isotropic mixtures matched by index, and the motion that takes the means of one to the other's."""

    kind: str
    seed: int
    scale: float  # the size of the shape: lengths are compared relative to it
    noise: float  # standard deviation of the target means in units of their own sigma
    weights: np.ndarray  # (*B, J) sum to one
    source: np.ndarray  # (*B, J, 3) means
    target: np.ndarray  # (*B, J, 3) means
    variances: np.ndarray  # (*B, J) one sigma^2 a component, over a range of a hundred
    rotation: np.ndarray  # (*B, 3, 3) exact where noise is zero
    translation: np.ndarray  # (*B, 3)

    @property
    def batch(self) -> tuple[int, ...]:
        return self.weights.shape[:-1]

    @property
    def components(self) -> int:
        return self.weights.shape[-1]

    @property
    def determined(self) -> bool:
        """Whether the rotation is unique."""
        return self.kind in DETERMINED

    @property
    def covariances(self) -> np.ndarray:
        return self.variances[..., None, None] * np.eye(3)  # (*B, J, 3, 3)

    @property
    def solver_weights(self) -> np.ndarray:
        return self.weights / self.variances


def make_problem(
    kind: str, *, batch: tuple[int, ...] = (), seed: int = 0, components: int = 6, noise: float = 0.0
) -> Problem:
    """One batch of problems of a kind; `components` counts where the kind leaves it open."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    scale = _SCALE.get(kind, 1.0)
    source = shape_of(kind, components, batch, rng) * scale
    j = source.shape[-2]
    rotation = rotations(batch, rng)
    translation = rng.normal(size=(*batch, 3)) * 2 * scale
    variances = (0.1 * scale) ** 2 * 10 ** rng.uniform(-1, 1, size=(*batch, j))
    weights = rng.dirichlet(np.full(j, 3.0), size=batch)
    if kind == "symmetric":  # one weight for all, so that the three singular values coincide
        variances = np.full_like(variances, (0.1 * scale) ** 2)
        weights = np.full_like(weights, 1 / j)
    target = source @ np.swapaxes(rotation, -1, -2) + translation[..., None, :]
    target = target + noise * np.sqrt(variances)[..., None] * rng.normal(size=target.shape)
    return Problem(kind, seed, scale, noise, weights, source, target, variances, rotation, translation)


def shape_of(kind: str, components: int, batch: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Points (*batch, J, 3) of a kind, of size about one, off the origin and in a general position."""
    lead = (*batch, 1, 3)
    if kind == "planar":
        points = rng.normal(size=(*batch, components, 3)) * [1.0, 0.7, 0.0]
    elif kind == "collinear":
        points = rng.normal(size=(*batch, components, 3)) * [1.0, 0.0, 0.0]
    elif kind == "single":
        points = np.zeros(lead)
    elif kind == "coincident":
        points = np.zeros((*batch, components, 3))
    elif kind == "symmetric":
        points = np.broadcast_to(_CUBE, (*batch, 8, 3))
    else:
        points = rng.normal(size=(*batch, components, 3)) * [1.0, 0.8, 0.6]
    return points @ np.swapaxes(rotations(batch, rng), -1, -2) + rng.normal(size=lead)


def rotations(batch: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rotations (*batch, 3, 3), uniform, by scipy."""
    count = int(np.prod(batch))
    if count == 0:
        return np.zeros((*batch, 3, 3))
    return Rotation.random(count, random_state=rng).as_matrix().reshape(*batch, 3, 3)


def covariances(batch: tuple[int, ...], rng: np.random.Generator, *, spread: float = 3.0, d: int = 3) -> np.ndarray:
    """Positive definite matrices (*batch, d, d) with axes between 1 and `spread`, in general position."""
    basis = np.linalg.qr(rng.normal(size=(*batch, d, d)))[0]
    axes = rng.uniform(1, spread, size=(*batch, d)) ** 2
    return (basis * axes[..., None, :]) @ np.swapaxes(basis, -1, -2)


def make_mixture(
    *, batch: tuple[int, ...] = (), components: int = 4, d: int = 3, seed: int = 0, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and full covariances of a mixture."""
    rng = np.random.default_rng([seed, components, d])
    weights = rng.dirichlet(np.full(components, 2.0), size=batch)
    means = rng.normal(size=(*batch, components, d)) * 2 * scale
    return weights, means, covariances((*batch, components), rng, d=d) * (0.3 * scale) ** 2


def problems(
    *, kinds: tuple[str, ...] = KINDS, batches: tuple[tuple[int, ...], ...] = BATCHES, noise: float = 0.0
) -> st.SearchStrategy[Problem]:
    """Problems of any of the kinds and batch shapes, with 4 to 12 components."""
    return st.builds(
        make_problem,
        st.sampled_from(kinds),
        batch=st.sampled_from(batches),
        seed=st.integers(0, 2**20),
        components=st.integers(4, 12),
        noise=st.just(noise),
    )


def mixtures(*, batches: tuple[tuple[int, ...], ...] = BATCHES) -> st.SearchStrategy[tuple[np.ndarray, ...]]:
    """Mixtures of 1 to 6 components with full covariances in three dimensions."""
    return st.builds(
        make_mixture,
        batch=st.sampled_from(batches),
        components=st.integers(1, 6),
        seed=st.integers(0, 2**20),
    )


def cuboid(count: int, seed: int) -> np.ndarray:
    """Points (count, 3) on a cuboid: four motions leave it as it is."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (count, 3))
    face = rng.integers(0, 3, count)
    points[np.arange(count), face] = np.sign(points[np.arange(count), face])
    return points * [1.0, 0.7, 0.4]
