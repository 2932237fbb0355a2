"""How far the motion of a fit of surfaces may be off: a sandwich of its matches, wider where parts of them disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepgmr.pipeline.settings import PolishSettings

_MEDIAN_OF_ONE, _MEDIAN_OF_TWO = 0.4549, 1.3863  # medians of chi-squared variables of one and of two dimensions


@dataclass(frozen=True, eq=False)
class Terms:
    """What each of N matches says of the six directions."""

    score: np.ndarray  # (N, 6) the slope of its cost
    bread: np.ndarray  # (N, 6, 6) how the slope changes with the motion


def point_terms(arm: np.ndarray, residual: np.ndarray, unit: np.ndarray) -> Terms:
    """Of points about a centre (N, 3) that are known to be the same ones, residuals (N, 3) apart; `unit` (6,) of twists."""
    rows = np.stack([row(arm, np.broadcast_to(axis, arm.shape)) * unit for axis in np.eye(3)], axis=1)  # (N, 3, 6)
    return Terms(np.einsum("nki,nk->ni", rows, residual), np.einsum("nki,nkj->nij", rows, rows))


def disk_terms(
    arm: np.ndarray, residual: np.ndarray, m: np.ndarray, n: np.ndarray, unit: np.ndarray, thickness: float
) -> Terms:
    """Generalised ICP's, with S as in `polish._both_ways` and disks of this thickness, a ratio of variances.

    Matches change as surfaces slide, so that only the directions of the normals m and n hold. Their product m n^T, of
    two estimates that err apart, has the expectation of the true one; n n^T would see what holds in mere noise.
    """
    m, cosine = _alike(m, n)
    a = 1 - thickness
    pull = residual / 2  # S^-1 r
    for sign, axis in ((1, m + n), (-1, m - n)):
        pull = pull + (a * np.einsum("ij,ij->i", axis, residual) / (8 - 4 * a * (1 + sign * cosine)))[:, None] * axis
    weight = 4 * a / (8 - 4 * a * (1 + cosine))
    return Terms(row(arm, pull) * unit, weight[:, None, None] * plain_information(arm, m, n, unit))


def plain_information(arm: np.ndarray, m: np.ndarray, n: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """(N, 6, 6) of matches that weigh the same: those that agree by chance do not stand out."""
    m, _ = _alike(m, n)
    product = np.einsum("ni,nj->nij", row(arm, m) * unit, row(arm, n) * unit)
    return (product + product.swapaxes(1, 2)) / 2


def spread(residual: np.ndarray, m: np.ndarray, n: np.ndarray) -> tuple[float, float]:
    """How far matches with residuals (N, 3) lie apart across their surfaces and along them: variances of a coordinate."""
    m, cosine = _alike(m, n)
    across = np.einsum("ij,ij->i", residual, m + n) ** 2 / (2 + 2 * cosine)
    along = np.einsum("ij,ij->i", residual, residual) - across
    return float(np.median(across)) / _MEDIAN_OF_ONE, max(float(np.median(along)), 1e-30) / _MEDIAN_OF_TWO


def sandwich(
    terms: Terms,
    arm: np.ndarray,
    forward: np.ndarray,
    *,
    spacing: float,
    along: float,
    even: float,
    held: np.ndarray,
    settings: PolishSettings,
) -> np.ndarray:
    """The covariance (6, 6) of the estimate from N matches, robust to errors that neighbours share.

    B^-1 (sum_p s_p s_p^T) B^-1 with the sums of scores over patches p, each as it would be without what the patch
    itself pulled the fit (Cameron and Miller 2015, section VI.B, CV3): the more the errors of neighbours agree, the
    larger are the sums. Patches grow as long as there are enough of them, and in each direction the widest counts.

    A power law with exponents that were fitted says how much is missing. Wider, where the variance grew with the
    patches, the more so where points lie `even`; where fits of halves of the cloud differ, or that of the matches
    `forward` (N,) from the source and that of the others (Birge 1932). Narrower, where matches lie so near `along` the
    surface (standard deviation) that the points must be the same ones but for noise, which hold every direction.
    """
    inverse = inverted(terms.bread.sum(axis=0), held)
    first = widest = np.zeros((6, 6))
    sure = 0.0  # how sure it is that the variance grows
    for size in settings.patches:
        label = patches(arm, size * spacing)
        count = int(label.max(initial=0)) + 1
        if widest.any() and count < settings.fewest_patches:
            break
        sums, breads = summed(terms.score, label), summed(terms.bread, label)
        without = (1 + 1e-3) * np.eye(6) - breads @ inverse
        sums = np.linalg.solve(without, sums[:, :, None])[:, :, 0] @ inverse
        widest = _union(widest, sums.T @ sums, held)
        sure = sure or (count / (count + settings.few_patches) if first.any() else 0.0)
        first = first if first.any() else widest
    least, rank = inverted(first, held), max(held.shape[1], 1)
    growth = sure * np.log(max(np.trace(least @ widest) / rank, 1.0))

    def apart(chosen: np.ndarray) -> float:
        """The squared distance of the fit to some matches and the one to the others, a direction."""
        if min(chosen.sum(), (~chosen).sum()) < 6:
            return 0.0
        one, other = (
            inverted(terms.bread[c].sum(axis=0), held) @ terms.score[c].sum(axis=0) for c in (chosen, ~chosen)
        )
        return float((one - other) @ least @ (one - other)) / rank

    places = np.linalg.svd(arm, full_matrices=False)[2] @ arm.T
    halves = np.mean([min(apart(place > np.median(place)) / 4, settings.tears) for place in places])
    same = max(np.log(settings.others_along * spacing / along), 0.0)
    power = (
        settings.grows * growth
        + settings.even_grows * even * growth
        + settings.torn * np.log(halves + 0.1)
        + settings.two_ways * np.log(apart(forward) + 0.01)
        - settings.same * same
    )
    return float(settings.patchwise * np.exp(np.clip(power, -settings.most_power, settings.most_power))) * widest


def common(places: np.ndarray, height: np.ndarray, spacing: float, settings: PolishSettings) -> float:
    """By how much surfaces may be moved as a whole: from heights (N,) of one over the other, at places (N, 3).

    Surfaces that are bent, or seen by a sensor that errs the same way all along a wall, lie apart by what neighbours
    within cubes have in common, by analysis of variance. By as much they move as a whole, which the fit follows and no
    residual shows. Less where it may be chance.
    """
    inside = np.abs(height) < 3 * 1.4826 * np.median(np.abs(height)) if len(height) else np.zeros(0, bool)
    if inside.sum() < settings.fewest:
        return 0.0
    height, label = height[inside], patches(places[inside], settings.bent_over * spacing)
    count = np.bincount(label)
    mean = np.bincount(label, height) / count
    full = count >= settings.bent_members
    if full.sum() < settings.bent_patches:
        return 0.0
    within = np.bincount(label, (height - mean[label]) ** 2)[full].sum() / (count[full] - 1).sum()
    between = float(np.sqrt(max(np.mean(mean[full] ** 2 - within / count[full]), 0.0)))
    if between == 0:
        return 0.0
    return settings.bent * between * min(1.0, between / (settings.plainly * height.std()))


def inverted(bread: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Of a matrix (6, 6) in the directions that are held, zero in the others."""
    inside = held.T @ bread @ held
    values, vectors = np.linalg.eigh((inside + inside.T) / 2)
    basis = held @ vectors
    return (basis / np.maximum(values, 1e-6 * np.abs(values).max(initial=1e-300))) @ basis.T


