"""`deepgmr calibrate --out DIR`: fit the ranking and the confidence, and write the bundle that uses them."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from deepgmr.cli.terminal import answering, progress_bar, put


def command(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For the bundle and its card.")] = ...,  # type: ignore[assignment]
    name: Annotated[str, typer.Option("--name", help="Of the bundle.")] = "default",
    bundle: Annotated[
        str, typer.Option("--bundle", metavar="NAME_OR_FILE", help="What to start from, settings included.")
    ] = "default",
    network: Annotated[
        str | None, typer.Option("--network", metavar="NAME_OR_FILE", help="Another overlap network to go with it.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", metavar="FILE", help="Other settings, a TOML file.")
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Procedural pairs of each kind.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the pairs.")] = 0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Fits, each on what the one before answers.")] = 2,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that register pairs.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object in place of the card.")] = False,
) -> None:
    """Register procedural pairs, fit what ranks the candidates and says how sure, and write one bundle and its card."""
    with answering("deepgmr calibrate", as_json=as_json):
        from deepgmr.pipeline.bundle import Bundle
        from deepgmr.training import calibration

        path = calibration.place(out, name)
        start = calibration.started(Bundle.load(bundle), network=network, settings=settings)
        said = shlex.join(["deepgmr", "calibrate", *sys.argv[2:]])
        with progress_bar() as progress, redirect_stdout(sys.stderr):
            made = calibration.calibrate(
                start, pairs=pairs, seed=seed, rounds=rounds, workers=workers, command=said, progress=progress
            )
        calibration.write(out, made, name=name)
        card = path.with_suffix(".md")
        if as_json:
            told = {"bundle": str(path), "card": str(card), "provenance": dict(made.provenance)}
            put(json.dumps(told, allow_nan=False) + "\n")
        else:
            put(f"{path}\n{card.read_text(encoding='utf-8')}")
