"""Several processes at one training: they learn what one does, share their work, and outlive one that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deepgmr.datasets.pairs import pool
from deepgmr.errors import InvalidConfig
from deepgmr.io import checkpoint
from deepgmr.networks import NetworkConfig, OverlapConfig
from deepgmr.training import (
    DataConfig,
    OptimiserConfig,
    OverlapData,
    OverlapTask,
    OverlapTraining,
    PairTask,
    TrainingConfig,
    train,
)
from deepgmr.training.state import Run
from deepgmr.training.together import Group, here

PAIRS = TrainingConfig(
    name="pairs",
    network=NetworkConfig(components=4, encoder=(16,), decoder=(16,), pooled=8, landmarks=2),
    data=DataConfig(world="procedural", queries=64),
    optimiser=OptimiserConfig(steps=7, batch=11, warmup=2, precision="fp32"),
)
OVERLAP = OverlapTraining(
    name="overlap",
    network=OverlapConfig(width=16, heads=2, blocks=1, nodes=16),
    data=OverlapData(shapes=1.0, workers=0),
    optimiser=OptimiserConfig(steps=3, batch=48, warmup=2, precision="fp32"),
)

_CHILD = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_together as t
config, dies = {"pairs": t.PAIRS, "overlap": t.OVERLAP}[sys.argv[3]], int(sys.argv[4])
task = t.task(config, sys.argv[2])
if dies and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    lives, loss = iter(range(5)), task.loss
    def mortal(*given):
        if next(lives, None) is None:
            os.kill(os.getpid(), int(sys.argv[4]))
        return loss(*given)
    task.loss = mortal
t.train(config, out=sys.argv[2], task=task, checkpoint_seconds=0.0, log_every=1 if config is t.OVERLAP else 3, device="cpu")
"""


def task(config: TrainingConfig | OverlapTraining, out: str | Path) -> PairTask | OverlapTask:
    if isinstance(config, TrainingConfig):
        return PairTask.from_shapes(config)
    return OverlapTask(config, Path(out, "pool"))


def trained(out: Path, config: str, processes: int, *more: str, dies: int = 0) -> str:
    """One launch of torchrun on this machine, in which process 1 may get a signal in its sixth step; what it said."""
    child = out.with_suffix(".py")
    child.write_text(_CHILD)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *more, str(child)]
    arguments = [str(Path(__file__).parent), str(out), config, str(int(dies))]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, *launch, *arguments],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def curve(out: Path) -> dict[str, np.ndarray]:
    """The numbers of the history that are not of the clock, by name."""
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return {
        name: np.array([row[name] for row in rows])
        for name in rows[-1]
        if name not in ("pairs_per_second", "seconds_left") and name in rows[0]
    }


