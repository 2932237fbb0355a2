"""Everything runs on synthetic data: train, resume and evaluate with nothing on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deepgmr import cli
from deepgmr.datasets.suites.made import modelnet_suite, procedural_suite
from deepgmr.datasets.suites.named import read_named
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.errors import InvalidConfig

TINY = (
    'name = "tiny"\n[network]\ncomponents = 4\nencoder = [16]\ndecoder = [16]\npooled = 8\nlandmarks = 2\n'
    '[data]\ncategories = 2\nqueries = 64\n[optimiser]\nsteps = 3\nbatch = 2\nwarmup = 1\nprecision = "fp32"\n'
)


def test_a_network_is_trained_stopped_resumed_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "tiny.toml", tmp_path / "out"
    config.write_text(TINY)
    train = ["train", str(config), "--out", str(out)]
    assert cli.main([*train, "--time-limit", "0"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("training `tiny` on procedural shapes") and "3 steps of 2 pairs" in printed.err
    assert "stopped at step 1" in printed.out and "go on with: " in printed.out
    assert cli.main([*train, "--resume", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    weights = out / "tiny.safetensors"
    assert told["finished"] and told["weights"] == str(weights) and weights.is_file()
    assert told["next"] == f"deepgmr evaluate --method {weights}"
    suites = ["procedural#noisy", "--limit", "2"]
    assert cli.main(["evaluate", *suites, "--method", str(weights), "--method", "deepgmr", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["tables"][0]
    assert [row["method"] for row in table["summary"]] == ["identity", str(weights), "deepgmr"]
    assert table["summary"][2]["ADD-S@.05"] == 1.0


@pytest.mark.slow
def test_the_smallest_preset_learns_something_in_a_minute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--preset", "tiny", "--out", str(tmp_path)]) == 0
    weights = str(tmp_path / "tiny.safetensors")
    assert cli.main(["evaluate", "procedural#noisy", "--limit", "10", "--method", weights, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.partition("{")[2].join(("{", "")))["tables"][0]["summary"]
    assert rows[0]["mean distance"] > 0.4 and rows[1]["mean distance"] < 0.1


def test_a_training_on_modelnet_is_not_gone_on_with_on_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "tiny.toml", tmp_path / "out"
    config.write_text(TINY)
    data = _modelnet(tmp_path / "modelnet")
    assert cli.main(["train", str(config), "--out", str(out), "--data", str(data), "--time-limit", "0"]) == 0
    assert cli.main(["train", str(config), "--out", str(out), "--resume"]) == 2
    assert "was trained with another configuration; differing: data" in capsys.readouterr().err
    config.write_text(TINY.replace("[data]", '[data]\nworld = "procedural"'))
    assert cli.main(["train", str(config), "--out", str(tmp_path / "b"), "--data", str(data)]) == 2
    assert "world = procedural" in capsys.readouterr().err


def test_procedural_suites_are_the_same_ones_every_time() -> None:
    one, two = (procedural_suite("crop70_180", pairs=3) for _ in range(2))
    assert one.name == "procedural#crop70_180" and len(one) == 3
    np.testing.assert_array_equal(one.sources[2], two.sources[2])
    moved = one.shapes[0] @ one.transforms[0][:3, :3].T + one.transforms[0][:3, 3]
    gap = np.linalg.norm(one.targets[0][:, None] - moved[None], axis=-1).min(1)
    assert np.median(gap) < 0.05  # the target lies on the shape, moved
    with pytest.raises(InvalidConfig, match="unknown protocol `nonsense`"):
        read_named("procedural#nonsense")


def test_a_folder_of_modelnet_is_cut_by_the_protocol_that_is_named(tmp_path: Path) -> None:
    folder = _modelnet(tmp_path / "modelnet")
    noisy, crop = read_named(folder), read_named(f"{folder}#crop50_180")
    assert noisy.name == "modelnet#noisy" and noisy.sources[0].shape == (1024, 3)
    assert crop.name == "modelnet#crop50_180" and crop.sources[0].shape == (384, 3)
    assert len(noisy) == len(crop) == 4 and noisy.shapes is not None and noisy.names[1].startswith("bathtub")
    assert len(modelnet_suite(folder, "unseen")) == 0  # both categories are among the first twenty


def _modelnet(folder: Path) -> Path:
    """A tiny ModelNet40 in the official layout, of procedural shapes."""
    folder.mkdir()
    shapes, _ = sample_shapes(12, 2048, generator=torch.Generator().manual_seed(5))
    for split, rows in (("train", slice(0, 8)), ("test", slice(8, 12))):
        clouds = shapes[rows].numpy().astype(np.float32)
        with h5py.File(folder / f"ply_data_{split}0.h5", "w") as file:
            file["data"], file["label"] = clouds, [[i % 2] for i in range(len(clouds))]
    (folder / "shape_names.txt").write_text("airplane\nbathtub\n")
    return folder
