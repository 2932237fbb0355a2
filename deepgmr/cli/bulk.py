"""`deepgmr bulk`: the pairs of a table, on all cores or on a cluster."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deepgmr.cli.terminal import answering, progress_bar, put, say


def command(
    pairs: Annotated[str, typer.Argument(metavar="PAIRS", help="A .parquet, .csv or .jsonl; a path or a URL.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The .parquet of answers.")],
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="local or ray.  [default: local]",
            autocompletion=lambda: ["local", "ray"],
        ),
    ] = "local",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes, or actors of Ray.")] = 1,
    limit: Annotated[float, typer.Option("--limit", metavar="SECONDS", help="Give a pair up after so long.")] = 300.0,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="DIR", help="Where each machine keeps clouds that pairs share.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Of the Ray cluster.  [default: RAY_ADDRESS]")
    ] = None,
    preset: Annotated[str, typer.Option("--preset", metavar="NAME", help="As of register.")] = "default",
    bundle: Annotated[str, typer.Option("--bundle", metavar="NAME|FILE", help="As of register.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Register the pairs of a table and write a table of answers.

    PAIRS has the columns source and target (paths or URLs) and, where wanted, id, initial, initial_covariance,
    source_origin, target_origin, max_rotation_degrees and timeout. Answers are kept as they come, in FILE.parts: run the
    same command again after whatever went wrong, and it goes on. A pair that cannot be answered has its error in its row.
    Exits with 0 when every pair has a row, 2 on bad input.
    """
    with answering("deepgmr bulk", as_json=as_json):
        from deepgmr.bulk import bulk

        with progress_bar() as progress, redirect_stdout(sys.stderr):
            summary = bulk(
                pairs,
                output,
                engine=engine,
                workers=workers,
                limit=limit,
                cache=cache,
                address=address,
                preset=preset,
                bundle=bundle,
                progress=progress,
            )
        if as_json:
            put(json.dumps(asdict(summary) | {"rate": summary.rate}) + "\n")
        else:
            say(str(summary))
