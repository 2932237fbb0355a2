"""`deepgmr align`: what it writes, what it says, and what it refuses before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from problems_alignment import views

from deepgmr import cli
from deepgmr.io import read_cloud, read_trajectory, write_cloud
from deepgmr.io.cloud import CloudFile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scans")
    for number, points in enumerate(views(1, 3, degrees=30.0)[0]):
        carried = {"label": np.arange(len(points), dtype=np.int32)}
        write_cloud(place / f"scan{number}.ply", CloudFile(points, carried))
    return place


def test_scans_are_written_moved_with_all_they_carry(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told, poses = tmp_path / "aligned", tmp_path / "poses.json", tmp_path / "poses.tum"
    assert cli.main(["align", str(folder), "-o", str(out), "--json", str(told), "--poses", str(poses)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("1 ") and lines[3].startswith("# 3 of 3 scans in one frame")
    found = json.loads(told.read_text())
    assert [Path(scan["path"]).name for scan in found["scans"]] == ["scan0.ply", "scan1.ply", "scan2.ply"]
    np.testing.assert_allclose(read_trajectory(poses).poses, [scan["pose"] for scan in found["scans"]], atol=1e-9)
    for number in range(3):
        before, after = read_cloud(folder / f"scan{number}.ply"), read_cloud(out / f"scan{number}.ply")
        pose = np.array(found["scans"][number]["pose"])
        np.testing.assert_allclose(after.points, before.points @ pose[:3, :3].T + pose[:3, 3], atol=1e-5)
        np.testing.assert_array_equal(after.properties["label"], before.properties["label"])


def test_what_cannot_be_done_is_said_first(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["align", str(folder / "scan0.ply")]) == 2
    assert "at least two scans" in capsys.readouterr().err
    assert cli.main(["align", str(folder), "-o", str(folder)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert cli.main(["align", str(folder / "scan0.ply"), str(folder / "scan0.ply"), "-o", str(tmp_path / "x")]) == 2
    assert "2 scans would be written by that name" in capsys.readouterr().err
    assert cli.main(["align", str(folder / "scan0.ply"), str(tmp_path / "gone.ply")]) == 2
    assert "gone.ply" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert cli.main(["align", str(folder), "--trust", "2"]) == 2
