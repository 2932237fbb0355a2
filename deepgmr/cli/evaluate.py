"""`deepgmr evaluate SUITE...`: one table a suite."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from deepgmr.cli.terminal import answering, progress_bar, put


def command(
    suites: Annotated[
        list[str],
        typer.Argument(
            metavar="SUITE...",
            help="Fixed-pair .h5 files, folders of scans, 3DMatch; #unseen, #3DLoMatch, #recrop70, ... select, "
            "or worlds such as halls#s4-500k.",
        ),
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", metavar="NAME", help="Repeatable: register:fast, ransac, a bundle, ... [default: register]"
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write every number of every pair.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many pairs of each suite.")] = None,
    max_rotation: Annotated[
        float | None, typer.Option("--max-rotation", metavar="DEG", help="Rotations are known to be below this.")
    ] = None,
    points: Annotated[int | None, typer.Option("--points", min=3, help="Cut every cloud to so many points.")] = None,
) -> None:
    """Print one table a suite: recall, errors and times of each method, under a row for doing nothing."""
    with answering("deepgmr evaluate"):
        from deepgmr import io as files

        if output is not None:
            files.check_writable(output)
        from deepgmr import evaluation

        with progress_bar() as progress, redirect_stdout(sys.stderr):
            tables = evaluation.evaluate(
                suites,
                methods or ["register"],
                limit=limit,
                max_rotation_degrees=max_rotation,
                points=points,
                progress=progress,
            )
        if output is not None:
            evaluation.write_json(output, tables)
        put(evaluation.to_text(tables) + "\n")
