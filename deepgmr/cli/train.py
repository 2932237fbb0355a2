"""`deepgmr train CONFIG`: train a network, and go on where it stopped."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from deepgmr.cli.terminal import answering, put
from deepgmr.errors import InvalidConfig

SMALL = 4096  # points whose responsibilities a step computes


def command(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="A TOML file.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="In place of a file: tiny, deepgmr, deepgmr-unseen, paper, overlap or overlap-own.",
            autocompletion=lambda: ["tiny", "deepgmr", "deepgmr-unseen", "paper", "overlap", "overlap-own"],
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="NAME_OR_FILE", help="Weights to start from.  [default: from scratch]"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR|URL",
            help="ModelNet40 in its official layout; for overlap what `deepgmr shard` wrote.  [default: procedural]",
        ),
    ] = None,
    pool: Annotated[
        Path | None, typer.Option("--pool", metavar="DIR", help="Procedural scenes of overlap.  [default: OUT/pool]")
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object about what came out.")] = False,
) -> None:
    """Train a network from a configuration or a preset; interrupted, it goes on with --resume.

    Without --data it learns from procedural pairs, and nothing has to be downloaded. Presets: tiny (half a minute),
    deepgmr (hours on a CPU core), deepgmr-unseen, paper, overlap, and overlap-own, which goes on from the overlap weights
    with posed scans of your own.
    """
    with answering("deepgmr train", as_json=as_json):
        if (config is None) == (preset is None):
            raise InvalidConfig("give either a configuration file or --preset NAME, and not both")
        from deepgmr import training

        if preset is not None and preset not in training.PRESETS:
            raise InvalidConfig(f"unknown preset `{preset}`; the presets are {', '.join(sorted(training.PRESETS))}")
        chosen = training.read_config(config) if config is not None else training.PRESETS[str(preset)]
        if start is not None:
            chosen = replace(chosen, start=start)
        with training.TrainingProgress(chosen.optimiser.steps) as progress, _threads(chosen):
            first = training.here().first
            if first:  # the others are silent
                progress.say(training.described(chosen, data, out=out, pool=pool, device=device))
            result = training.train(
                chosen,
                out=out,
                data=data,
                pool=pool,
                resume=resume,
                time_limit=time_limit,
                device=device,
                keep_every=keep_every,
                tensorboard=tensorboard,
                progress=progress,
                announce=progress.say,
                stage=progress.stage,
            )
        again = ["deepgmr", "evaluate"] if result.finished else ["deepgmr", *_words(sys.argv[1:]), "--resume"]
        told = {
            **{"finished": result.finished, "step": result.step, "checkpoint": str(result.checkpoint)},
            "weights": None if result.weights is None else str(result.weights),
            "next": shlex.join([*again, "--method", str(result.weights)] if result.finished else again),
        }
        if first:
            put(json.dumps(told) + "\n" if as_json else _text(told))


def _threads(chosen: Any) -> AbstractContextManager[None]:
    """One thread where a step is small: a second gains nothing, and beside other work made 30 seconds of it eight minutes."""
    from deepgmr.threads import one_thread

    points = chosen.optimiser.batch * getattr(chosen.data, "queries", SMALL + 1)
    return one_thread() if 0 < points <= SMALL else nullcontext()


def _words(arguments: list[str]) -> list[str]:
    """The words of this command without --resume."""
    return [word for word in arguments if word != "--resume"]


def _text(told: dict[str, Any]) -> str:
    if not told["finished"]:
        return f"stopped at step {told['step']}: {told['checkpoint']}\ngo on with: {told['next']}\n"
    return (
        f"finished at step {told['step']}: {told['checkpoint']}\nweights: {told['weights']}\n"
        f"evaluate them with: {told['next']}\n"
    )
