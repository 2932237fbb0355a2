"""What a person sees while training runs: a bar on a terminal, lines in a file, TensorBoard on request."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from deepgmr.extras import extra
from deepgmr.remaining import Lines, spoken

_SIDE = 256  # pixels of each panel of the picture
_COLOURS = ((0, 114, 178), (230, 120, 0))  # source, target: told apart by colour-blind eyes too


class TrainingProgress:
    """Called with the numbers of every logged step: a bar where the stream is a terminal, plain lines elsewhere.

    with TrainingProgress(steps) as progress:
        train(config, out=out, data=data, progress=progress, announce=progress.say, stage=progress.stage)
    """

    def __init__(self, steps: int, *, stream: TextIO | None = None) -> None:
        self.steps = steps
        self.stream = stream or sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._lines = Lines(self.say, first=0.0)

    def __enter__(self) -> TrainingProgress:
        if self.stream.isatty():
            from rich import progress as rich_progress  # here: training must run where rich is not installed
            from rich.console import Console

            self._bar = rich_progress.Progress(
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TextColumn("{task.description}"),
                console=Console(file=self.stream),
            )
            self._task = self._bar.add_task("", total=self.steps)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, sentence: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.console.print(sentence, markup=False, highlight=False)
        else:
            self.stream.write(sentence + "\n")
            self.stream.flush()

    def stage(self, label: str, done: float) -> None:
        """What goes on while there are no numbers yet, and the share of it that is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=round(self.steps * done), description=label)
        else:
            self._lines(label, done)

    def __call__(self, row: Mapping[str, float]) -> None:
        text = describe(row)
        if self._bar is not None:
            self._bar.update(self._task, completed=int(row["step"]), description=text)
        else:
            self.stream.write(f"step {int(row['step'])}/{self.steps}  {text}\n")
            self.stream.flush()


def describe(row: Mapping[str, float]) -> str:
    """The numbers of a logged step in one line: losses and recall first, speed and the time left last."""
    hidden = ("step", "pairs_per_second", "seconds_left", "gradient")
    parts = [f"{name} {value:.4g}" for name, value in row.items() if name not in hidden]
    return "  ".join([*parts, f"{row['pairs_per_second']:.0f} pairs/s", f"{spoken(row['seconds_left'])} left"])


class TensorBoard:
    """Scalars of every logged step, and a picture of a registered pair at every validation.

    Raises `MissingDependency` where TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        extra("tensorboard", "tensorboard", "writing scalars and pictures")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def scalars(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name.replace("validation ", "validation/"), value, int(row["step"]))

    def picture(self, clouds: tuple[Tensor, Tensor, Tensor], step: int) -> None:
        """Source, target and registered source, each (N, 3): before on the left, after on the right."""
        source, target, registered = (cloud.detach().float().cpu() for cloud in clouds)
        image = np.concatenate([draw(source, target), draw(registered, target)], axis=1)
        self._writer.add_image("registered pair", torch.from_numpy(image), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


def draw(first: Tensor, second: Tensor) -> np.ndarray:
    """Two clouds (N, 3) from the front as an image (side, side, 3) uint8: points nearer the eye cover others."""
    both = torch.cat([first, second]).double()
    centre = (both.amax(0) + both.amin(0)) / 2
    half = float((both - centre).abs().amax()) or 1.0
    image = np.full((_SIDE, _SIDE, 3), 255, dtype=np.uint8)
    points = ((both - centre) / half).numpy()
    colours = np.repeat(np.array(_COLOURS, dtype=np.uint8), [len(first), len(second)], axis=0)
    order = np.argsort(points[:, 2])
    column = np.clip(((points[order, 0] * 0.94 + 1) / 2 * _SIDE).astype(int), 0, _SIDE - 2)
    row = np.clip(((1 - points[order, 1] * 0.94) / 2 * _SIDE).astype(int), 0, _SIDE - 2)
    for down in (0, 1):
        for right in (0, 1):
            image[row + down, column + right] = colours[order]
    return image
