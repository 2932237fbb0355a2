"""The bundled pair: made again byte for byte, and as data/README.md describes it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepgmr.io import CloudFile, read_cloud, read_transform, transformed

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("sample_source.ply", "sample_target.ply", "sample_target_from_source.txt")


@pytest.fixture(scope="module")
def scans(sample: Path) -> tuple[CloudFile, CloudFile, np.ndarray]:
    """Source moved onto the target, target, and the motion."""
    motion = read_transform(sample / NAMES[2])
    return transformed(read_cloud(sample / NAMES[0]), motion), read_cloud(sample / NAMES[1]), motion


def test_the_script_makes_the_same_bytes(tmp_path: Path, sample: Path) -> None:
    runpy.run_path(str(ROOT / "scripts" / "make_sample.py"))["make"](tmp_path)
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (sample / name).read_bytes(), name


def test_the_scans_overlap_as_stated(sample: Path, scans: tuple[CloudFile, CloudFile, np.ndarray]) -> None:
    moved, target, motion = scans
    text = " ".join((sample / "README.md").read_text(encoding="utf-8").split())
    stated = [int(share) for share in re.findall(r"(\d+) % of the", text)]
    shares = [
        float((cKDTree(b.points).query(a.points)[0] < 0.003).mean()) for a, b in ((moved, target), (target, moved))
    ]
    assert [round(100 * share) for share in shares] == stated
    degrees = np.degrees(np.arccos((np.trace(motion[:3, :3]) - 1) / 2))
    assert f"the rotation is {degrees:.0f} degrees" in text


def test_the_scans_are_of_one_surface(scans: tuple[CloudFile, CloudFile, np.ndarray]) -> None:
    moved, target, _ = scans
    assert len(moved) == len(target) == 12_000
    distance, nearest = cKDTree(target.points).query(moved.points)
    shared = distance < 0.003
    normals = [np.column_stack([c.properties[name] for name in ("nx", "ny", "nz")]) for c in (moved, target)]
    # Under the true motion the stored normals agree and the offset along them is noise, not a gap.
    agreement = np.einsum("ij,ij->i", normals[0][shared], normals[1][nearest[shared]])
    assert np.median(agreement) > 0.999
    gap = np.einsum("ij,ij->i", moved.points[shared] - target.points[nearest[shared]], normals[1][nearest[shared]])
    assert abs(np.median(gap)) < 5e-5
    assert np.median(np.abs(gap)) < 6e-4


def test_colours_and_normals_are_there(scans: tuple[CloudFile, CloudFile, np.ndarray]) -> None:
    for cloud in scans[:2]:
        assert list(cloud.properties) == ["nx", "ny", "nz", "red", "green", "blue"]
        assert cloud.coordinate_dtype == np.float32
        lengths = np.linalg.norm([cloud.properties[name] for name in ("nx", "ny", "nz")], axis=0)
        np.testing.assert_allclose(lengths, 1.0, atol=1e-6)
