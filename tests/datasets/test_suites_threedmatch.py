"""3DMatch's layout: pairs by name, fragments in metres, read when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepgmr.datasets.suites.fixed import LazyClouds
from deepgmr.datasets.suites.named import read_named
from deepgmr.datasets.suites.threedmatch import read_threedmatch
from deepgmr.errors import InvalidFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scenes of three fragments; of 3DMatch one pair follows in time, of 3DLoMatch there is one pair."""
    rng = np.random.default_rng(0)
    (tmp_path / "fragments").mkdir()
    for scene in ("hall", "yard"):
        clouds = {f"cloud_bin_{i}": rng.integers(-3000, 3000, (50 + i, 3)).astype(np.int16) for i in range(3)}
        np.savez(tmp_path / "fragments" / f"{scene}.npz", **clouds)
    columns: dict[str, Any] = {}
    for benchmark, pairs in (("3DMatch", [(2, 0), (1, 0), (2, 0)]), ("3DLoMatch", [(1, 0)])):
        count = len(pairs)
        columns[f"{benchmark}_scene"] = np.array(["hall", "hall", "yard"][:count])
        columns[f"{benchmark}_source"] = np.array([source for source, _ in pairs])
        columns[f"{benchmark}_target"] = np.array([target for _, target in pairs])
        columns[f"{benchmark}_transform"] = np.tile(np.round(np.eye(4) + 1e-3, 3), (count, 1, 1))
        columns[f"{benchmark}_transform"][:, 3] = [0, 0, 0, 1]
        columns[f"{benchmark}_overlap"] = np.full(count, 0.5)
        columns[f"{benchmark}_info"] = np.tile(np.eye(6), (count, 1, 1))
    np.savez(tmp_path / "pairs.npz", **columns)
    return tmp_path


def test_pairs_are_read_as_they_are_asked_for(folder: Path) -> None:
    suite = read_named(f"{folder}#3DMatch")
    assert suite.name == "3DMatch" and suite.names == ("hall_2_to_0", "yard_2_to_0") and len(suite) == 2
    assert suite.groups == suite.scenes == ("hall", "yard") and isinstance(suite.sources, LazyClouds)
    cloud = np.load(folder / "fragments" / "yard.npz")["cloud_bin_2"]
    assert np.allclose(suite.sources[1], cloud / 1000) and len(suite.targets[1]) == 50
    assert suite.sources[1] is suite.sources[1]  # kept
    rotation = suite.transforms[:, :3, :3]
    assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    (folder / "fragments" / "yard.npz").write_bytes(b"damaged")
    fresh = read_threedmatch(folder)
    assert len(fresh.sources[0]) == 52
    with pytest.raises(InvalidFile, match="yard"):
        fresh.sources[1]


def test_rows_can_be_chosen_and_clouds_cut(folder: Path) -> None:
    suite = read_named(f"{folder}#3DMatch", points=10)
    part = suite.subset(np.array([1]))
    assert part.scenes == ("yard",) and part.information is not None and part.information.shape == (1, 6, 6)
    assert len(part.sources) == 1 and np.array_equal(part.sources[0], suite.sources[1]) and len(part.sources[0]) == 10
    assert suite.thinned(1).names == suite.names[:1] and suite.thinned(5) is suite
    assert [len(cloud) for cloud in part.targets] == [10]
    assert read_named(f"{folder}#3DLoMatch").names == ("hall_1_to_0",)  # none is left out


def test_what_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(InvalidFile, match="#3DMatch"):
        read_named(folder)
    with pytest.raises(InvalidFile, match="no benchmark"):
        read_threedmatch(folder, "4DMatch")
    with pytest.raises(InvalidFile, match=r"pairs\.npz"):
        read_named(f"{folder / 'fragments'}#3DMatch")
    (folder / "fragments" / "yard.npz").unlink()
    with pytest.raises(InvalidFile, match="yard"):
        read_named(f"{folder}#3DMatch")


def test_the_published_pairs_overlap_under_the_published_motions(shared: Path) -> None:
    path = shared / "3dmatch"
    if not path.is_dir():
        pytest.skip("no 3dmatch")
    suite, low = (read_named(f"{path}#{name}") for name in ("3DMatch", "3DLoMatch"))
    assert (len(suite), len(low)) == (527, 683) and len(set(suite.groups)) == 2
    overlap = np.load(path / "pairs.npz")["3DLoMatch_overlap"]
    for i in (0, 300, 682):
        motion = low.transforms[i]
        moved = low.sources[i] @ motion[:3, :3].T + motion[:3, 3]
        assert (cKDTree(low.targets[i]).query(moved)[0] < 0.04).mean() > 0.8 * overlap[i]


def test_lidar_reads_as_scans_do(shared: Path) -> None:
    if not (shared / "lidar").is_dir():
        pytest.skip("no lidar")
    suite = read_named(shared / "lidar")
    assert len(suite) == 25 and set(suite.groups) == {"lidar"} and suite.kind == "scans"
    assert suite.tolerance_degrees is not None and set(suite.tolerance_degrees) == {5.0}
    assert suite.tolerance_translation is not None and set(suite.tolerance_translation) == {2.0}
