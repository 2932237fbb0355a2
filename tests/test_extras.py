"""What `pip install deepgmr` alone can do, and what it says of the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh

from deepgmr.errors import MissingDependency
from deepgmr.extras import extra

ROOT = Path(__file__).resolve().parent.parent
HOOK = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    names = {"trimesh", "h5py", "open3d", "laspy", "lazrs", "pye57", "pooch", "requests", "matplotlib"}
    names |= {"plotly", "tensorboard", "rerun", "playwright", "onnx", "onnxscript", "onnxruntime"}

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from deepgmr import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`deepgmr ...` where only the hard dependencies are installed."""
    command = [sys.executable, "-c", HOOK, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_the_sample_pair_needs_no_extra(sample: Path) -> None:
    done = alone("register", sample / "sample_source.ply", sample / "sample_target.ply", "--json")
    assert done.returncode == 0, done.stderr
    truth = np.loadtxt(sample / "sample_target_from_source.txt")
    np.testing.assert_allclose(json.loads(done.stdout)["target_from_source"], truth, atol=2e-3)


def test_the_report_and_the_picture_need_no_extra(sample: Path, tmp_path: Path) -> None:
    clouds = [sample / f"sample_{role}.ply" for role in ("source", "target")]
    done = alone("register", *clouds, "--report", tmp_path / "a.html", "--picture", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.html").stat().st_size > 1e5 and (tmp_path / "a.png").stat().st_size > 1e4


def test_what_needs_an_extra_names_it(sample: Path, tmp_path: Path) -> None:
    box = trimesh.creation.box((1.0, 2.0, 3.0))
    for name in ("box.obj", "box.ply"):
        box.export(tmp_path / name)
    with h5py.File(tmp_path / "pairs.h5", "w") as file:
        file["source"] = np.zeros((1, 4, 3))
    (tmp_path / "scan.las").write_bytes(b"LASF" + bytes(300))
    (tmp_path / "scan.e57").write_bytes(b"ASTM-E57" + bytes(300))
    target = sample / "sample_target.ply"
    for arguments, library, name in (
        (("register", tmp_path / "box.obj", target), "trimesh", "meshes"),
        (("register", tmp_path / "box.ply", target), "trimesh", "meshes"),
        (("register", tmp_path / "scan.las", target), "laspy", "las"),
        (("register", tmp_path / "scan.e57", target), "pye57", "e57"),
        (("evaluate", tmp_path / "pairs.h5", "--method", "identity"), "h5py", "evaluate"),
        (("register", target, target, "--view"), "rerun", "view"),
        (("view", target, target), "rerun", "view"),
        (("export", "deepgmr", "--format", "onnx", "--out", tmp_path), "onnx", "export"),
    ):
        done = alone(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert str(arguments[1]) in done.stderr or name == "view"
        assert f'needs {library}; install it with: pip install "deepgmr[{name}]"' in done.stderr


def test_an_extra_that_is_there_is_the_library() -> None:
    assert extra("trimesh", "meshes", "drawing") is trimesh
    with pytest.raises(
        MissingDependency, match=r'^drawing needs no_such; install it with: pip install "deepgmr\[x\]"$'
    ):
        extra("no_such", "x", "drawing")
