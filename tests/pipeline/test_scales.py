"""Clouds of different scales: noticed unasked, and found where it is asked for, in exact and in noisy problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import deepgmr
from deepgmr.datasets.pairs.kinds import Case, cases
from deepgmr.errors import InvalidTransform, TimedOut
from deepgmr.geometry.procrustes import align_similar
from deepgmr.geometry.transform import scale_of, similarity_matrix
from deepgmr.io import CloudFile, read_cloud, transformed, write_cloud
from deepgmr.io.splats import components
from deepgmr.pipeline.judge import Status
from deepgmr.pipeline.scan import Pair, Scan
from deepgmr.pipeline.settings import Settings
from deepgmr.pipeline.stretch import stretch


def similarity(scale: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.random(rng=rng).as_matrix()
    matrix[:3, 3] = rng.normal(size=3)
    return matrix


def drawn(kind: str, count: int = 1, seed: int = 5) -> list[Case]:
    return list(cases(count, seed, kinds=[kind]))


def test_closed_form_is_umeyamas() -> None:
    """Against the gradient of the sum of squares, which vanishes at the least one, and against what is exact."""
    rng = np.random.default_rng(1)
    points, weights, truth = rng.normal(size=(30, 3)), rng.uniform(size=30), similarity(0.37)
    there = points @ truth[:3, :3].T + truth[:3, 3]
    scale, rotation, shift = align_similar(points, there, weights)
    np.testing.assert_allclose(scale * rotation, truth[:3, :3], atol=1e-13)
    np.testing.assert_allclose(shift, truth[:3, 3], atol=1e-13)
    noisy = there + 0.1 * rng.normal(size=there.shape)
    best = align_similar(points, noisy, weights)

    def cost(scale: float, turn: np.ndarray, shift: np.ndarray) -> float:
        turned = points @ (Rotation.from_rotvec(turn).as_matrix() @ best[1]).T
        return float(weights @ ((scale * turned + shift - noisy) ** 2).sum(axis=1))

    at = (best[0], np.zeros(3), best[2])
    for step in np.eye(7) * 1e-5:
        there_and_back = [cost(at[0] + s * step[0], s * step[1:4], at[2] + s * step[4:]) for s in (1, -1)]
        assert abs(there_and_back[0] - there_and_back[1]) / 2e-5 < 1e-6
        assert min(there_and_back) > cost(*at)


def test_frames_are_entered_and_left_by_similarities() -> None:
    rng = np.random.default_rng(2)
    source, target = (Scan.of(rng.normal(size=(500, 3)) * size + 7) for size in (0.01, 3.0))
    pair, truth = Pair(source, target).rescaled(300.0), similarity(300.0)
    np.testing.assert_allclose(pair.undo(pair.enter(truth)), truth, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(scale_of(pair.undo(pair.enter(truth), 1.1)), 330.0)
    scaled = source.scaled(300.0)
    np.testing.assert_allclose(
        scaled.heaps.means + scaled.origin, 300 * (source.heaps.means + source.origin), rtol=1e-12
    )
    assert scaled.scaled(1 / 300).factor == pytest.approx(1.0) and scaled.size == 300 * source.size


@pytest.mark.parametrize("factor", [0.94, 1.0, 1.08])
def test_the_fit_finds_the_factor_and_says_how_well(factor: float) -> None:
    """Thirty draws of noise: off by no more than is said, in the mean square."""
    rng, settings = np.random.default_rng(3), Settings()
    case, squares = drawn("resampled")[0], []
    source, target = case.source.double().numpy(), case.target.double().numpy()
    pair = Pair(Scan.of(source), Scan.of(target))
    motion = pair.enter(case.target_from_source).matrix.numpy()
    level = pair.levels()[1]
    for _ in range(12):
        some = rng.permutation(len(level))[: len(level) // 2]
        noise = 0.1 * level.spacing * rng.normal(size=(len(some), 3))
        moved = (level.points[some] + noise - motion[:3, 3]) @ motion[:3, :3] / factor
        found = stretch(
            type(level).of(moved, level.settings),
            type(level).of(np.delete(level.points, some, axis=0), level.settings),
            motion,
            2 * level.spacing * 2**0.5,
            settings.scale,
            same=settings.polish,
        )
        squares.append((np.log(found.factor / factor) / found.deviation) ** 2)
        assert abs(np.log(found.factor / factor)) < 0.02
    assert np.mean(squares) < 4


def test_a_plane_holds_no_scale() -> None:
    rng = np.random.default_rng(4)
    flat, settings = np.hstack([rng.uniform(-1, 1, (900, 2)), 1e-3 * rng.normal(size=(900, 1))]), Settings()
    scans = Pair(Scan.of(flat), Scan.of(flat + 1e-3 * rng.normal(size=flat.shape)))
    source, target = scans.levels()
    found = stretch(source, target, np.eye(4), 2 * source.spacing, settings.scale, same=settings.polish)
    assert found.deviation > 0.02


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_another_scale_is_noticed_unasked(factor: float) -> None:
    for case in drawn("noisy", 3) + drawn("room", 1):
        answer = deepgmr.register(factor * case.source, case.target)
        assert not answer.trusted and answer.confidence <= 0.5
        assert answer.status is Status.OTHER_SCALE
        assert answer.evidence.scale == pytest.approx(1 / factor, rel=0.04)
        assert any("times as large" in note for note in answer.notes)
        assert answer.scale == 1.0


def test_the_same_scale_is_not() -> None:
    for case in drawn("noisy", 3) + drawn("crop70", 3) + drawn("room", 1):
        answer = deepgmr.register(case.source, case.target)
        assert answer.status is not Status.OTHER_SCALE and answer.evidence.scale == 1.0


@pytest.mark.parametrize(
    ("scale", "units"), [(1000.0, "millimetres against metres"), (1 / 25.4, "millimetres against")]
)
def test_units_are_found_and_named(scale: float, units: str) -> None:
    case = drawn("clean")[0]
    source = case.source.double().numpy() / scale
    answer = deepgmr.register(source, case.target, estimate_scale=True)
    assert answer.trusted and answer.scale == pytest.approx(scale, rel=1e-6)
    np.testing.assert_allclose(scale_of(answer.target_from_source), answer.scale, rtol=1e-9)
    assert case.judge(answer.target_from_source @ np.diag([1 / scale, 1 / scale, 1 / scale, 1.0]) * np.ones((4, 4)))
    assert any(units in note for note in answer.notes)
    there = case.source.double().numpy() @ case.target_from_source[:3, :3].T + case.target_from_source[:3, 3]
    np.testing.assert_allclose(answer.moved(source), there, atol=1e-5)
    with pytest.raises(InvalidTransform, match="scale"):
        answer.motion()
    assert answer.to_dict()["scale"] == answer.scale


def test_parts_of_another_scale_are_found() -> None:
    right = 0
    for case, scale in zip(drawn("crop70 resampled", 4) + drawn("room", 1), (0.02, 0.7, 1.0, 3.0, 40.0), strict=True):
        answer = deepgmr.register(case.source.double().numpy() / scale, case.target, estimate_scale=True)
        right += abs(np.log(answer.scale / scale)) < 0.05
        assert not answer.trusted or abs(np.log(answer.scale / scale)) < max(0.03, 3 * answer.scale_deviation)
    assert right >= 4


def test_a_known_similarity_needs_no_search() -> None:
    case = drawn("crop70")[0]
    truth = case.target_from_source @ np.diag([20.0, 20.0, 20.0, 1.0])
    given = truth @ np.diag([1.03, 1.03, 1.03, 1.0])
    answer = deepgmr.register(case.source / 20, case.target, initial=given, estimate_scale=True)
    assert answer.scale == pytest.approx(20.0, rel=0.01) and answer.stats.looks == 0
    with pytest.raises(InvalidTransform, match="scale 20"):
        deepgmr.register(case.source / 20, case.target, initial=truth)


def test_a_scale_in_doubt_widens_what_is_far_off() -> None:
    """The translation of a far point is off by the way to it, times the deviation of the scale."""
    case = drawn("noisy")[0]
    answer = deepgmr.register(case.source, case.target, estimate_scale=True)
    assert answer.precision is not None and 0 < answer.scale_deviation < 0.02
    rigid = deepgmr.register(case.source, case.target)
    far = answer.precision.centre + np.array([0.0, 0.0, 1e4])
    more = answer.covariance_about(far)[5, 5] - rigid.covariance_about(far)[5, 5]
    assert more == pytest.approx((1e4 * answer.scale_deviation) ** 2, rel=0.2)


def test_no_time_is_named() -> None:
    case = drawn("crop70")[0]
    with pytest.raises(TimedOut, match="timeout"):
        deepgmr.register(case.source / 3, case.target, estimate_scale=True, timeout=1e-6)


def test_splats_and_normals_follow(tmp_path: Path) -> None:
    """Covariances of a splat scale by the square; normals stay unit."""
    rng = np.random.default_rng(5)
    cloud = CloudFile(
        rng.normal(size=(20, 3)),
        properties={
            **{f"scale_{i}": rng.normal(size=20).astype(np.float32) for i in range(3)},
            **{f"rot_{i}": rng.normal(size=20).astype(np.float32) for i in range(4)},
            "opacity": rng.normal(size=20).astype(np.float32),
            **dict(zip(("nx", "ny", "nz"), np.eye(3)[rng.integers(3, size=20)].T.astype(np.float32), strict=True)),
        },
    )
    motion = similarity(0.2)
    write_cloud(tmp_path / "moved.ply", transformed(cloud, motion))
    moved = read_cloud(tmp_path / "moved.ply")
    before, after = components(cloud.properties)[1], components(moved.properties)[1]
    np.testing.assert_allclose(after, motion[:3, :3] @ before @ motion[:3, :3].T, rtol=1e-3, atol=1e-5)
    normals = np.stack([moved.properties[name] for name in ("nx", "ny", "nz")], axis=1)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-6)


def test_what_is_no_similarity_is_refused() -> None:
    for wrong in (np.diag([2.0, 2.0, 1.0, 1.0]), np.diag([2.0, 2.0, -2.0, 1.0]), np.zeros((4, 4)), np.eye(3)):
        with pytest.raises(InvalidTransform, match="initial"):
            similarity_matrix(wrong, "initial")