def _union(a: np.ndarray, b: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The least covariance of a family that covers both: in the basis where both are diagonal, the larger of each."""
    if not a.any():
        return b
    values, vectors = np.linalg.eigh(held.T @ a @ held)
    root = held @ vectors * np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    whiten = held @ vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    ratio, turned = np.linalg.eigh(whiten.T @ b @ whiten)
    basis = root @ turned
    return (basis * np.maximum(ratio, 1.0)) @ basis.T


def patches(places: np.ndarray, size: float) -> np.ndarray:
    """Which cube of this side each of places (N, 3) lies in, counted from zero."""
    cells = np.floor((places - places.min(axis=0)) / size + 0.5).astype(np.int64)
    across = cells.max(axis=0) + 1
    return np.unique((cells[:, 0] * across[1] + cells[:, 1]) * across[2] + cells[:, 2], return_inverse=True)[1]


def summed(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The sums of values (N, ...) with the same label (N,)."""
    order = np.argsort(label, kind="stable")
    return np.add.reduceat(values[order], np.flatnonzero(np.diff(label[order], prepend=-1)))


def _alike(m: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals (N, 3) turned to the side of others (N, 3), and the cosines between them."""
    cosine = np.einsum("ij,ij->i", m, n)
    return np.where(cosine[:, None] < 0, -m, m), np.abs(cosine).clip(max=1.0)


def row(arm: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """(N, 6) how far a twist about the centre moves points (N, 3) along axes (N, 3)."""
    return np.hstack([cross(arm, axis), axis])


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross products of (N, 3) and (N, 3); NumPy's own takes three times as long."""
    (x, y, z), (u, v, w) = a.T, b.T
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=1)
