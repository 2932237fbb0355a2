"""Scans with known poses: what is sharded is what overlaps, what is drawn is true, and an overlap network trains on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

import deepgmr
from deepgmr.cli import main
from deepgmr.datasets.pairs import shards
from deepgmr.datasets.pairs.posed import INDEX, PosedScans
from deepgmr.datasets.pairs.shards import shard
from deepgmr.errors import DeepGMRError, InvalidCloud, InvalidConfig, InvalidFile, InvalidTransform
from deepgmr.io import Trajectory, write_trajectory
from deepgmr.networks import OverlapConfig
from deepgmr.training import PRESETS, OptimiserConfig, OverlapData, OverlapTask, OverlapTraining, train

SCANS, POINTS, WIDTH, STEP = 14, 700, 2.0, 0.5  # windows of a hilly strip: neighbours share three quarters, and so on
TINY = OverlapTraining(
    network=OverlapConfig(width=16, heads=2, blocks=1, nodes=32),
    data=OverlapData(own=0.5, shapes=1.0, workers=0, points=600),
    optimiser=OptimiserConfig(steps=3, batch=16, warmup=2, precision="fp32"),
)


def height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.2 * np.sin(3 * x) * np.cos(2 * y) + 0.1 * np.sin(7 * y + 2 * x)


def strip(rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """The scans, each in its own frame, and their poses (SCANS, 4, 4), far from the world's origin."""
    clouds, poses = [], np.tile(np.eye(4), (SCANS, 1, 1))
    for number in range(SCANS):
        x, y = rng.uniform(number * STEP, number * STEP + WIDTH, POINTS), rng.uniform(0, 2, POINTS)
        world = np.stack([5e5 + x, y, height(x, y)], axis=1)
        poses[number, :3, :3] = Rotation.random(random_state=number).as_matrix()
        poses[number, :3, 3] = (5e5 + number * STEP, rng.uniform(), 1.5)
        clouds.append((world - poses[number, :3, 3]) @ poses[number, :3, :3])
    return clouds, poses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The strip as files: scan_8.ply comes before scan_10.ply."""
    place = tmp_path_factory.mktemp("strip")
    clouds, poses = strip(np.random.default_rng(0))
    for number, cloud in enumerate(clouds):
        deepgmr.write_cloud(place / f"scan_{number}.ply", cloud)
    (place / "poses.json").write_text(json.dumps({f"scan_{n}.ply": pose.tolist() for n, pose in enumerate(poses)}))
    return place


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shards")
    shard(str(folder), str(place), least=0.4)
    return place


def index(place: Path) -> dict[str, Any]:
    return json.loads((place / INDEX).read_text())


def test_the_pairs_are_those_that_overlap_enough(made: Path) -> None:
    """Of two windows that are k steps apart a share of 1 - k STEP / WIDTH is common."""
    near = [(i, j) for i in range(SCANS) for j in range(i + 1, SCANS) if 1 - (j - i) * STEP / WIDTH >= 0.4]
    assert sorted(map(tuple, index(made)["pairs"])) == near


def test_a_pair_that_is_drawn_lies_on_one_surface(made: Path, tmp_path: Path) -> None:
    scans, generator = PosedScans(str(made), tmp_path), torch.Generator().manual_seed(0)
    turns = []
    for _ in range(6):
        pair = scans.draw(generator, 600)
        assert pair.source.shape == pair.target.shape == (1, 600, 3)
        source, target = pair.source[0].double().numpy(), pair.target[0].double().numpy()
        motion = pair.target_from_source.matrix[0].double().numpy()
        tree = cKDTree(target)
        spacing = np.median(tree.query(target, 2)[0][:, 1])
        shares = [(tree.query(cloud)[0] < 2.5 * spacing).mean() for cloud in (moved(motion, source), source)]
        assert shares[0] > 0.45 > shares[1]
        assert np.abs(source).max() < 5  # about the centre: float32 holds it
        turns.append(motion[:3, :3])
    assert np.std(turns, axis=0).min() > 0.2  # any pose


def moved(motion: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ motion[:3, :3].T + motion[:3, 3]


def test_draws_follow_from_the_generator_and_spare_the_last_scans(made: Path, tmp_path: Path) -> None:
    scans = PosedScans(str(made), tmp_path)
    first, second = (scans.draw(torch.Generator().manual_seed(4), 600) for _ in range(2))
    assert torch.equal(first.source, second.source)
    assert scans.training.max() < scans.validation.min() and len(scans.validation) > 0


@pytest.mark.parametrize("format", ["tum", "kitti"])
def test_poses_may_be_lines_in_the_order_of_the_names(folder: Path, made: Path, tmp_path: Path, format: str) -> None:
    place = tmp_path / "scans"
    place.mkdir()
    for path in folder.glob("*.ply"):
        (place / path.name).symlink_to(path)
    named = json.loads((folder / "poses.json").read_text())
    poses = np.array([named[f"scan_{number}.ply"] for number in range(SCANS)])
    write_trajectory(place / "poses.txt", Trajectory(poses), format=format)
    shard(str(place), str(tmp_path / "out"), least=0.4)
    assert index(tmp_path / "out")["pairs"] == index(made)["pairs"]


def test_urls_are_read_and_written_and_a_shard_is_fetched_once(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 5)
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe_file(f"/raw/{path.name}", path.read_bytes())
    shard("memory://raw", "memory://set", least=0.4)
    scans, here = PosedScans("memory://set", tmp_path), PosedScans(str(made), tmp_path)
    assert len(scans.shards) == 3 and np.array_equal(scans.training, here.training)
    assert not list(tmp_path.glob("*.safetensors"))  # nothing before it is needed
    for seed in range(12):
        far, near = (s.draw(torch.Generator().manual_seed(seed), 600) for s in (scans, here))
        assert torch.equal(far.source, near.source) and torch.equal(
            far.target_from_source.matrix, near.target_from_source.matrix
        )
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    for name in scans.shards:
        memory.rm_file(f"/set/{name}")
    assert PosedScans("memory://set", tmp_path).draw(torch.Generator().manual_seed(0), 600).source.shape[1] == 600
    memory.rm("/set", recursive=True)
    with pytest.raises(InvalidFile, match="memory://set/index"):
        PosedScans("memory://set", tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("no poses", InvalidFile, "neither poses.json nor poses.txt"),
        ("one missing", InvalidFile, "no pose for 1 of 14 scans, the first is scan_3.ply"),
        ("too few lines", InvalidFile, "13 poses for 14 scans"),
        ("not rigid", InvalidTransform, "scan_2.ply"),
        ("no json", InvalidFile, "no JSON of 4x4 poses"),
        ("all apart", InvalidFile, "no two of 14 scans overlap"),
        ("nan", InvalidCloud, "scan_1.ply: 1 of"),
        ("empty", InvalidFile, "holds no scans"),
        ("nowhere", InvalidFile, "no folder"),
    ],
)
def test_folders_that_cannot_be_used(
    folder: Path, tmp_path: Path, change: str, error: type[DeepGMRError], words: str
) -> None:
    place, poses = tmp_path / "scans", json.loads((folder / "poses.json").read_text())
    place.mkdir()
    for path in () if change == "empty" else folder.glob("*.ply"):
        (place / path.name).symlink_to(path)
    if change == "one missing":
        del poses["scan_3.ply"]
    elif change == "not rigid":
        poses["scan_2.ply"][0][0] += 1
    elif change == "all apart":
        poses = {
            name: (np.array(pose) + np.eye(4, k=3) * 99 * n).tolist() for n, (name, pose) in enumerate(poses.items())
        }
    elif change == "nan":
        cloud = deepgmr.read_cloud(folder / "scan_1.ply").points
        cloud[7, 1] = np.nan
        (place / "scan_1.ply").unlink()
        deepgmr.write_cloud(place / "scan_1.ply", cloud)
    (place / "poses.json").write_text("[1" if change == "no json" else json.dumps(poses))
    if change in ("no poses", "too few lines"):
        (place / "poses.json").unlink()
    if change == "too few lines":
        write_trajectory(place / "poses.txt", Trajectory(np.array(list(poses.values()))[:-1]))
    with pytest.raises(error, match=words):
        shard(str(tmp_path / "none") if change == "nowhere" else str(place), str(tmp_path / "out"))
    assert not (tmp_path / "out" / INDEX).exists()


def test_what_is_no_set_is_said_to_be_none(folder: Path, made: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="`deepgmr shard FOLDER` makes one"):
        PosedScans(str(folder), tmp_path)
    with pytest.raises(InvalidFile, match="holds a set of shards"):
        shard(str(folder), str(made))
    with pytest.raises(InvalidConfig, match="least overlap"):
        shard(str(folder), str(tmp_path), least=1.5)
    content = index(made) | {"shards": ["other.safetensors"]}
    (tmp_path / INDEX).write_text(json.dumps(content))
    (tmp_path / "other.safetensors").write_bytes(b"no shard")
    with pytest.raises(InvalidFile, match=r"other\.safetensors: is no shard"):
        PosedScans(str(tmp_path), tmp_path).draw(torch.Generator(), 600)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(InvalidFile, match="is no index of posed scans"):
        PosedScans(str(tmp_path), tmp_path)


# -- training ------------------------------------------------------------------------------------------------------


def test_an_overlap_network_trains_on_them_among_procedural_pairs(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = train(TINY, out=tmp_path / "out", data=made)
    assert result.finished and {"validation top own", "validation top shape"} <= result.history[-1].keys()
    with pytest.raises(InvalidConfig, match="no data are given"):
        train(TINY, out=tmp_path / "out", resume=True)
    plain = replace(TINY, data=replace(TINY.data, own=0.0))
    train(plain, out=tmp_path / "plain", time_limit=0.0)
    with pytest.raises(InvalidConfig, match="differing: data"):  # with data, a half of the pairs would be of those
        train(plain, out=tmp_path / "plain", data=made, resume=True)


def test_the_share_of_own_pairs_is_kept_and_the_others_stay_what_they_were(made: Path, tmp_path: Path) -> None:
    """Groups follow from their step, whether or not another process made those before."""
    with_own = OverlapTask(TINY, tmp_path, str(made))
    assert with_own.prepare(lambda: False, lambda label, share: None)
    drawn: list[str] = []
    make = with_own.maker._make
    with_own.maker._make = lambda kind, generator, **how: drawn.append(kind) or make(kind, generator, **how)  # type: ignore
    groups = [with_own.maker.group(step, 0) for step in range(12)]
    assert 2 <= drawn.count("own") <= 10 and set(drawn) == {"own", "shape"}
    again = with_own.maker.closed()
    again.prepare()
    assert torch.equal(again.group(7, 0).same, groups[7].same)


def test_the_recipe_starts_from_the_bundled_weights(made: Path, tmp_path: Path) -> None:
    config = PRESETS["overlap-own"]
    assert isinstance(config, OverlapTraining) and config.start == "overlap" and 0 < config.data.own < 1
    model = OverlapTask(config, tmp_path, str(made)).build(torch.Generator())
    ours, bundled = model.state_dict(), deepgmr.load("overlap").state_dict()
    assert all(torch.equal(ours[name], bundled[name]) for name in bundled)


def test_the_commands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shard", str(folder), "-o", str(tmp_path / "set"), "--overlap", "0.4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scans"] == SCANS and told["pairs"] == len(index(tmp_path / "set")["pairs"])
    toml = tmp_path / "mine.toml"
    toml.write_text(
        'preset = "overlap"\n[network]\nwidth = 16\nheads = 2\nblocks = 1\nnodes = 32\n'
        "[data]\nown = 0.9\nshapes = 1.0\nworkers = 0\n[optimiser]\nsteps = 1\nwarmup = 1\n"
    )
    train_it = ["train", str(toml), "--out", str(tmp_path / "out"), "--data"]
    assert main([*train_it, str(folder)]) == 2
    assert "deepgmr shard FOLDER" in capsys.readouterr().err
    assert main([*train_it, str(tmp_path / "set"), "--pool", str(tmp_path / "pool")]) == 0
    assert "and the scans in" in capsys.readouterr().err
    assert main(["train", "--preset", "tiny", "--out", str(tmp_path / "x"), "--pool", str(tmp_path)]) == 2
