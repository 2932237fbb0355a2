"""The mathematics once more, slow and plain, in float64 NumPy: what the package is compared with.

Nothing here imports the package. One problem at a time, loops where a formula has a sum, equation numbers where
a paper has one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import expm
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

# -- rigid motions ---------------------------------------------------------------------------------------------


def skew(v: np.ndarray) -> np.ndarray:
    """[v]_x, so that skew(v) @ b = v x b."""
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def se3_exp(twist: np.ndarray) -> np.ndarray:
    """The 4x4 exponential of (rotation vector, translation part), by the matrix exponential itself."""
    generator = np.zeros((4, 4))
    generator[:3, :3] = skew(twist[:3])
    generator[:3, 3] = twist[3:]
    return expm(generator)


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """Radians between two rotations, exact for small angles too: |a - b|_F = 2 sqrt(2) sin(angle / 2)."""
    return float(2 * np.arcsin(min(1.0, np.linalg.norm(a - b) / np.sqrt(8))))


# -- weighted Procrustes ---------------------------------------------------------------------------------------


def procrustes_cost(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray, rotation: np.ndarray, translation: np.ndarray
) -> float:
    """sum_j w_j ||R s_j + t - q_j||^2."""
    return sum(
        float(w * np.sum((rotation @ s + translation - q) ** 2))
        for s, q, w in zip(source, target, weights, strict=True)
    )


def procrustes(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation, translation and signed singular values: Umeyama 1991, eq. 38-43 with weights, LAPACK's SVD.

    The transparent twin of the package's Jacobi solver.
    """
    share = weights / weights.sum()
    source_centre, target_centre = share @ source, share @ target
    cross = (target - target_centre).T @ np.diag(share) @ (source - source_centre)
    u, s, vt = np.linalg.svd(cross)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    return rotation, target_centre - rotation @ source_centre, s * np.diag(flip)


