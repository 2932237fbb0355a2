"""`deepgmr odometry FOLDER`: the poses of a moving sensor, from its scans."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgmr.cli.terminal import NOT_TRUSTED, REGISTERED, answering, progress_bar, put, say
from deepgmr.errors import InvalidCloud, InvalidFile, InvalidInput

if TYPE_CHECKING:
    from deepgmr.odometry import Odometry


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Scans of one sensor, in the order of their names.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the poses; by default print them.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="tum (time, place and quaternion a line) or kitti (the upper rows of the 4x4).  [default: tum]",
            autocompletion=lambda: ["tum", "kitti"],
        ),
    ] = "tum",
    times: Annotated[
        Path | None,
        typer.Option(
            "--times", metavar="FILE", help="Seconds, one a line.  [default: times.txt by the scans, or 0 1 2 ...]"
        ),
    ] = None,
    no_loops: Annotated[bool, typer.Option("--no-loops", help="Do not look for places that are come back to.")] = False,
    drop_invalid: Annotated[bool, typer.Option("--drop-invalid", help="Ignore points that are not finite.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what became of each scan.")] = False,
) -> None:
    """Follow a sensor through its scans and give its poses, in the frame of the first.

    Where a place is come back to, the way is bent so that it fits. Exits with 0, 2 on bad input, and 3 when some scans
    have no pose because tracking was lost: TUM's format leaves those out, KITTI's cannot, and nothing is written. Reads
    what `register` reads, KITTI's .bin included.
    """
    with answering("deepgmr odometry", as_json=as_json):
        from deepgmr import io as files
        from deepgmr.io.sequences import scans_in
        from deepgmr.io.trajectories import check_format, trajectory_text

        check_format(format)
        if output is not None:
            files.check_writable(output)
        scans = scans_in(folder)
        seconds = _seconds(folder, times, len(scans))

        from deepgmr.odometry import Odometry

        with progress_bar() as progress, redirect_stdout(sys.stderr):
            odometry = Odometry(loops=not no_loops)
            for number, path in enumerate(scans):
                progress(f"{path.name}", number / len(scans))
                try:
                    points = files.read_cloud(path, properties=False).points
                    fix = odometry.feed(
                        points, time=None if seconds is None else seconds[number], drop_invalid=drop_invalid
                    )
                except InvalidCloud as error:
                    raise InvalidCloud(f"{path}: {error}") from None
                if verbose or not fix.trusted:
                    say(f"{path.name}: {fix.status}, overlap {fix.overlap:.2f}, {fix.milliseconds:.0f} ms")
            trajectory = odometry.trajectory
        lost = [fix.number for fix in odometry.fixes if not fix.trusted]
        if lost and format == "kitti":
            raise InvalidInput(
                f"{len(lost)} of {len(scans)} scans have no pose (the first is {scans[lost[0]].name}), and KITTI's format "
                "has a line for every scan; use --format tum"
            )
        if output is not None:
            files.write_trajectory(output, trajectory, format=format)
        if as_json:
            put(json.dumps(_told(odometry, trajectory.poses, scans), allow_nan=False) + "\n")
        elif output is None:
            put(trajectory_text(trajectory, format))
        else:
            say(_summary(odometry))
        raise typer.Exit(NOT_TRUSTED if lost else REGISTERED)


def _seconds(folder: Path, given: Path | None, count: int) -> list[float] | None:
    """When each scan was taken, where it is known. Raises `InvalidFile`."""
    from deepgmr.io.sequences import TIMES
    from deepgmr.io.trajectories import read_times

    path = given or next((place / TIMES for place in (folder, folder.parent) if (place / TIMES).is_file()), None)
    if path is None:
        return None
    times = read_times(path)
    if len(times) < count or (given is not None and len(times) != count):
        raise InvalidFile(f"{path}: has {len(times)} times for {count} scans of {folder}; give one for each")
    return times[:count].tolist()


def _told(odometry: Odometry, poses: Any, scans: list[Path]) -> dict[str, Any]:
    """Everything, as JSON can hold it."""
    from deepgmr.pipeline.answer import plain

    found = iter(poses.tolist())
    fixes = [
        fix.to_dict() | {"path": str(path), "corrected": next(found) if fix.trusted else None}
        for fix, path in zip(odometry.fixes, scans, strict=True)
    ]
    return {"summary": _summary(odometry), "scans": fixes, "loops": [plain(vars(loop)) for loop in odometry.loops]}


def _summary(odometry: Odometry) -> str:
    """What became of the scans, in a line."""
    from numpy import median

    count = Counter(fix.status.value for fix in odometry.fixes)
    said = ", ".join(f"{number:,} {status}" for status, number in count.items())
    spent = median([fix.milliseconds for fix in odometry.fixes])
    return f"{len(odometry.fixes):,} scans: {said}; {len(odometry.loops)} loops; {spent:.0f} ms a scan"
