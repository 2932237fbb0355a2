"""Many scans beside the peers: what is judged, and the study at a tiny size."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from deepgmr.datasets.suites.gathered import scans_of
from deepgmr.datasets.worlds.gatherings import Gathering, building, turntable
from deepgmr.errors import InvalidConfig, InvalidFile
from deepgmr.evaluation import alignment, read_result, write_result


def test_scans_are_right_in_the_frame_in_which_most_are() -> None:
    rng = np.random.default_rng(0)
    thing = turntable(1, 5, degrees=30.0)
    moved = np.eye(4)
    moved[:3, 3] = 1.0
    poses = np.linalg.inv(thing.poses[2]) @ thing.poses
    poses[0] = poses[0] @ moved  # the frame of nobody else
    row = alignment.judged(thing, poses, np.zeros(5, int), np.array([0.95, 1, 1, 1, 1]))
    assert row["right"] == 0.8 and row["wrong"] == 0.2 and row["wrong, sure"] == 1
    assert row["degrees"] == pytest.approx(0, abs=1e-4) and row["off"] == pytest.approx(0, abs=1e-6)
    apart = alignment.judged(thing, poses, np.array([0, 1, 1, 2, 2]), np.array([0.95, 1, 1, 1, 1]))
    assert apart["right"] == 0.4 and apart["wrong"] == 0 and apart["wrong, sure"] == 0
    alone = alignment.judged(thing, rng.permutation(poses), np.arange(5), None)
    assert alone["right"] == 0 and alone["wrong, sure"] is None and alone["degrees"] is None


def test_rooms_that_are_alike_are_furnished_the_same_and_others_are_not() -> None:
    """Scans of neighbouring rooms, one room further along: alike ones lie on one another."""
    from scipy.spatial import cKDTree

    for alike, same in ((1.0, True), (0.0, False)):
        made = building(np.random.default_rng(2), 6, alike=alike, rays=3000)
        assert len(made) == 30 and made.poses.shape == (30, 4, 4)
        rooms = []
        for room in (2, 4):  # of one side, neither at an end of the corridor ... but for the last one's wall
            scans = range(5 * room, 5 * room + 3)
            points = np.concatenate([made.scans[k] @ made.poses[k][:3, :3].T + made.poses[k][:3, 3] for k in scans])
            points[:, 0] -= room // 2 * 4.0
            inside = (points[:, 0] > 0.3) & (points[:, 0] < 3.7) & (points[:, 1] > 1.4) & (points[:, 1] < 5.8)
            rooms.append(points[inside & (points[:, 2] > 0.1) & (points[:, 2] < 1.5)])
        far = np.quantile(cKDTree(rooms[0]).query(rooms[1])[0], 0.9)
        assert (far < 0.15) == same
    with pytest.raises(InvalidConfig, match="even number"):
        building(np.random.default_rng(2), 3)


def test_scans_are_gathered_from_pairs_that_share_points(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    whole = turntable(4, 3, degrees=24.0, side=96)
    for first, second in ((0, 1), (1, 2)):
        held, ends = {}, []
        for key, number in (("source", first), ("target", second)):
            own = np.eye(4)
            own[:3, 3] = rng.normal(size=3)
            points = rng.permutation(whole.scans[number])[: 3 * len(whole.scans[number]) // 4]
            held[key] = points + own[:3, 3]
            ends.append(whole.poses[number] @ np.linalg.inv(own))
        np.savez(tmp_path / f"heap_{first}_to_{second}.npz", transform=np.linalg.inv(ends[1]) @ ends[0], **held)
    found = scans_of(tmp_path, "heap")
    placed = [scan @ pose[:3, :3].T + pose[:3, 3] for scan, pose in zip(found.scans, found.poses, strict=True)]
    truth = [scan @ pose[:3, :3].T + pose[:3, 3] for scan, pose in zip(whole.scans, whole.poses, strict=True)]
    apart, should = (
        [np.median(np.linalg.norm(a[:50, None] - b[None], axis=2).min(axis=1)) for a, b in pairwise(each)]
        for each in (placed, truth)
    )
    assert isinstance(found, Gathering) and len(found) == 3
    assert max(apart) < 3 * max(should)
    with pytest.raises(InvalidFile, match="there are no pairs"):
        scans_of(tmp_path, "cow")


def test_inputs_have_names() -> None:
    with pytest.raises(InvalidConfig, match="there is no input kitchen"):
        alignment.gathered("kitchen", None, 0)
    with pytest.raises(InvalidConfig, match="--shared"):
        alignment.gathered("bunny", None, 0)


@pytest.mark.slow
def test_the_study_at_a_tiny_size(tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    result = alignment.measure(inputs=("tiny",), peers=("Open3D: FPFH, RANSAC",))
    ours, theirs = result["rows"]
    assert ours["right"] == 1 and ours["wrong, sure"] == 0 and ours["degrees"] < 1 and ours["seconds"] > 0
    assert theirs["pairs"] == ours["pairs"] and theirs["right"] >= 0.5 and theirs["wrong, sure"] is None
    write_result(tmp_path / "out.json", result)
    assert alignment.markdown(read_result(tmp_path / "out.json", alignment.STUDY)) == alignment.markdown(result)
