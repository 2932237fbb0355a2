"""Divergences in float64 NumPy, transcribed one term at a time from the papers. Slow, plain, and independent.

Nothing here imports the package. A Gaussian is (m, S); a mixture is (weights (J), means (J, d), covariances (J, d, d)).
Papers: HO = Hershey and Olsen, ICASSP 2007. GGG = Goldberger, Gordon and Greenspan, ICCV 2003. V = Vasconcelos, ICCV
2001. DTK = Durrieu, Thiran and Kelly, ICASSP 2012. BD = Bouhlel and Dziri, IEEE SPL 26(7), 2019. GAL = Gil, Alajaji and
Linder, Information Sciences 2013. N = Nielsen, Entropy 2019. DD = Delon and Desolneux, SIAM J. Imaging Sciences 2020.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import integrate, linalg, optimize, special

# -- problems ----------------------------------------------------------------------------------------------------


def random_covariances(rng, shape, d, condition=30.0):
    """Rotated covariances (*shape, d, d) of condition number up to `condition`."""
    q = np.linalg.qr(rng.normal(size=(*shape, d, d)))[0]
    spread = condition ** rng.uniform(-0.5, 0.5, size=(*shape, d)) * 0.1
    s = np.einsum("...ik,...k,...jk->...ij", q, spread, q)
    return (s + np.swapaxes(s, -1, -2)) / 2


def random_mixture(rng, batch, components, d, condition=30.0):
    weights = rng.dirichlet(np.full(components, 3.0), size=batch)
    return (
        weights,
        rng.normal(size=(*batch, components, d)),
        random_covariances(rng, (*batch, components), d, condition),
    )


# -- Gaussians ---------------------------------------------------------------------------------------------------


def log_normal(x, m, s):
    """log N(x; m, S)."""
    gap = np.asarray(x) - m
    return -0.5 * (gap @ np.linalg.solve(s, gap) + np.linalg.slogdet(2 * np.pi * np.asarray(s))[1])


def kl(m, s, n, t):
    """HO eq. 2."""
    gap = n - m
    trace = np.trace(np.linalg.solve(t, s))
    log_ratio = np.linalg.slogdet(t)[1] - np.linalg.slogdet(s)[1]
    return 0.5 * (log_ratio + trace - len(m) + gap @ np.linalg.solve(t, gap))


def entropy(s):
    return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * s)[1]


def renyi(m, s, n, t, a):
    """GAL, table 2, multivariate Gaussians: infinite unless a S_q + (1 - a) S_p is positive definite."""
    blend = a * t + (1 - a) * s
    if np.linalg.eigvalsh(blend)[0] <= 0:
        return math.inf
    gap = m - n
    logs = [np.linalg.slogdet(x)[1] for x in (blend, s, t)]
    return 0.5 * a * gap @ np.linalg.solve(blend, gap) - 0.5 / (a - 1) * (logs[0] - (1 - a) * logs[1] - a * logs[2])


def bhattacharyya(m, s, n, t):
    middle, gap = (s + t) / 2, m - n
    logs = [np.linalg.slogdet(x)[1] for x in (middle, s, t)]
    return gap @ np.linalg.solve(middle, gap) / 8 + 0.5 * (logs[0] - 0.5 * (logs[1] + logs[2]))


def geometric_jensen_shannon(m, s, n, t, a):
    """N, corollary for Gaussians: (1 - a) KL(p || g) + a KL(q || g) with g made explicitly."""
    ps, pt = np.linalg.inv(s), np.linalg.inv(t)
    g = np.linalg.inv((1 - a) * ps + a * pt)
    centre = g @ ((1 - a) * ps @ m + a * pt @ n)
    return (1 - a) * kl(m, s, centre, g) + a * kl(n, t, centre, g)


def wasserstein2_squared(m, s, n, t):
    """|m - n|^2 + tr(S + T - 2 (S^1/2 T S^1/2)^1/2), with scipy's matrix square root."""
    root = linalg.sqrtm(s).real
    cross = linalg.sqrtm(root @ t @ root).real
    return (m - n) @ (m - n) + np.trace(s + t - 2 * cross)


def frechet(x, y):
    """The FID formula with formed covariances (they must have full rank here)."""
    return wasserstein2_squared(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))


