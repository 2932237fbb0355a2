"""Scans of procedural things into one frame: the truth is known exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from problems_alignment import views
from scipy.spatial.transform import Rotation

import deepgmr
from deepgmr.alignment import Alignment, AlignmentSettings
from deepgmr.errors import Cancelled, InvalidCloud, InvalidConfig, InvalidFile, InvalidInput

SCANS, POSES = views(6, 5, degrees=30.0)
OTHERS, _ = views(7, 2, degrees=30.0)


@pytest.fixture(scope="module")
def found() -> Alignment:
    return deepgmr.align([*SCANS, *OTHERS])


def off(found: Alignment, scan: int, first: int) -> tuple[float, float]:
    """Degrees and the way of the scan's middle, against the truth."""
    true = np.linalg.inv(POSES[first]) @ POSES[scan]
    turn = true[:3, :3].T @ found.poses[scan][:3, :3]
    middle = np.append(SCANS[scan].mean(axis=0), 1.0)
    way = np.linalg.norm((found.poses[scan] - true) @ middle)
    return float(np.degrees(Rotation.from_matrix(turn).magnitude())), float(way)


def test_scans_come_into_one_frame_and_another_thing_into_its_own(found: Alignment) -> None:
    assert found.components == ((0, 1, 2, 3, 4), (5, 6))
    assert found.component.tolist() == [0, 0, 0, 0, 0, 1, 1] and not found.trusted()
    np.testing.assert_array_equal(found.poses[0], np.eye(4))
    np.testing.assert_array_equal(found.poses[5], np.eye(4))
    for scan in range(1, 5):
        degrees, way = off(found, scan, 0)
        assert degrees < 2 and way < 0.03, "of a thing of size two"
        assert found.confidence[scan] > 0.9
    assert np.isfinite(found.poses).all() and (np.abs(found.poses[:, 3] - [0, 0, 0, 1]) == 0).all()
    assert len(found.sketches) == 7


def test_covariances_are_against_the_first_scan_and_about_any_point(found: Alignment) -> None:
    assert found.covariances.shape == (7, 6, 6)
    assert not found.covariances[0].any() and not found.covariances[5].any()
    for scan in (1, 2, 3, 4, 6):
        assert np.linalg.eigvalsh(found.covariances[scan]).min() > 0
        middle = found.poses[scan] @ np.append((SCANS + OTHERS)[scan].mean(axis=0), 1.0)
        about = found.covariance_about(scan, middle[:3])
        assert 1e-4 < np.sqrt(np.trace(about[3:, 3:])) < 0.2 and np.sqrt(np.trace(about[:3, :3])) < 0.2
    with pytest.raises(InvalidConfig, match="scan must be a number from 0 to 6"):
        found.covariance_about(7, np.zeros(3))


def test_every_pair_that_was_tried_is_told(found: Alignment) -> None:
    for edge in found.edges:
        assert edge.first != edge.second and 0 <= edge.probability <= 1 and edge.why
        same = found.component[edge.first] == found.component[edge.second]
        assert same or not edge.accepted
        if edge.accepted:
            assert edge.motion is not None
            between = np.linalg.inv(found.poses[edge.first]) @ found.poses[edge.second]
            turn = between[:3, :3].T @ edge.motion[:3, :3]
            assert np.degrees(Rotation.from_matrix(turn).magnitude()) < 15
    assert sum(edge.accepted for edge in found.edges) >= 5
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(told["scans"]) == 7 and len(told["edges"]) == len(found.edges)


def test_the_order_of_the_scans_means_nothing(found: Alignment) -> None:
    order = [3, 5, 0, 4, 6, 2, 1]
    scans = [*SCANS, *OTHERS]
    again = deepgmr.align([scans[number] for number in order])
    assert again.components == ((0, 2, 3, 5, 6), (1, 4))
    for row, number in enumerate(order[:1] + order[2:4] + order[5:]):
        place = order.index(number)
        expected = np.linalg.inv(found.poses[3]) @ found.poses[number]
        np.testing.assert_allclose(again.poses[place], expected, atol=1e-5, err_msg=str(row))
        assert again.confidence[place] == pytest.approx(found.confidence[number], abs=1e-9)


def test_the_same_scan_twice_lies_on_itself() -> None:
    found = deepgmr.align([SCANS[0], SCANS[0], SCANS[1]])
    assert found.components == ((0, 1, 2),)
    np.testing.assert_allclose(found.poses[1], np.eye(4), atol=1e-3)


def test_a_budget_is_kept_and_progress_can_stop() -> None:
    assert len(deepgmr.align(SCANS, budget=2).edges) == 2
    told = []
    deepgmr.align(SCANS[:2], progress=lambda stage, done: told.append((stage, done)))
    assert told[0][0] == "reading" and any("registering" in stage for stage, _ in told)
    with pytest.raises(Cancelled):
        deepgmr.align(SCANS[:2], progress=lambda stage, done: False)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="at least two scans to put into one frame, got 1"):
        deepgmr.align(SCANS[:1])
    with pytest.raises(InvalidInput, match="must be a list of clouds or paths, got str"):
        deepgmr.align("scans")  # type: ignore[arg-type]
    with pytest.raises(InvalidFile, match=r"gone\.ply"):
        deepgmr.align([SCANS[0], tmp_path / "gone.ply"])
    with pytest.raises(InvalidCloud, match="scan 1"):
        deepgmr.align([SCANS[0], np.full((50, 3), np.nan)])
    with pytest.raises(InvalidConfig, match="budget"):
        deepgmr.align(SCANS, budget=0)
    with pytest.raises(InvalidConfig, match=r"alignment\.least"):
        AlignmentSettings(least=1.5)
    with pytest.raises(InvalidConfig, match="lest"):
        AlignmentSettings().replace(lest=0.5)


def test_things_far_from_the_origin_lose_nothing(found: Alignment) -> None:
    away = np.array([4e5, 5e6, 100.0])
    moved = deepgmr.align([SCANS[0] + away, SCANS[1] + away])
    near = deepgmr.align([SCANS[0], SCANS[1]])
    shift = np.eye(4)
    shift[:3, 3] = away
    np.testing.assert_allclose(np.linalg.inv(shift) @ moved.poses[1] @ shift, near.poses[1], atol=1e-2)
    assert moved.confidence == pytest.approx(near.confidence, abs=1e-2)
    assert near.confidence[0] == near.confidence[1] == pytest.approx(min(near.edges[0].confidence, 0.99))


def test_a_page_shows_it(found: Alignment, tmp_path: Path) -> None:
    names = [f"<b>{number}</b>.ply" for number in range(7)]
    found.report(tmp_path / "page.html", names=names)
    text = (tmp_path / "page.html").read_text()
    assert "5 of 7 scans in one frame" in text and "&lt;b&gt;3&lt;/b&gt;.ply" in text and "<b>" not in text
    assert text.count("data:image/png;base64") == 2 and text.count("<tr class=") == len(found.edges)
    found.report(tmp_path / "again.html", names=names)
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "page.html").read_bytes()
