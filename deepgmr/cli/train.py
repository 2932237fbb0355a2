"""`deepgmr train CONFIG`: train a network, and go on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from deepgmr.cli.terminal import answering, put
from deepgmr.errors import InvalidConfig


def command(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="A TOML file.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="In place of a file.")] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="NAME_OR_FILE", help="Weights to start from.  [default: from scratch]"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="ModelNet40 in its official layout; overlap: its scenes."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For checkpoints, history and weights.")] = ...,  # type: ignore[assignment]
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", metavar="SECONDS", min=0, help="Save and stop after so long.")
    ] = None,
    keep_every: Annotated[
        int, typer.Option("--keep-every", metavar="STEPS", min=0, help="Keep the weights of every so many.")
    ] = 0,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...  [default: a GPU if any]")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write scalars and pictures too.")] = False,
) -> None:
    """Train a network from a configuration or a preset; interrupted, it goes on with --resume."""
    with answering("deepgmr train"):
        if (config is None) == (preset is None):
            raise InvalidConfig("give either a configuration file or --preset NAME, and not both")
        from deepgmr import training

        if preset is not None and preset not in training.PRESETS:
            raise InvalidConfig(f"unknown preset `{preset}`; the presets are {', '.join(sorted(training.PRESETS))}")
        chosen = training.read_config(config) if config is not None else training.PRESETS[str(preset)]
        if start is not None:
            chosen = replace(chosen, start=start)
        with training.TrainingProgress(chosen.optimiser.steps) as progress:
            result = training.train(
                chosen,
                out=out,
                data=data,
                resume=resume,
                time_limit=time_limit,
                device=device,
                keep_every=keep_every,
                tensorboard=tensorboard,
                progress=progress,
                announce=progress.say,
            )
        put(f"{'finished' if result.finished else 'stopped'} at step {result.step}: {result.checkpoint}\n")
