"""`deepgmr odometry`: which files it takes for scans, what it writes, and what it says of what it cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from problems_odometry import scan, truth

from deepgmr import cli
from deepgmr.io import read_trajectory
from deepgmr.io.sequences import scans_in


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans as KITTI has them: sequence/velodyne/00000N.bin, and sequence/times.txt."""
    folder = tmp_path_factory.mktemp("sequence") / "velodyne"
    folder.mkdir()
    for number in range(4):
        points = scan(number)[0]
        np.column_stack([points, np.ones(len(points))]).astype("<f4").tofile(folder / f"{number:06}.bin")
    (folder.parent / "times.txt").write_text("".join(f"{5 + 0.1 * number}\n" for number in range(4)))
    return folder


def test_poses_are_written(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "poses.tum"
    assert cli.main(["odometry", str(drive), "-o", str(out), "--json"]) == 0
    found = read_trajectory(out)
    assert found.times is not None and found.times.tolist() == [5, 5.1, 5.2, 5 + 0.1 * 3]
    for number, pose in enumerate(found.poses):
        np.testing.assert_allclose(pose, truth(number), atol=0.05)
    told = json.loads(capsys.readouterr().out)
    assert [each["status"] for each in told["scans"]] == ["started", "tracked", "tracked", "tracked"]
    np.testing.assert_allclose(told["scans"][3]["corrected"], found.poses[3], atol=1e-12)
    assert told["loops"] == [] and np.shape(told["scans"][1]["covariance"]) == (6, 6)
    assert told["scans"][2]["path"] == str(drive / "000002.bin")


def test_poses_are_printed(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["odometry", str(drive), "--format", "kitti"]) == 0
    rows = np.array([line.split() for line in capsys.readouterr().out.splitlines()], float)
    assert rows.shape == (4, 12)
    np.testing.assert_allclose(rows[3].reshape(3, 4), truth(3)[:3], atol=0.05)


def test_a_lost_scan_is_left_out_and_kitti_refuses(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        (tmp_path / f"{number}.bin").write_bytes((drive / f"{number:06}.bin").read_bytes())
    wall = np.random.default_rng(0).uniform(-0.3, 0.3, (500, 4)) * [0.01, 1, 1, 1]
    wall.astype("<f4").tofile(tmp_path / "2.bin")
    assert cli.main(["odometry", str(tmp_path), "-o", str(tmp_path / "poses.txt")]) == 3
    assert len(read_trajectory(tmp_path / "poses.txt")) == 2 and "2.bin: lost" in capsys.readouterr().err
    out = tmp_path / "out"
    out.mkdir()
    assert cli.main(["odometry", str(tmp_path), "-o", str(out / "poses.txt"), "--format", "kitti"]) == 2
    assert "1 of 3 scans have no pose (the first is 2.bin)" in capsys.readouterr().err and not list(out.iterdir())


def test_scans_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["scan_10.ply", "scan_9.ply", "scan_100.ply", "times.txt", "notes.txt", "map.pcd", ".hidden.ply", "a.jpg"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in scans_in(tmp_path)] == ["scan_9.ply", "scan_10.ply", "scan_100.ply"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such folder"),
        (["empty"], "holds no scans"),
        (["empty", "--format", "euroc"], "tum, kitti"),
        (["{drive}", "--times", "short.txt"], "2 times for 4 scans"),
        (["{drive}", "-o", "nowhere/poses.tum"], "no folder"),
        (["broken"], "1.bin: scan: 1 of"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    said: str,
    drive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("short.txt").write_text("0\n1\n")
    Path("broken").mkdir()
    points = np.random.default_rng(0).normal(size=(50, 4)).astype("<f4")
    points[3] = np.nan
    points.tofile("broken/1.bin")
    assert cli.main(["odometry", *(word.format(drive=drive) for word in arguments), "--json"]) == 2
    caught = capsys.readouterr()
    assert said in caught.err and caught.err.count("\n") == 1 and said in json.loads(caught.out)["error"]["message"]
