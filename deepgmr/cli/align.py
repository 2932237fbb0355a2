"""`deepgmr align SCANS`: many scans into one frame, written moved."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgmr.cli.terminal import NOT_TRUSTED, REGISTERED, answering, progress_bar, put, say
from deepgmr.errors import InvalidInput

if TYPE_CHECKING:
    from deepgmr.alignment import Alignment


def command(
    scans: Annotated[list[Path], typer.Argument(metavar="SCANS...", help="Two scans or more, or a folder of them.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Write the moved scans there, with their properties."),
    ] = None,
    poses: Annotated[
        Path | None,
        typer.Option(
            "--poses", metavar="FILE", help="Write the poses as TUM has them, of the scans in the largest frame."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all that was found as JSON; - prints it.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="OUT.html", help="Write a page that shows the scans and the edges."),
    ] = None,
    trust: Annotated[
        float, typer.Option("--trust", metavar="P", help="Confidence of every scan from which 0 is the exit code.")
    ] = 0.9,
    budget: Annotated[
        int | None, typer.Option("--budget", metavar="N", min=1, help="Try no more than so many pairs.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Processes that share the work.")] = 1,
    bundle: Annotated[
        str, typer.Option("--bundle", metavar="NAME|FILE", help="What answers, by name or file.")
    ] = "default",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the points on meshes.")] = 0,
    drop_invalid: Annotated[bool, typer.Option("--drop-invalid", help="Ignore points that are not finite.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what became of each pair.")] = False,
) -> None:
    """Put scans that were taken in any order and in any poses into one frame, that of the first.

    Prints a line a scan. Exits with 0, 2 on bad input, and 3 when not all scans are in one frame, each with the confidence
    asked for. Scans that hang together but not with the others are written to folders of their own (part2, part3, ...),
    those that hang together with none are not written. Reads what `register` reads.
    """
    with answering("deepgmr align", as_json=str(json_file) == "-"):
        from deepgmr import io as files
        from deepgmr.io.disk import replacing
        from deepgmr.io.sequences import scans_in

        if not 0.0 <= trust <= 1.0:
            raise InvalidInput(f"--trust must be a probability from 0 to 1, got {trust:g}")
        paths = scans_in(scans[0]) if len(scans) == 1 and scans[0].is_dir() else scans
        names = _names(paths, output)
        for path in (poses, report, json_file):
            if path is not None and str(path) != "-":
                files.check_writable(path)

        from deepgmr.alignment import align
        from deepgmr.pipeline.registrar import Registrar

        with progress_bar() as progress, redirect_stdout(sys.stderr):
            found = align(
                paths,
                registrar=Registrar.load(bundle),
                workers=workers,
                budget=budget,
                seed=seed,
                drop_invalid=drop_invalid,
                progress=progress,
            )
        if verbose:
            for edge in found.edges:
                sure = f"confidence {edge.confidence:.3f}, probability {edge.probability:.3f}"
                verdict = "accepted" if edge.accepted else "rejected"
                say(f"{paths[edge.first].name} - {paths[edge.second].name}: {verdict}, {sure}: {edge.why}")
        if output is not None:
            _write(found, paths, output, names, seed)
        if poses is not None:
            import numpy as np

            from deepgmr.io.trajectories import Trajectory, write_trajectory

            largest = np.array(found.components[0])
            write_trajectory(poses, Trajectory(found.poses[largest], largest.astype(np.float64)))
        if report is not None:
            found.report(report, names=[path.name for path in paths])
        if json_file is not None:
            told = found.to_dict()
            for scan, path in zip(told["scans"], paths, strict=True):
                scan["path"] = str(path)
            text = json.dumps(told, allow_nan=False) + "\n"
            if str(json_file) == "-":
                put(text)
            else:
                with replacing(json_file) as stream:
                    stream.write(text.encode())
        if str(json_file) != "-":
            put("".join(_lines(found, paths)))
        raise typer.Exit(REGISTERED if found.trusted(trust) else NOT_TRUSTED)


def _names(paths: list[Path], output: Path | None) -> list[str]:
    """What the moved scans are called: as they were, as PLY what cannot be written. Raises `InvalidInput`."""
    from deepgmr.io import WRITABLE

    names = [path.name if path.suffix.lower() in WRITABLE else f"{path.stem}.ply" for path in paths]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if output is not None and twice:
        raise InvalidInput(f"{twice[0]}: {names.count(twice[0])} scans would be written by that name; rename them")
    if output is not None and output.exists() and not output.is_dir():
        raise InvalidInput(f"{output}: is a file; give a folder to write the moved scans to")
    for path in paths if output is not None else []:
        if os.path.realpath(path.parent) == os.path.realpath(output or ""):
            raise InvalidInput(f"{output}: is where {path.name} lies, which would be overwritten; give another folder")
    return names


def _write(found: Alignment, paths: list[Path], output: Path, names: list[str], seed: int) -> None:
    """Every scan that hangs together with others, moved, one at a time: they may be large."""
    from deepgmr import io as files

    for part, members in enumerate(found.components):
        folder = output if part == 0 else output / f"part{part + 1}"
        if len(members) < 2:
            say(f"note: {paths[members[0]].name} hangs together with no other scan and is not written")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for scan in members:
            moved = files.transformed(files.read_cloud(paths[scan], seed=seed), found.poses[scan])
            lost = files.write_cloud(folder / names[scan], moved)
            if lost:
                say(f"note: {names[scan]} cannot hold {', '.join(lost)}")


def _lines(found: Alignment, paths: list[Path]) -> list[str]:
    """A line a scan: its frame, its confidence, its name; and a summary behind a #."""
    rows: list[Any] = [
        f"{part + 1} {found.confidence[scan]:.3f} {path}\n"
        for scan, (path, part) in enumerate(zip(paths, found.component.tolist(), strict=True))
    ]
    accepted = sum(edge.accepted for edge in found.edges)
    largest = f"{len(found.components[0])} of {len(paths)} scans in one frame"
    return [*rows, f"# {largest}; {len(found.edges)} pairs tried, {accepted} agree\n"]