def procrustes_negated(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rotation of a wrong recipe that is often seen: a reflection 'repaired' by negating the whole matrix."""
    share = weights / weights.sum()
    cross = (target - share @ target).T @ np.diag(share) @ (source - share @ source)
    u, _, vt = np.linalg.svd(cross)
    return u @ vt * np.sign(np.linalg.det(u @ vt))


def procrustes_2020(
    source: np.ndarray, target: np.ndarray, pi: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The solver as DeepGMR's released code has it: centroids by pi alone, cross-covariance by pi / sigma^2.

    Yuan et al., ECCV 2020, eq. 9-10 ask for one weight in both places.
    """
    source_centre, target_centre = pi @ source, pi @ target
    cross = (target - target_centre).T @ np.diag(pi / variances) @ (source - source_centre)
    u, _, vt = np.linalg.svd(cross)
    rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    return rotation, target_centre - rotation @ source_centre


# -- divergences over the motion -------------------------------------------------------------------------------


def kl_gaussian(mean_p: np.ndarray, cov_p: np.ndarray, mean_q: np.ndarray, cov_q: np.ndarray) -> float:
    """KL(N_p || N_q) in nats (Hershey and Olsen 2007, eq. 2)."""
    difference = mean_q - mean_p
    _, log_p = np.linalg.slogdet(cov_p)
    _, log_q = np.linalg.slogdet(cov_q)
    inverse = np.linalg.inv(cov_q)
    return float(0.5 * (log_q - log_p + np.trace(inverse @ cov_p) - len(mean_p) + difference @ inverse @ difference))


Mixture = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights (J), means (J, 3), covariances (J, 3, 3)


def same_index_bound(source: Mixture, target: Mixture, matrix: np.ndarray) -> float:
    """sum_j pi_j [log(pi_j / omega_j) + KL(N(R mu_j + t, R S_j R^T) || N(nu_j, Q_j))], the matched-pair bound.

    Do 2003, eq. 8; Yuan et al., ECCV 2020, eq. 7.
    """
    rotation, translation = matrix[:3, :3], matrix[:3, 3]
    total = 0.0
    for pi, mu, s, omega, nu, q in zip(*source, *target, strict=True):
        divergence = kl_gaussian(rotation @ mu + translation, rotation @ s @ rotation.T, nu, q)
        total += pi * (np.log(pi / omega) + divergence)
    return float(total)


def gradient_at(function: Callable[[np.ndarray], float], matrix: np.ndarray, *, step: float = 1e-6) -> np.ndarray:
    """The gradient (6) of a function of a 4x4 motion in a left perturbation exp(twist) @ matrix, by differences."""
    out = np.zeros(6)
    for k in range(6):
        e = np.zeros(6)
        e[k] = step
        out[k] = (function(se3_exp(e) @ matrix) - function(se3_exp(-e) @ matrix)) / (2 * step)
    return out


def hessian_at(function: Callable[[np.ndarray], float], matrix: np.ndarray, *, step: float = 1e-3) -> np.ndarray:
    """The Hessian (6, 6) in a left perturbation, by central differences of fourth order in the step."""

    def second(h: float) -> np.ndarray:
        out = np.zeros((6, 6))
        eye = h * np.eye(6)
        for i in range(6):
            for j in range(6):
                corners = [
                    sign_i * sign_j * function(se3_exp(sign_i * eye[i] + sign_j * eye[j]) @ matrix)
                    for sign_i in (1, -1)
                    for sign_j in (1, -1)
                ]
                out[i, j] = sum(corners) / (4 * h * h)
        return out

    return (4 * second(step) - second(2 * step)) / 3  # Richardson


# -- mixtures --------------------------------------------------------------------------------------------------


def log_density(mixture: Mixture, points: np.ndarray) -> np.ndarray:
    """log sum_j pi_j N(x; mu_j, S_j) of points (N, d), through scipy."""
    return logsumexp(joint_log_density(mixture, points), axis=1)


def joint_log_density(mixture: Mixture, points: np.ndarray) -> np.ndarray:
    """log(pi_j N(x; mu_j, S_j)) as (N, J); -inf for an empty component."""
    with np.errstate(divide="ignore"):
        columns = [
            np.log(pi) + np.atleast_1d(multivariate_normal(mu, cov).logpdf(points))
            for pi, mu, cov in zip(*mixture, strict=True)
        ]
    return np.stack(columns, axis=1)


def moments(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a mixture: the laws of total expectation and total variance."""
    weights, means, covariances = mixture
    mean = sum(w * m for w, m in zip(weights, means, strict=True))
    total = sum(w * (c + np.outer(m - mean, m - mean)) for w, m, c in zip(weights, means, covariances, strict=True))
    return np.asarray(mean), np.asarray(total)


def maximisation(points: np.ndarray, responsibilities: np.ndarray, point_weights: np.ndarray | None = None) -> Mixture:
    """The M-step (Dempster, Laird and Rubin 1977; Bishop 2006, eq. 9.24-9.26), point by point, no floor.

    Every component must hold some mass.
    """
    n, d = points.shape
    share = np.full(n, 1 / n) if point_weights is None else point_weights / point_weights.sum()
    weights, means, covariances = [], [], []
    for j in range(responsibilities.shape[1]):
        mass = sum(share[i] * responsibilities[i, j] for i in range(n))
        mean = sum(share[i] * responsibilities[i, j] * points[i] for i in range(n)) / mass
        cov = np.zeros((d, d))
        for i in range(n):
            cov += share[i] * responsibilities[i, j] * np.outer(points[i] - mean, points[i] - mean)
        weights.append(mass)
        means.append(mean)
        covariances.append(cov / mass)
    total = np.array(weights)
    return total / total.sum(), np.array(means), np.array(covariances)


# -- how two surfaces meet ---------------------------------------------------------------------------------------


def local_gaps(points: np.ndarray) -> np.ndarray:
    """(N,) the mean distance to the four nearest others, in proportion: their median is the median nearest distance."""
    distances = np.sort(np.linalg.norm(points[:, None] - points[None], axis=-1), axis=1)
    mean = distances[:, 1:5].mean(axis=1)
    return np.asarray(mean * np.median(distances[:, 1]) / np.median(mean))


def met(
    moved: np.ndarray, gaps: np.ndarray, target: np.ndarray, target_gaps: np.ndarray, spacing: float, stretch: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of moved points (N, 3): how far the nearest target point is, in units of what is usual there, and which it is."""
    far, nearest = np.empty(len(moved)), np.empty(len(moved), dtype=int)
    for i, point in enumerate(moved):
        distances = np.linalg.norm(target - point, axis=1)
        k = int(distances.argmin())
        usual = min(max(gaps[i], target_gaps[k], spacing), stretch * spacing)
        far[i], nearest[i] = distances[k] / usual, k
    return far, nearest


def contradiction(seen: np.ndarray, points: np.ndarray, patch: int) -> float:
    """The mean of 4 p (1 - p), p the share seen (N,) among each of points (N, 3) and its nearest others."""
    total = 0.0
    for point in points:
        near = np.argsort(np.linalg.norm(points - point, axis=1), kind="stable")[:patch]
        p = seen[near].mean()
        total += 4 * p * (1 - p)
    return total / len(points)
