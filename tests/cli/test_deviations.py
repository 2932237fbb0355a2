"""`--deviations`: a scan with a known dent against its CAD mesh, and what is written, printed and refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from deepgmr import cli
from deepgmr.cli.deviations import coloured, deviations, summary
from deepgmr.io import CloudFile, read_cloud, transformed, write_cloud

DENT = 1.5  # millimetres


@pytest.fixture
def part(tmp_path: Path) -> tuple[Path, Path]:
    """A scan of a part with a dent, in another pose, and its CAD mesh, in millimetres."""
    pieces = [
        trimesh.creation.box((80, 50, 12)),
        trimesh.creation.box((20, 15, 30)),
        trimesh.creation.box((10, 40, 20)),
    ]
    for piece, place in zip(pieces, ((0, 0, 0), (22, 10, 21), (-30, 3, 16)), strict=True):
        piece.apply_translation(place)
    mesh = trimesh.util.concatenate(pieces)
    points, _ = trimesh.sample.sample_surface(mesh, 12_000, seed=1)
    outside = np.ones(len(points), bool)
    for piece in pieces:
        low, high = piece.bounds
        outside &= ~((points > low + 1e-6) & (points < high - 1e-6)).all(axis=1)
    points = points[outside]
    points[(points[:, 2] > 5.99) & (points[:, 2] < 6.01) & (np.hypot(points[:, 0], points[:, 1] + 15) < 6), 2] -= DENT
    motion = trimesh.transformations.rotation_matrix(2.0, (1, 2, 3))
    motion[:3, 3] = (100, -40, 7)
    mesh.export(tmp_path / "part.stl")
    write_cloud(tmp_path / "scan.ply", transformed(CloudFile(points), motion))
    return tmp_path / "scan.ply", tmp_path / "part.stl"


def test_the_dent_is_found(part: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deviations.ply"
    assert cli.register_main([*map(str, part), "--deviations", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["deviations"]
    assert told["signed"] and told["median_size"] < 0.1 and sum(told["histogram"]["counts"]) == told["points"]
    found = read_cloud(out)
    depth = found.properties["deviation"]
    assert len(found) == told["points"] and depth.min() == pytest.approx(-DENT, abs=0.2)
    deep = depth < -DENT / 2
    assert 30 < deep.sum() < 500
    assert (found.properties["blue"][deep] > found.properties["red"][deep]).all()  # below the surface is blue
    assert cli.register_main([*map(str, part), "--deviations", str(out)]) == 0
    printed = capsys.readouterr().out
    assert np.loadtxt(io.StringIO(printed)).shape == (4, 4)
    assert "signed distance from the surface, in the units of the files" in printed and "95 % below" in printed


def test_a_cloud_has_no_side() -> None:
    target = CloudFile(np.random.default_rng(0).normal(size=(500, 3)))
    moved = CloudFile(np.vstack([target.points + np.array([0.0, 0.0, 1e-3]), [[np.nan] * 3]]))
    values, signed = deviations(moved, target)
    assert not signed and np.isnan(values[-1])
    np.testing.assert_allclose(values[:-1], 1e-3, rtol=1e-6)
    told = summary(values, signed)
    assert told["points"] == 500 and told["histogram"]["edges"][0] == 0.0 and told["rms"] == pytest.approx(1e-3)
    assert len(coloured(moved, values).properties["red"]) == 501


def test_colours_need_points_and_a_place_of_their_own(
    part: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, words in (
        (["--deviations", str(tmp_path / "out.stl")], "holds triangles"),
        (["--deviations", str(part[0])], "is named twice"),
        (["--deviations", str(tmp_path / "a.ply"), "-o", str(tmp_path / "a.ply")], "is named twice"),
    ):
        assert cli.register_main([*map(str, part), *options]) == 2
        assert words in capsys.readouterr().err
