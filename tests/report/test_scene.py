"""The scene says of the clouds what is true of them."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepgmr import Registrar, Registration, Trace
from deepgmr.errors import InvalidInput
from deepgmr.io import read_cloud
from deepgmr.report.scene import Scene, moved, spacing, view_axes, widest_view


def test_a_small_cloud_is_drawn_whole(sampled: Registration, sample_clouds: tuple[np.ndarray, np.ndarray]) -> None:
    scene = Scene.of(sampled)
    for cloud, points in zip((scene.source, scene.target), sample_clouds, strict=True):
        assert cloud.total == len(cloud.points) == len(points) and not cloud.thinned
        distance, _ = cKDTree(points).query(cloud.points + cloud.origin)
        assert distance.max() < 1e-9


def test_a_large_cloud_is_thinned_to_means(sampled: Registration) -> None:
    scene = Scene.of(sampled, points=2000)
    assert scene.source.thinned and scene.source.total == 12_000
    assert 1000 < len(scene.source.points) < 4000


def test_poses_are_those_of_the_answer(boxes: Registration) -> None:
    scene = Scene.of(boxes)
    assert len(scene.poses) == 1 + len(boxes.alternatives) > 1
    for pose, matrix in zip(
        scene.poses, [boxes.target_from_source, *(a.target_from_source for a in boxes.alternatives)], strict=True
    ):
        np.testing.assert_array_equal(pose.matrix, matrix)
        inside = moved(pose.motion, scene.source.points) + scene.target.origin
        np.testing.assert_allclose(inside, moved(matrix, scene.source.points + scene.source.origin), atol=1e-6)
    assert scene.answer.overlap == boxes.overlap
    assert [pose.score for pose in scene.poses] == [boxes.score, *(a.score for a in boxes.alternatives)]
    assert scene.moved_nearer > 1e6 and np.linalg.norm(scene.before[:3, 3]) < 20


def test_residuals_are_distances_to_the_surface(boxes: Registration) -> None:
    scene = Scene.of(boxes)
    distance, _ = cKDTree(scene.target.points).query(moved(scene.answer.motion, scene.source.points))
    assert (scene.answer.source_gaps <= distance + 1e-9)[np.isfinite(scene.answer.source_gaps)].all()
    assert ((distance <= scene.reach) == np.isfinite(scene.answer.source_gaps)).all()
    assert np.median(scene.answer.gaps) < 1e-3  # both samplings lie on the same faces


def test_matches_that_agree_carried_the_answer(sampled: Registration) -> None:
    scene = Scene.of(sampled)
    source, target = scene.match_ends
    assert len(source) == len(target) == len(scene.match_tolerance) <= scene.matches_proposed
    agrees = scene.agreeing(scene.answer)
    gap = np.linalg.norm(moved(scene.answer.motion, source) - target, axis=1)
    assert 10 < agrees.sum() < len(agrees)
    assert gap[agrees].max() < gap[~agrees].min()


def test_components_are_the_mixture(sampled: Registration) -> None:
    cloud, level = Scene.of(sampled).source, sampled.search.levels[0]
    scale = sampled.search.pair.scale
    np.testing.assert_allclose(cloud.components, scale * level.mixture.means.numpy())
    np.testing.assert_allclose(cloud.axes @ cloud.axes, scale**2 * level.mixture.covariances.numpy(), atol=1e-12)


def test_without_a_trace_there_is_nothing_to_show(sampled: Registration) -> None:
    with pytest.raises(InvalidInput, match=r"trace=deepgmr\.Trace\(\)"):
        Scene.of(dataclasses.replace(sampled, search=None))


def test_an_answer_keeps_its_search_only_when_asked(sample_clouds: tuple[np.ndarray, np.ndarray]) -> None:
    registrar, kept = Registrar.load("default", preset="fast"), Trace()
    without, with_it = registrar.register(*sample_clouds), registrar.register(*sample_clouds, trace=kept)
    assert without.search is None and with_it.search is kept.search
    assert without.to_dict().keys() == with_it.to_dict().keys() and "search" not in without.to_dict()
    assert without.sketch is not None and sum(part.nbytes for part in without.sketch) < 50_000


def test_an_answer_travels_without_its_search(boxes: Registration) -> None:
    again = pickle.loads(pickle.dumps(boxes))
    assert again.search is None and again.to_dict() == boxes.to_dict() and "<img" in again._repr_html_()


def test_the_view_is_a_right_handed_frame() -> None:
    right, up, out = view_axes(0.7, 0.3)
    np.testing.assert_allclose(np.cross(right, up), out, atol=1e-12)
    assert up[2] > 0 and right[2] == 0


def test_a_plate_is_seen_from_its_broad_side() -> None:
    plate = np.random.default_rng(0).uniform(-1, 1, (500, 3)) * (1.0, 0.01, 1.0)
    azimuth, _ = widest_view(plate)
    assert abs(np.sin(azimuth)) > 0.7  # along y, more or less


def test_spacing_is_that_of_a_grid() -> None:
    x, y = np.meshgrid(np.arange(200.0), np.arange(200.0))
    assert 0.8 < spacing(np.column_stack([x.ravel(), y.ravel(), 0 * x.ravel()])) < 1.3


@pytest.fixture(scope="module")
def sample_clouds(sample) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    source, target = (read_cloud(sample / f"sample_{role}.ply").points for role in ("source", "target"))
    return source, target
