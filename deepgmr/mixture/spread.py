"""A mixture as points, without chance: each component stands for as many as its area asks for."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

MOST = 256  # points for a component, however large: what a sky is painted on must not take them all
_RATIO = 1.2207440846057596  # the root of x^4 = x + 1, whose powers are spread evenly over the unit cube


def spread(means: np.ndarray, covariances: np.ndarray, count: int) -> np.ndarray:
    """Some `count` points (N, 3) float64, at least one a component, evenly over the area of components (J, 3), (J, 3, 3).

    A component gives its mean, and if it is large beside the others further points with about its covariance: always the
    same ones, along its own axes, so that neither the order of the components nor chance has a say.
    """
    scaled = covariances / (np.abs(covariances).max(initial=0.0) or 1.0)
    traces, squares = np.trace(scaled, axis1=1, axis2=2), (scaled * scaled.transpose(0, 2, 1)).sum(axis=(1, 2))
    areas = np.sqrt(np.maximum(traces**2 - squares, 0.0) / 2)  # the product of the two larger deviations, about
    numbers = _numbers(areas, count)
    wide = np.flatnonzero(numbers > 1)
    values, vectors = np.linalg.eigh(covariances[wide])
    axes = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    pattern = _pattern(MOST)
    parts = [means]
    for number in np.unique(numbers[wide]):
        same = np.flatnonzero(numbers[wide] == number)
        offsets = np.einsum("kij,nj->kni", axes[same], pattern[1:number])
        parts.append((means[wide[same], None] + offsets).reshape(-1, 3))
    return np.concatenate(parts)


def enough(components: int) -> int:
    """How many points so many components are worth: two each, and of few as many as show their shapes."""
    return max(2 * components, min(20_000, MOST * components))


def _numbers(areas: np.ndarray, count: int) -> np.ndarray:
    """How many points (J,) each component gives, from 1 to MOST, in proportion to its area, some `count` in all."""
    low, high = 0.0, 1.0
    largest = float(areas.max(initial=0.0)) or 1.0
    shares = areas / largest
    while high < 1e30 and np.clip(high * shares, 1, MOST).sum() < count:
        low, high = high, 4 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * shares, 1, MOST).sum() < count else (low, middle)
    return np.clip(np.rint(high * shares), 1, MOST).astype(np.int64)


def _pattern(count: int) -> np.ndarray:
    """Points (count, 3) of a standard normal distribution, the first at its mean, any number of the first well spread.

    The additive recurrence of Kronecker with the generalised golden ratio, through the inverse of the normal distribution.
    """
    steps = _RATIO ** -np.arange(1, 4)
    places = (0.5 + np.outer(np.arange(count), steps)) % 1.0
    return ndtri(places)
