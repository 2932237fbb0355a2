"""`deepgmr evaluate SUITE...`: one table a suite."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from deepgmr.cli.terminal import answering, progress_bar, put
from deepgmr.errors import InvalidConfig


def command(
    suites: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE]...",
            help="Fixed-pair .h5 files, folders of scans, of ModelNet40 (#noisy, #crop70_180, #recrop70, ...) or of 3DMatch "
            "(#3DLoMatch, ...), worlds such as halls#s4-500k, or procedural#noisy.  [default: four small procedural ones]",
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME|FILE",
            help="Repeatable: register:fast, ransac, ..., or weights or a bundle by name or file.  [default: register]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="OUT.json|-", help="Write every number of every pair; - prints it, not the tables."
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option("--summary", metavar="OUT.json", help="Write the numbers of the tables alone, as JSON."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many pairs of each suite.")] = None,
    max_rotation: Annotated[
        float | None, typer.Option("--max-rotation", metavar="DEG", help="Rotations are known to be below this.")
    ] = None,
    points: Annotated[int | None, typer.Option("--points", min=3, help="Cut every cloud to so many points.")] = None,
) -> None:
    """Print one table a suite: recall, errors and times of each method, under a row for doing nothing.

    Distances are in the units of the suite (ModelNet and procedural shapes have radius 1), rotations in degrees.
    """
    printed = output == Path("-")
    with answering("deepgmr evaluate", as_json=printed):
        from deepgmr import io as files

        for option, path in (("json", None if printed else output), ("summary", summary)):
            if path is None:
                continue
            if path.suffix != ".json":
                instead = (
                    "; it might be a suite" if option == "summary" else ", or be - to print it; it might be a suite"
                )
                raise InvalidConfig(f"--{option} {path}: must end in .json{instead}")
            files.check_writable(path)
        from deepgmr import evaluation
        from deepgmr.datasets.suites.made import SMALL

        with progress_bar() as progress, redirect_stdout(sys.stderr):
            tables = evaluation.evaluate(
                suites or SMALL,
                methods or ["register"],
                limit=limit,
                max_rotation_degrees=max_rotation,
                points=points,
                progress=progress,
            )
        if output is not None and not printed:
            evaluation.write_json(output, tables)
        if summary is not None:
            evaluation.write_json(summary, tables, pairs=False)
        text = json.dumps(evaluation.to_result(tables), allow_nan=False) if printed else evaluation.to_text(tables)
        put(text + "\n")