def sphere_moment(spectrum, power):
    """E (sum lambda_i u_i^2)^s on the circle or the sphere, by quadrature over angles."""
    if len(spectrum) == 2:
        value = integrate.quad(
            lambda a: (spectrum[0] * np.cos(a) ** 2 + spectrum[1] * np.sin(a) ** 2) ** power, 0, np.pi / 2, epsabs=1e-13
        )[0]
        return value * 2 / np.pi
    polar, weights = np.polynomial.legendre.leggauss(400)  # cos of the polar angle is uniform
    angles = (np.arange(4000) + 0.5) * 2 * np.pi / 4000
    flat = (1 - polar**2)[:, None] * (spectrum[0] * np.cos(angles) ** 2 + spectrum[1] * np.sin(angles) ** 2)[None]
    return float(((flat + spectrum[2] * (polar**2)[:, None]) ** power).mean(1) @ weights / 2)


def kl_generalized(s, beta_p, t, beta_q):
    """BD, their main result, with the Lauricella function replaced by the expectation it stands for."""
    p = len(s)
    spectrum = linalg.eigvalsh(s, t)
    first = math.log(
        beta_p
        * np.linalg.det(s) ** -0.5
        * special.gamma(p / (2 * beta_q))
        / (beta_q * np.linalg.det(t) ** -0.5 * special.gamma(p / (2 * beta_p)))
    )
    second = p / 2 * (1 / beta_q - 1 / beta_p) * math.log(2) - p / (2 * beta_p)
    third = (
        2 ** (beta_q / beta_p - 1) * special.gamma(beta_q / beta_p + p / (2 * beta_p)) / special.gamma(p / (2 * beta_p))
    )
    return first + second + third * sphere_moment(spectrum, beta_q)


# -- mixtures ----------------------------------------------------------------------------------------------------


def log_density(x, f):
    return special.logsumexp([np.log(w) + log_normal(x, m, s) for w, m, s in zip(*f, strict=True)])


def component_kl(f, g):
    return np.array(
        [[kl(m, s, n, t) for n, t in zip(g[1], g[2], strict=True)] for m, s in zip(f[1], f[2], strict=True)]
    )


def component_overlap(f, g):
    """z and t of HO section 5: integrals of products of components."""
    return np.exp(
        [[log_normal(m, n, s + t) for n, t in zip(g[1], g[2], strict=True)] for m, s in zip(f[1], f[2], strict=True)]
    )


def unscented(f, g):
    """GGG, unscented approximation; HO section 3: sigma points m +- sqrt(d lambda_k) e_k."""
    d, total = f[1].shape[1], 0.0
    for w, m, s in zip(*f, strict=True):
        values, vectors = np.linalg.eigh(s)
        for k in range(d):
            for sign in (-1, 1):
                x = m + sign * np.sqrt(d * values[k]) * vectors[:, k]
                total += w / (2 * d) * (log_density(x, f) - log_density(x, g))
    return total


def moments(f):
    mean = f[0] @ f[1]
    gap = f[1] - mean
    return mean, np.einsum("j,jik->ik", f[0], f[2]) + np.einsum("j,ji,jk->ik", f[0], gap, gap)


def moment_matched(f, g):
    """HO section 4."""
    return kl(*moments(f), *moments(g))


def product(f, g):
    """HO section 5."""
    return float(f[0] @ np.log((component_overlap(f, f) @ f[0]) / (component_overlap(f, g) @ g[0])))


def vasconcelos(f, g):
    """V, the asymptotic likelihood approximation of both expectations; nearest in Mahalanobis distance less log weight."""
    total, divergence = 0.0, component_kl(f, g)
    for a in range(len(f[0])):
        distance = [
            (f[1][a] - g[1][b]) @ np.linalg.solve(g[2][b], f[1][a] - g[1][b]) - np.log(g[0][b])
            for b in range(len(g[0]))
        ]
        b = int(np.argmin(distance))
        total += f[0][a] * (np.log(f[0][a] / g[0][b]) + divergence[a, b])
    return total


def matched(f, g):
    """GGG, matching approximation: pi(a) = argmin_b KL(f_a || g_b) - log w_b."""
    divergence = component_kl(f, g)
    return sum(w * (np.log(w) + np.min(divergence[a] - np.log(g[0]))) for a, w in enumerate(f[0]))


def matched_soft(f, g):
    return float(f[0] @ (np.log(f[0]) - np.log(np.exp(-component_kl(f, g)) @ g[0])))


def partial(f, g, background):
    """Each component explained by its nearest or by the background, one at a time, in logarithms."""
    largest = np.log1p(background)
    return sum(
        w * (largest - np.logaddexp(-np.min(row), np.log(background)))
        for w, row in zip(f[0], component_kl(f, g), strict=True)
    )


