"""Training: learns, stops and resumes bit for bit, shares its work, and says what is wrong with a configuration."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepgmr.datasets.pairs.protocols import make_pairs
from deepgmr.errors import InvalidConfig, InvalidFile
from deepgmr.io import checkpoint
from deepgmr.networks import NetworkConfig
from deepgmr.training import (
    LOSSES,
    PRESETS,
    DataConfig,
    OptimiserConfig,
    PairTask,
    Result,
    TrainingConfig,
    TrainingProgress,
    read_config,
    train,
)
from deepgmr.training.config import LOSS_NAMES
from deepgmr.training.progress import describe, draw
from deepgmr.training.state import Run, learning_rate

TINY = TrainingConfig(
    name="tiny",
    network=NetworkConfig(components=4, encoder=(16,), decoder=(16,), pooled=8, landmarks=2),
    data=DataConfig(protocol="noisy", queries=64),
    optimiser=OptimiserConfig(steps=6, batch=4, warmup=2, precision="fp32"),
)


def _task(config: TrainingConfig = TINY, *, clouds: int = 8) -> PairTask:
    generator = torch.Generator().manual_seed(3)
    direction = torch.nn.functional.normalize(torch.randn(clouds, 1024, 3, generator=generator), dim=-1)
    stretch = 0.3 + torch.rand(clouds, 1, 3, generator=generator)
    shapes = direction * stretch * (1 + 0.4 * (3 * direction[..., :1]).sin())
    return PairTask(config, shapes, shapes[:2])


def _weights(result: Result) -> dict[str, Tensor]:
    return checkpoint.read(result.checkpoint).tensors


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# -- losses --------------------------------------------------------------------------------------------------------


def test_the_named_losses_are_the_offered_ones() -> None:
    assert tuple(LOSSES) == LOSS_NAMES


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_every_loss_is_lowest_when_the_clouds_are_the_same_points(name: str, generator: torch.Generator) -> None:
    task = _task()
    model = task.build(generator)
    values = []
    for protocol in ("clean", "noisy"):
        pair = make_pairs(task.clouds, protocol, generator=generator)
        values.append(LOSSES[name](model(pair.source, pair.target), pair))
    clean, noisy = values
    assert clean.shape == (8,)
    assert clean.abs().max() < 5e-3
    assert noisy.mean() > clean.mean()


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_queried_points_correspond_so_losses_agree_with_all_points_queried(name: str) -> None:
    config = replace(TINY, losses={name: 1.0}, data=DataConfig(queries=1023))
    task = _task(config)
    model = task.build(torch.Generator().manual_seed(0))
    batch = task.make_batch(torch.Generator().manual_seed(1), rank=0, processes=1)
    queried, _ = task.loss(model, batch)
    everything, _ = _task(replace(config, data=DataConfig(queries=0))).loss(model, batch)
    assert queried.item() == pytest.approx(everything.item(), rel=0.05, abs=1e-4)


# -- the loop ------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_publishes_weights_that_load(tmp_path: Path) -> None:
    config = replace(TINY, optimiser=replace(TINY.optimiser, steps=60, batch=8, rate=1e-2))
    rows: list[dict[str, float]] = []
    result = train(config, out=tmp_path, task=_task(config), progress=lambda row: rows.append(dict(row)), log_every=20)
    assert result.finished and result.step == 60
    assert [row["step"] for row in rows] == [20, 40, 60]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[-1]["validation recall@0.2"] == 1.0
    model = checkpoint.load(tmp_path / "tiny.safetensors")
    for name, value in _task(config).validate(model).items():  # validation was of the weights that are published
        assert rows[-1][f"validation {name}"] == value
    assert model.provenance["training"] == checkpoint.to_plain(config)
    assert model.provenance["pairs"] == 480
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == rows
    assert _same(dict(model.state_dict()), checkpoint.read(result.checkpoint).part("ema"))


def test_the_same_seed_repeats_a_training_and_another_does_not(tmp_path: Path) -> None:
    first = _weights(train(TINY, out=tmp_path / "a", task=_task()))
    assert _same(first, _weights(train(TINY, out=tmp_path / "b", task=_task())))
    other = replace(TINY, seed=1)
    assert not _same(first, _weights(train(other, out=tmp_path / "c", task=_task(other))))


def test_a_training_starts_from_given_weights(tmp_path: Path) -> None:
    train(TINY, out=tmp_path, task=_task())
    file = tmp_path / "tiny.safetensors"
    further = replace(TINY, start=str(file))
    model = _task(further).build(torch.Generator().manual_seed(5))
    assert _same(dict(model.state_dict()), dict(checkpoint.load(file).state_dict()))
    with pytest.raises(InvalidConfig, match="another network"):
        _task(replace(further, network=NetworkConfig())).build(torch.Generator())


def test_it_says_where_it_starts_from(tmp_path: Path) -> None:
    said: list[str] = []
    scratch = train(TINY, out=tmp_path / "a", task=_task(), time_limit=0.0, announce=said.append)
    train(TINY, out=tmp_path / "a", task=_task(), resume=True, announce=said.append)
    weights = str(tmp_path / "a" / "tiny.safetensors")
    further = replace(TINY, start=weights)
    train(further, out=tmp_path / "b", task=_task(further), announce=said.append)
    assert said == [
        "starting from scratch, with random weights",
        f"going on from {scratch.checkpoint} at step 1",
        f"starting from the weights `{weights}`",
    ]
    assert [name for name, preset in PRESETS.items() if preset.start] == ["overlap-own"]  # it adapts what is there


def test_training_does_not_touch_the_global_random_state(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(TINY, out=tmp_path, task=_task())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device to write to")
def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidFile, match=r"file/out: could not be written \(Not a directory\)"):
        train(TINY, out=tmp_path / "file" / "out", task=_task())
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    with pytest.raises(InvalidFile, match=r"history.jsonl: could not be written \(No space left on device\)"):
        train(TINY, out=tmp_path, task=_task())


def test_a_time_limit_stops_early_and_resuming_ends_where_one_go_would(tmp_path: Path) -> None:
    config = replace(TINY, optimiser=replace(TINY.optimiser, steps=3))
    whole = train(config, out=tmp_path / "whole", task=_task(config))
    pieces = train(config, out=tmp_path / "pieces", task=_task(config), time_limit=0)
    assert pieces.step == 1 and not pieces.finished
    while not pieces.finished:
        pieces = train(config, out=tmp_path / "pieces", task=_task(config), resume=True, time_limit=0)
    assert _same(_weights(whole), _weights(pieces))


_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1])))
import torch
torch.set_num_threads(1)
import test_training as t
from deepgmr.training import train
config = t.replace(t.TINY, optimiser=t.replace(t.TINY.optimiser, steps=40))
train(config, out=sys.argv[2], task=t._task(config), resume=True, checkpoint_seconds=0.0, log_every=5)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_and_resume_gives_the_same_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parent)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, timeout=120)
    killed = tmp_path / "killed"
    deaths = 0
    for patience in (0.03, 0.3):  # seconds after the first checkpoint appears
        child = subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 60
        while not (killed / "checkpoint.safetensors").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        seen = (killed / "checkpoint.safetensors").stat().st_mtime_ns
        while child.poll() is None and (killed / "checkpoint.safetensors").stat().st_mtime_ns == seen:
            time.sleep(0.005)
        time.sleep(patience)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            deaths += 1
        child.wait()
        checkpoint.read(killed / "checkpoint.safetensors")  # raises unless whole
    assert deaths > 0
    subprocess.run([*command, str(killed)], check=True, timeout=120)
    whole, resumed = (checkpoint.read(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "killed"))
    assert resumed.state["step"] == 40
    assert _same(whole.tensors, resumed.tensors)
    steps = [json.loads(line)["step"] for line in (killed / "history.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_a_folder_with_a_training_is_not_overwritten_nor_mixed(tmp_path: Path) -> None:
    train(TINY, out=tmp_path, task=_task())
    with pytest.raises(InvalidConfig, match=r"already holds a training.*--resume"):
        train(TINY, out=tmp_path, task=_task())
    with pytest.raises(InvalidConfig, match="another configuration; differing: optimiser"):
        train(replace(TINY, optimiser=replace(TINY.optimiser, rate=1.0)), out=tmp_path, task=_task(), resume=True)


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_weights(tmp_path: Path) -> None:
    run = Run(TINY, _task(), tmp_path, torch.device("cpu"))
    with torch.no_grad():
        run.parameters[0][0, 0] = float("nan")
    before = [parameter.detach().clone() for parameter in run.parameters]
    with pytest.raises((FloatingPointError, ValueError)):
        run.advance()
    assert all(torch.equal(a, b) for a, b in zip(before[1:], run.parameters[1:], strict=True))


def test_training_needs_little_installed() -> None:
    code = "import deepgmr.training, sys; print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"rich", "typer", "trimesh", "open3d", "small_gicp", "matplotlib", "tensorboard"}


# -- configuration -------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_and_comes_down_to_the_final_one() -> None:
    config = OptimiserConfig(steps=100, warmup=10, rate=1.0, final_rate=0.1)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(1.0) and rates[100] == pytest.approx(0.1)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_a_file_changes_what_it_names_and_keeps_the_rest_of_its_preset(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        'preset = "paper"\nname = "mine"\n[optimiser]\nsteps = 5\nrate = 1\n'
        "[losses]\nkl = 0.5\n[network]\nencoder = [8]\n"
    )
    config = read_config(path)
    assert config.name == "mine" and config.optimiser.steps == 5 and config.optimiser.rate == 1.0
    assert config.losses == {"kl": 0.5}
    assert config.network.encoder == (8,) and config.network.components == PRESETS["paper"].network.components


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3", "unknown key `steps`"),
        ("[optimiser]\nstep = 3", r"unknown key `optimiser\.step`"),
        ("[losses]\nrmse = 1.0", "unknown losses"),
        ("[data]\nprotocol = 'easy'", "unknown protocol `easy`"),
        ("[optimiser]\nprecision = 'fp8'", "precision is bf16 or fp32"),
        ("[optimiser]\nbatch = 0", "at least one"),
        ("preset = 'huge'", "unknown preset `huge`"),
        ("[network", "cannot read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InvalidConfig, match=message) as caught:
        read_config(path)
    assert "bad.toml" in str(caught.value)


def test_presets_survive_the_file_they_would_be_saved_in() -> None:
    for config in PRESETS.values():
        assert checkpoint.from_plain(type(config), json.loads(json.dumps(checkpoint.to_plain(config)))) == config


# -- what a person sees --------------------------------------------------------------------------------------------


def test_progress_is_plain_lines_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"step": 5.0, "loss": 0.25, "recall@.05": 1.0, "pairs_per_second": 80.0, "seconds_left": 61.0}
    with TrainingProgress(10) as progress:
        progress(row)
    assert capsys.readouterr().err == "step 5/10  loss 0.25  recall@.05 1  80 pairs/s  1 min 01 s left\n"
    assert describe(row).endswith("1 min 01 s left")


def test_progress_is_a_bar_on_a_terminal() -> None:
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with TrainingProgress(10, stream=terminal) as progress:
        progress({"step": 5.0, "loss": 0.25, "pairs_per_second": 80.0, "seconds_left": 61.0})
    assert "5/10" in terminal.getvalue() and "loss 0.25" in terminal.getvalue()


def test_a_picture_shows_both_clouds() -> None:
    image = draw(torch.rand(50, 3), torch.rand(50, 3) + 2)
    assert image.shape == (256, 256, 3)
    assert len({tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}) == 3  # paper and two colours


def test_tensorboard_gets_scalars_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(TINY, out=tmp_path, task=_task(), tensorboard=True, log_every=3, validate_every=3)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "recall@.05", "validation/error"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["registered pair"]


# -- the script ----------------------------------------------------------------------------------------------------


def _modelnet(folder: Path) -> Path:
    """Ten clouds in the official layout."""
    import h5py

    folder.mkdir()
    clouds = _task(clouds=10).clouds.numpy()
    for split, rows in (("train", slice(0, 8)), ("test", slice(8, 10))):
        with h5py.File(folder / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = clouds[rows]
            file["label"] = [[i % 2] for i in range(len(clouds[rows]))]
    (folder / "shape_names.txt").write_text("airplane\nbathtub\n")
    return folder


@pytest.mark.slow
def test_the_script_trains_from_a_file_and_refuses_bad_settings_with_one_line(tmp_path: Path) -> None:
    data = _modelnet(tmp_path / "modelnet")
    config = tmp_path / "config.toml"
    config.write_text(
        'name = "small"\n[network]\ncomponents = 4\nencoder = [16]\ndecoder = [16]\npooled = 8\nlandmarks = 2\n'
        "[data]\ncategories = 2\nqueries = 64\n[optimiser]\nsteps = 3\nbatch = 2\n"
    )
    script = Path(__file__).resolve().parents[2] / "scripts" / "train.py"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), str(config), "--data", str(data), "--out", str(tmp_path / "out")]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)

    done = run()
    assert done.returncode == 0, done.stderr
    assert "finished at step 3" in done.stdout and "step 3/3" in done.stderr
    assert done.stderr.startswith("training `small` on ModelNet40 in ") and "starting from scratch" in done.stderr
    assert checkpoint.load(tmp_path / "out" / "small.safetensors").provenance["steps"] == 3
    weights = tmp_path / "out" / "small.safetensors"
    further = run("--start", str(weights), "--out", str(tmp_path / "further"))
    assert further.returncode == 0 and f"starting from the weights `{weights}`" in further.stderr
    again = run()
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("error: ") and again.stderr.count("\n") == 2