def weights(out: Path) -> dict[str, Tensor]:
    return checkpoint.read(out / "checkpoint.safetensors").part("model")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of `PAIRS`."""
    out = tmp_path_factory.mktemp("two") / "pairs"
    trained(out, "pairs", 2)
    return out


def assert_alike(out: Path, alone: Path) -> None:
    """One training but for the order of sums, and in the folder what the first process writes."""
    first, second = curve(alone), curve(out)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=2e-3, atol=1e-4, err_msg=name)
    for name, value in weights(out).items():
        torch.testing.assert_close(value, weights(alone)[name], rtol=1e-2, atol=2e-4)
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.iterdir()}


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path, two: Path) -> None:
    """Of eleven pairs each has another share."""
    train(PAIRS, out=tmp_path, task=task(PAIRS, tmp_path), log_every=3, device="cpu")
    assert_alike(two, tmp_path)


@pytest.mark.slow
def test_two_processes_learn_the_overlap_that_one_does(tmp_path: Path) -> None:
    """Of three groups each has another share."""
    train(OVERLAP, out=tmp_path / "one", task=task(OVERLAP, tmp_path), log_every=1, device="cpu")
    trained(tmp_path / "two", "overlap", 2)
    assert_alike(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "exitcode: -9"), (signal.SIGTERM, "was told to stop")])
def test_a_process_that_is_ended_is_started_again_and_changes_nothing(
    tmp_path: Path, two: Path, number: int, words: str
) -> None:
    """Without --resume: torchrun starts the same command again, and it goes on from the checkpoint of this launch.

    SIGTERM is what a process gets whose machine is to go, or to meet another one that joined: the other goes on as well.
    """
    out = tmp_path / "killed"
    assert words in trained(out, "pairs", 2, "--max-restarts=2", dies=number)
    first, second = curve(two), curve(out)
    assert first["step"].tolist() == second["step"].tolist() == [3.0, 6.0, 7.0]
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    ours, theirs = weights(two), weights(out)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_launch_does_not_go_on_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(PAIRS, optimiser=replace(PAIRS.optimiser, steps=2))

    def go(run: str, restarts: str = "0") -> int:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        return train(config, out=tmp_path, task=task(config, tmp_path), time_limit=0.0).step

    assert (go("a"), go("a")) == (1, 2)  # the agent of a machine that did not fail counts no restart of its own
    for name in ("b", "none", ""):
        with pytest.raises(InvalidConfig, match="already holds a training"):
            go(name)
    assert go("none", restarts="1") == 2


def test_what_was_killed_before_its_first_checkpoint_leaves_no_rows(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"step": 3.0, "loss": 9.0}\n')
    config = replace(PAIRS, optimiser=replace(PAIRS.optimiser, steps=1))
    train(config, out=tmp_path, task=task(config, tmp_path))
    assert curve(tmp_path)["step"].tolist() == [1.0]


@pytest.mark.parametrize("count", [1, 7, 12])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_shares_are_all_of_it_and_near_equal(count: int, processes: int) -> None:
    shares = [Group(rank, processes).share(count) for rank in range(processes)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_shares_of_a_batch_are_the_batch() -> None:
    """And what follows from a step does not depend on who draws it."""
    config = replace(PAIRS, optimiser=replace(PAIRS.optimiser, batch=20))
    made = PairTask.from_shapes(config)
    generator = torch.Generator().manual_seed(5)
    (whole,) = [made.make_batch(generator, rank=0, processes=1)]
    shares = [made.make_batch(generator, rank=rank, processes=3) for rank in range(3)]
    assert torch.equal(torch.cat([share.source for share in shares]), whole.source)
    motions = torch.cat([share.target_from_source.matrix for share in shares])
    assert torch.equal(motions, whole.target_from_source.matrix)


@pytest.mark.parametrize(("config", "most"), [(PAIRS, 11), (OVERLAP, 3)])
def test_more_processes_than_there_is_work_for_are_refused(
    tmp_path: Path, config: TrainingConfig | OverlapTraining, most: int
) -> None:
    batch = config.optimiser.batch
    message = rf"a batch of {batch} pairs is work for at most {most} processes, got {most + 1}; start fewer, or raise"
    with pytest.raises(InvalidConfig, match=message):
        Run(config, task(config, tmp_path), tmp_path, torch.device("cpu"), group=Group(0, most + 1))


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "0")])
def test_a_group_that_cannot_be(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(InvalidConfig, match="let torchrun set them"):
        here()


def test_a_pool_is_filled_from_another_place_to_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CHUNK", 2)
    first = pool.fill_pool(tmp_path / "a", "object", 6, 50)
    second = pool.fill_pool(tmp_path / "b", "object", 6, 50, begin=0.5)
    order = [path.name for path in sorted((tmp_path / "b").iterdir(), key=lambda path: path.stat().st_mtime_ns)]
    assert "0001" in order[0] and "0000" in order[-1]
    rows = torch.arange(6)
    assert torch.equal(first.pairs(rows).source, second.pairs(rows).source)