def counterparts(f, g, background):
    """The mixture (r + beta f) / (1 + beta), r the components of g nearest to those of f under the weights of f."""
    nearest = component_kl(f, g).argmin(1)
    weights = np.concatenate([f[0], background * f[0]]) / (1 + background)
    return weights, np.concatenate([g[1][nearest], f[1]]), np.concatenate([g[2][nearest], f[2]])


def oriented(x, m, y, n, sigma, sigma_normal):
    """KL in R^6 of places and normals, for the better of the two signs of the second normal."""
    s = np.diag([sigma**2] * 3 + [sigma_normal**2] * 3)
    return min(kl(np.concatenate([x, m]), s, np.concatenate([y, sign * n]), s) for sign in (-1, 1))


def variational(f, g):
    """HO eq. 20."""
    return float(f[0] @ np.log((np.exp(-component_kl(f, f)) @ f[0]) / (np.exp(-component_kl(f, g)) @ g[0])))


def variational_upper(f, g, iterations):
    """HO section 8: phi and psi as plain numbers, updated in turn."""
    divergence = component_kl(f, g)
    psi = np.outer(f[0], g[0])
    phi = psi * np.exp(-divergence)
    phi *= (f[0] / phi.sum(1))[:, None]
    for _ in range(iterations - 1):
        shared = phi.sum(0) > 0  # shares too small for a float64 are no shares
        psi = np.where(shared, g[0] * phi / np.where(shared, phi.sum(0), 1), 0)
        phi = psi * np.exp(-divergence)
        phi *= (f[0] / phi.sum(1))[:, None]
    return float(special.rel_entr(phi, psi).sum() + (phi * divergence).sum())


def durrieu_lower(f, g):
    """DTK: variational lower bound of E log f, less Jensen's upper bound of E log g."""
    entropies = np.array([entropy(s) for s in f[2]])
    likelihood = np.log(np.exp(-component_kl(f, f)) @ f[0]) - entropies
    return float(f[0] @ (likelihood - np.log(component_overlap(f, g) @ g[0])))


def durrieu_upper(f, g):
    """DTK: Jensen's upper bound of E log f, less the variational lower bound of E log g."""
    entropies = np.array([entropy(s) for s in f[2]])
    likelihood = np.log(np.exp(-component_kl(f, g)) @ g[0]) - entropies
    return float(f[0] @ (np.log(component_overlap(f, f) @ f[0]) - likelihood))


def durrieu(f, g):
    return 0.5 * (durrieu_lower(f, g) + durrieu_upper(f, g))


def same_index(f, g):
    return float(f[0] @ (np.log(f[0] / g[0]) + np.diag(component_kl(f, g))))


def cauchy_schwarz(f, g):
    cross, one, other = (a[0] @ component_overlap(a, b) @ b[0] for a, b in ((f, g), (f, f), (g, g)))
    return -math.log(cross / math.sqrt(one * other))


def l2_squared(f, g):
    cross, one, other = (a[0] @ component_overlap(a, b) @ b[0] for a, b in ((f, g), (f, f), (g, g)))
    return one + other - 2 * cross


def mixture_wasserstein2(f, g):
    """DD, the discrete formulation, as a dense linear programme in its dual (the package solves the primal)."""
    cost = np.array(
        [
            [wasserstein2_squared(m, s, n, t) for n, t in zip(g[1], g[2], strict=True)]
            for m, s in zip(f[1], f[2], strict=True)
        ]
    )
    j, k = cost.shape
    rows = np.zeros((j * k, j + k))
    for a in range(j):
        for b in range(k):
            rows[a * k + b, a] = rows[a * k + b, j + b] = 1
    found = optimize.linprog(-np.concatenate([f[0], g[0]]), A_ub=rows, b_ub=cost.ravel(), bounds=(None, None))
    return math.sqrt(max(0.0, -found.fun))


# -- histograms and samples --------------------------------------------------------------------------------------


def kl_histogram(p, q):
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += a * math.log(a / b) if b > 0 else math.inf
    return total


def mmd(x, y, bandwidth, biased):
    """Gretton et al. 2012, eq. 3 and eq. 5."""

    def kernel(a, b):
        return math.exp(-((a - b) @ (a - b)) / (2 * bandwidth**2))

    n, m = len(x), len(y)
    one = sum(kernel(a, b) for i, a in enumerate(x) for k, b in enumerate(x) if biased or i != k)
    other = sum(kernel(a, b) for i, a in enumerate(y) for k, b in enumerate(y) if biased or i != k)
    cross = sum(kernel(a, b) for a in x for b in y)
    if biased:
        return one / n**2 + other / m**2 - 2 * cross / (n * m)
    return one / (n * (n - 1)) + other / (m * (m - 1)) - 2 * cross / (n * m)
