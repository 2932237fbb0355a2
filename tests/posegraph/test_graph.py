"""The pose graph against poses that are known, and against scipy on the same sum of squares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from deepgmr.posegraph.graph import Edge, optimised, right_from_left, typical

RNG = np.random.default_rng(5)


def pose(rotation: np.ndarray, place: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_rotvec(rotation).as_matrix(), place
    return matrix


def moved(matrix: np.ndarray, twist: np.ndarray) -> np.ndarray:
    """A small right perturbation, rotation and place apart."""
    return matrix @ pose(twist[:3], twist[3:])


def ring(count: int) -> np.ndarray:
    """Poses around a circle, looking along it."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.array([pose(np.array([0, 0, a]), 20 * np.array([np.cos(a), np.sin(a), 0.1 * a])) for a in angles])


def between(poses: np.ndarray, first: int, second: int) -> np.ndarray:
    return np.linalg.inv(poses[first]) @ poses[second]


def chained(edges: list[Edge], start: np.ndarray) -> np.ndarray:
    poses = [start]
    for edge in edges:
        poses.append(poses[-1] @ edge.motion)
    return np.array(poses)


def test_what_agrees_is_found_exactly() -> None:
    truth, covariance = ring(12), np.diag([1e-4] * 3 + [1e-2] * 3)
    edges = [Edge(i, i + 1, between(truth, i, i + 1), covariance) for i in range(11)]
    edges.append(Edge(0, 11, between(truth, 0, 11), covariance, loop=True))
    start = np.array([moved(each, 0.05 * RNG.normal(size=6)) for each in truth])
    start[0] = truth[0]
    np.testing.assert_allclose(optimised(start, edges, rounds=20, robust=3.0), truth, atol=1e-8)


def test_the_least_sum_of_squares_is_scipys() -> None:
    truth, covariance = ring(6), np.diag([1e-4, 2e-4, 3e-4, 1e-2, 2e-2, 5e-3])
    edges = [
        Edge(i, i + 1, moved(between(truth, i, i + 1), RNG.multivariate_normal(np.zeros(6), covariance)), covariance)
        for i in range(5)
    ]
    start = chained(edges, truth[0])
    edges.append(Edge(0, 5, between(truth, 0, 5), covariance / 10, loop=True))

    def residuals(free: np.ndarray) -> np.ndarray:
        poses = [start[0], *(moved(a, b) for a, b in zip(start[1:], free.reshape(-1, 6), strict=True))]
        found = []
        for edge in edges:
            off = np.linalg.inv(edge.motion) @ np.linalg.inv(poses[edge.first]) @ poses[edge.second]
            turn = Rotation.from_matrix(off[:3, :3]).as_rotvec()
            angle = np.linalg.norm(turn)
            k = np.cross(np.eye(3), turn) * -1
            share = 1 / 12 if angle < 1e-4 else (1 - angle / 2 / np.tan(angle / 2)) / angle**2
            rho = (np.eye(3) - k / 2 + share * k @ k) @ off[:3, 3]  # the logarithm of a rigid motion
            found.append(np.linalg.solve(np.linalg.cholesky(edge.covariance), np.concatenate([turn, rho])))
        return np.concatenate(found)

    best = least_squares(residuals, np.zeros(30), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    found = optimised(start, edges, rounds=50, robust=1e9)
    off = np.array([np.linalg.inv(a) @ b for a, b in zip(start[1:], found[1:], strict=True)])
    ours = np.concatenate([Rotation.from_matrix(off[:, :3, :3]).as_rotvec(), off[:, :3, 3]], axis=1)
    assert residuals(ours.ravel()) @ residuals(ours.ravel()) == pytest.approx(2 * best.cost, rel=1e-3)
    assert 2 * best.cost < 0.5 * np.sum(residuals(np.zeros(30)) ** 2)


def test_a_wrong_loop_bends_little() -> None:
    truth, covariance = ring(12), np.diag([1e-4] * 3 + [1e-2] * 3)
    edges = [Edge(i, i + 1, between(truth, i, i + 1), covariance) for i in range(11)]
    wrong = Edge(0, 11, between(truth, 0, 11) @ pose(np.zeros(3), np.array([30.0, 0, 0])), covariance / 10, loop=True)
    bent = optimised(truth, [*edges, wrong], rounds=50, robust=3.0)
    trusting = optimised(truth, [*edges, wrong], rounds=50, robust=1e9)
    off, worse = (np.linalg.norm(each[:, :3, 3] - truth[:, :3, 3], axis=1).max() for each in (bent, trusting))
    assert off < 0.1 * worse and worse > 5


def test_covariances_change_sides() -> None:
    root = RNG.normal(size=(6, 6)) * 1e-3
    motion, left = pose(np.array([0.3, -1.0, 0.5]), np.array([4.0, -2.0, 1.0])), root @ root.T
    xi = RNG.multivariate_normal(np.zeros(6), left, size=60_000)
    turned = Rotation.from_rotvec(xi[:, :3]).as_matrix()
    place = np.einsum("nij,j->ni", turned, motion[:3, 3]) + xi[:, 3:]
    back = motion[:3, :3].T
    right = np.concatenate(
        [Rotation.from_matrix(back @ turned @ motion[:3, :3]).as_rotvec(), (place - motion[:3, 3]) @ back.T], axis=1
    )
    found = right_from_left(left, motion)
    scale = np.sqrt(np.outer(np.diag(found), np.diag(found)))
    np.testing.assert_allclose(np.cov(right.T) / scale, found / scale, atol=0.03)


def test_how_far_edges_are_off_is_told_in_their_own_deviations() -> None:
    truth, covariance = ring(30), np.diag([1e-4, 2e-4, 3e-4, 1e-2, 2e-2, 5e-3])
    for share in (0.2, 0.6):
        edges = [
            Edge(
                i,
                j,
                moved(between(truth, i, j), RNG.multivariate_normal(np.zeros(6), share**2 * covariance)),
                covariance,
                loop=True,
            )
            for i in range(30)
            for j in range(i + 1, 30)
        ]
        found = optimised(truth, edges, rounds=50, robust=3.0)
        assert typical(found, edges) == pytest.approx(share, rel=0.15)
    assert typical(truth[:2], edges[:1]) == 1.0, "nothing closes"
