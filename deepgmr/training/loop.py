"""The loop: steps until done, out of time or interrupted; checkpoints, numbers and validation on the way."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deepgmr.errors import Cancelled, InvalidConfig
from deepgmr.training.config import AnyTraining, OverlapTraining
from deepgmr.training.overlap import OverlapTask
from deepgmr.training.progress import TensorBoard
from deepgmr.training.state import Run
from deepgmr.training.tasks import PairTask, Stage, Task
from deepgmr.training.together import device_of, joined

_LATE, _INTERRUPTED = 1, 2
Progress = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, eq=False)
class Result:
    """Where a training stopped."""

    step: int
    finished: bool  # all steps done; otherwise the time limit or an interrupt came first
    checkpoint: Path
    weights: Path | None  # what it learned, once it is finished
    history: tuple[dict[str, float], ...]


def train(
    config: AnyTraining,
    *,
    out: str | Path,
    data: str | Path | None = None,
    pool: str | Path | None = None,
    task: Task | None = None,
    resume: bool = False,
    time_limit: float | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
    stage: Stage | None = None,
    device: str | None = None,
    checkpoint_seconds: float = 120.0,
    log_every: int = 25,
    validate_every: int = 1000,
    keep_every: int = 0,
    tensorboard: bool = False,
) -> Result:
    """Train; `out` gets checkpoint.safetensors and history.jsonl as it goes, and in the end NAME.safetensors.

    data          unless a `task` is given, for DeepGMR the folder of ModelNet40 in its official HDF5 layout; for the overlap
                  network posed scans as `deepgmr shard` writes them, a folder or a URL; by default none: procedural pairs
    pool          where the overlap network keeps its procedural scenes, by default `out`/pool
    resume        continue from the checkpoint in `out`, if there is one; the configuration must be the same. What torchrun
                  starts again does so by itself
    time_limit    seconds of wall clock after which to save and stop, data still to be made included; a later resume
                  goes on from there
    progress      called with the numbers of every logged step: losses, recall, pairs a second, seconds left
    announce      called with a sentence on where the training starts from, and on a stop before its first step
    stage         called with (what is being done, the share done) while data is made and before the first numbers
    keep_every    also write the weights of every so many steps, as NAME-STEP.safetensors, to look back at; 0 for none

    Raises `InvalidConfig` if `out` already holds a training and `resume` is not asked for, or holds another one; of several
    processes `Cancelled` where another one was interrupted.
    """
    start = time.monotonic()
    where = device_of(device)
    if task is None:
        config = settled(config, data)
        task = _task(config, data, Path(out), pool)
    with joined(where) as group, _interrupts() as interrupted:
        run = Run(config, task, Path(out), where, group=group)
        run.begin(resume=resume)
        report = _Report(run, progress, tensorboard=tensorboard)
        steps, last_save = config.optimiser.steps, start
        say = announce if announce is not None and group.first else lambda sentence: None
        say(_origin(run))
        tell = stage if stage is not None and group.first else lambda label, share: None

        def over() -> int:
            """Why to stop, if at all; what one process has to, all do at the same step."""
            late = time_limit is not None and time.monotonic() - start >= time_limit
            return _INTERRUPTED if interrupted else _LATE if late else 0

        prepared = task.prepare(lambda: over() > 0, tell)
        stop = group.most(0 if prepared else over(), where)
        if stop:
            say("stopped while the data was made; what is made is kept, and resuming makes the rest")
        while not stop and run.step < steps:
            if not report.written:
                tell("the first steps", run.step / steps)
            run.advance()
            if run.step % validate_every == 0 or run.step == steps:
                report.validate()
            if run.step % log_every == 0 or run.step == steps:
                report.write()
            if keep_every and run.step % keep_every == 0:
                run.save()
                run.publish(f"{config.name}-{run.step}")
            stop = group.most(over(), where)
            if not stop and time.monotonic() - last_save >= checkpoint_seconds:
                run.save()
                last_save = time.monotonic()
        run.save()
        if run.step >= steps:
            run.publish()
        report.close()
    if (
        stop == _INTERRUPTED and not interrupted and run.step < steps
    ):  # else torchrun would take this one to have finished
        raise Cancelled(
            f"another process was told to stop; all of them have, at step {run.step}, and the state is saved"
        )
    finished = run.step >= steps
    weights = run.out / f"{config.name}.safetensors" if finished else None
    return Result(run.step, finished, run.path, weights, tuple(run.history))


def settled(config: AnyTraining, data: str | Path | None) -> AnyTraining:
    """The configuration as it is trained: without data a DeepGMR learns from procedural shapes, with data an overlap
    network from half as many pairs of those, where it says no share.

    Raises `InvalidConfig` for data beside a configuration that says procedural, and for no data beside a share of it.
    """
    if isinstance(config, OverlapTraining):
        if data is None and config.data.own:
            raise InvalidConfig(
                f"a share of {config.data.own:g} of the pairs is to come from scans of one's own, and no data are given; "
                "name what `deepgmr shard` wrote of them"
            )
        return config if data is None or config.data.own else replace(config, data=replace(config.data, own=0.5))
    if data is None:
        return replace(config, data=replace(config.data, world="procedural"))
    if config.data.world == "procedural":
        raise InvalidConfig("the configuration says world = procedural, which needs no data; leave one of them out")
    return config


def described(
    config: AnyTraining,
    data: str | Path | None,
    *,
    out: str | Path,
    pool: str | Path | None = None,
    device: str | None = None,
) -> str:
    """What a training is about to do, in one sentence."""
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(config, OverlapTraining):
        place = pool or Path(out, "pool")
        source = f"procedural shapes and scans of {config.data.scenes:,} scenes of each kind (in {place})"
        source += f" and the scans in {data}" if data is not None else ""
    else:
        source = (
            f"ModelNet40 in {data}" if data is not None else "procedural shapes, drawn anew at every step (no --data)"
        )
    work = f"{config.optimiser.steps:,} steps of {config.optimiser.batch} pairs on {where}"
    return f"training `{config.name}` on {source}: {work}, into {out}"


def _task(config: AnyTraining, data: str | Path | None, out: Path, pool: str | Path | None) -> Task:
    if isinstance(config, OverlapTraining):
        return OverlapTask(config, pool or out / "pool", own=None if data is None else str(data))
    if pool is not None:
        raise InvalidConfig(
            f"a pool of scenes is what an overlap network learns from; `{config.name}` has no use for {pool}"
        )
    return PairTask.from_shapes(config) if data is None else PairTask.from_modelnet(config, data)


def _origin(run: Run) -> str:
    if run.step:
        return f"going on from {run.path} at step {run.step}"
    start = run.config.start
    return f"starting from the weights `{start}`" if start else "starting from scratch, with random weights"


class _Report:
    """Means of the numbers since the last report, to the history, the progress callback and TensorBoard."""

    def __init__(self, run: Run, progress: Progress | None, *, tensorboard: bool) -> None:
        self.run = run
        self.progress = progress if run.group.first else None
        self.board = TensorBoard(run.out / "tensorboard") if tensorboard and run.group.first else None
        self.written = False
        self.extra: dict[str, float] = {}
        self.since, self.shown = time.monotonic(), run.step

    def validate(self) -> None:
        model = self.run.average.module
        numbers = self.run.task.validate(model)
        clouds = self.run.task.example(model) if self.board is not None else None
        self.extra = {f"validation {name}": value for name, value in numbers.items()}
        if self.board is not None and clouds is not None:
            self.board.picture(clouds, self.run.step)

    def write(self) -> None:
        run, timed, seconds = self.run, self.run.step - self.shown, time.monotonic() - self.since
        row = {"step": float(run.step)} | run.means() | self.extra
        row["pairs_per_second"] = timed * run.config.optimiser.batch / seconds
        row["seconds_left"] = (run.config.optimiser.steps - run.step) * seconds / timed
        run.log(row)
        if self.board is not None:
            self.board.scalars(row)
        if self.progress is not None:
            self.progress(row)
        self.written = True
        self.extra = {}
        self.since, self.shown = time.monotonic(), run.step

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """SIGINT and SIGTERM fill the list instead of ending the process, so that the step ends and is saved."""
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # only the main thread may listen
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda received, frame: caught.append(received))
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
