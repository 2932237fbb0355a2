"""`register SRC TGT`: find the motion, print it, and write what was asked for."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgmr.cli import showing
from deepgmr.cli.terminal import (
    NOT_TRUSTED,
    REGISTERED,
    Version,
    answering,
    is_terminal,
    one_line,
    paint,
    progress_bar,
    put,
    say,
)
from deepgmr.errors import InvalidCloud, InvalidConfig, InvalidInput

if TYPE_CHECKING:
    from deepgmr.io import CloudFile
    from deepgmr.pipeline.registrar import Registration


def command(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The cloud (or mesh) to move.")],
    target: Annotated[Path, typer.Argument(metavar="TGT", help="The cloud (or mesh) to move it onto.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the moved source, with its properties.")
    ] = None,
    transform: Annotated[
        Path | None, typer.Option("--transform", metavar="FILE", help="Write the 4x4 (.txt, .npy or .json).")
    ] = None,
    deviations: Annotated[
        Path | None,
        typer.Option("--deviations", metavar="FILE", help="Write the moved source, coloured by how far off it is."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    initial: Annotated[
        Path | None, typer.Option("--initial", metavar="FILE", help="A 4x4 known to be near the answer.")
    ] = None,
    max_rotation: Annotated[
        float | None, typer.Option("--max-rotation", metavar="DEG", help="The rotation is known to be below this.")
    ] = None,
    source_origin: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--source-origin", metavar="X Y Z", help="Where the sensor stood that saw SRC, in its frame."),
    ] = None,
    target_origin: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--target-origin", metavar="X Y Z", help="Where the sensor stood that saw TGT, in its frame."),
    ] = None,
    estimate_scale: Annotated[
        bool, typer.Option("--estimate-scale", help="SRC may be larger or smaller than TGT: find the scale as well.")
    ] = False,
    trust: Annotated[
        float | None,
        typer.Option("--trust", metavar="P", help="Confidence from which 0 is the exit code.  [default: 0.9]"),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", help="Then answer the best motion found so far, with the exit code 3."
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="default, fast, thorough or paper.  [default: default]",
            autocompletion=lambda: ["default", "fast", "thorough", "paper"],
        ),
    ] = "default",
    config: Annotated[
        list[str] | None,
        typer.Option("--config", metavar="KEY=VALUE|FILE", help="Settings: one, or a TOML file; may be repeated."),
    ] = None,
    bundle: Annotated[
        str, typer.Option("--bundle", metavar="NAME|FILE", help="What answers, by name or file.  [default: default]")
    ] = "default",
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write what was tried, as JSON.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="OUT.html", help="Write a page that shows the answer, and why.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="OUT.png", help="Write a picture, before and after.")
    ] = None,
    view: Annotated[
        bool, typer.Option("--view", help="Play the search in a window; needs the extra deepgmr[view].")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the points on meshes; clouds need none.")] = 0,
    no_refine: Annotated[bool, typer.Option("--no-refine", help="Skip the polish at full resolution.")] = False,
    drop_invalid: Annotated[bool, typer.Option("--drop-invalid", help="Ignore points that are not finite.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what was read and found.")] = False,
    version: Version = False,
) -> None:
    """Find the rigid motion that carries SRC onto TGT, and print it: x_target = R x_source + t.

    With --estimate-scale it is x_target = s R x_source + t.

    Prints the 4x4 (read it with numpy.loadtxt) and a verdict behind a #. Exits with 0 when registered, 2 on bad input,
    3 when there is an answer that should not be trusted. Of the presets, fast looks once, thorough leaves no look out,
    and paper is one forward pass of DeepGMR, for two samplings of one whole shape. Reads PLY, PCD, OBJ, STL, OFF, GLB,
    XYZ, PTS, TXT, CSV, NPY, NPZ, KITTI's BIN and, with the extras deepgmr[las] and deepgmr[e57], LAS, LAZ and E57.
    """
    with answering("register", as_json=as_json):
        from deepgmr import io as files
        from deepgmr.io.disk import replacing

        start = time.perf_counter()
        _check_paths(source, target, (output, deviations), (transform, trace, report, picture))
        showing.check(picture, view)
        if trust is not None and not 0.0 <= trust <= 1.0:
            raise InvalidInput(f"--trust must be a probability from 0 to 1, got {trust:g}")
        changes = _changes(preset, config or [])
        if max_rotation is not None and not 0.0 < max_rotation <= 180.0:
            raise InvalidInput(f"--max-rotation must be above 0 and at most 180 degrees, got {max_rotation:g}")
        if timeout is not None and not timeout > 0:
            raise InvalidInput(f"--timeout must be a positive number of seconds, got {timeout:g}")
        prior = None if initial is None else files.read_transform(initial, similar=estimate_scale)
        clouds = []
        with progress_bar() as progress:
            for number, path in enumerate((source, target)):
                progress(f"reading {path.name}", number / 2)
                clouds.append(files.read_cloud(path, seed=seed))
        if output is not None:
            files.check_output(output, clouds[0])
        if deviations is not None:
            files.check_output(deviations, replace(clouds[0], triangles=None))
        if verbose:
            for role, path, cloud in zip(("source", "target"), (source, target), clouds, strict=True):
                say(f"{role}: {path}: {_described(cloud)}")

        from deepgmr.cli import deviations as distances
        from deepgmr.pipeline.registrar import Registrar
        from deepgmr.pipeline.trace import Trace

        read = time.perf_counter()
        # A library that prints must not come between the caller and the one JSON object.
        with progress_bar() as progress, redirect_stdout(sys.stderr), _named(source=source, target=target):
            registrar = Registrar.load(bundle, preset=preset)
            for change in changes:
                registrar = registrar.replace(**change)
            kept = Trace()
            result = registrar.register(
                clouds[0],
                clouds[1],
                initial=prior,
                max_rotation_degrees=max_rotation,
                source_origin=source_origin,
                target_origin=target_origin,
                trust=trust,
                seed=seed,
                refine=not no_refine,
                drop_invalid=drop_invalid,
                trace=kept,
                timeout=timeout,
                progress=progress,
                estimate_scale=estimate_scale,
            )
        found = time.perf_counter()
        if output is not None:
            moved = files.transformed(clouds[0], result.target_from_source)
            lost = files.write_cloud(output, moved)
            if lost:
                say(f"note: {output.suffix} cannot hold {', '.join(lost)}; a .ply or .npz can hold more")
            if caveat := files.caveat(output, moved):
                say(f"note: {caveat}")
        measured = None
        if deviations is not None:
            moved = files.transformed(clouds[0], result.target_from_source)
            measured = distances.written(deviations, moved, clouds[1])
        if transform is not None:
            files.write_transform(transform, result.target_from_source)
        if trace is not None:
            with replacing(trace) as stream:
                stream.write(json.dumps(kept.to_dict(), allow_nan=False).encode())
        with redirect_stdout(sys.stderr):
            showing.show(
                result,
                kept,
                report=report,
                picture=picture,
                view=view,
                source=source.name,
                target=target.name,
                command=showing.said(context),
            )
        if verbose:
            say(f"reading and imports {read - start:.2f} s, registration {found - read:.2f} s")
            stats, (ours, theirs) = result.stats, result.stats.components
            say(f"{stats.looks} looks at {ours} and {theirs} components, {stats.hypotheses} hypotheses")
            say(f"settings {preset}, bundle {bundle} ({stats.bundle})")
            say(f"standard deviations: {result.deviations}; score {result.score:.3f}")
            for other in result.alternatives:
                say(f"alternative, score {other.score:.3f}:\n{files.matrix_text(other.target_from_source)}")
        if as_json:
            ends = {
                role: {"path": str(path), "points": len(cloud)}
                for role, path, cloud in zip(("source", "target"), (source, target), clouds, strict=True)
            }
            more = {"seconds": found - read} | ({} if measured is None else {"deviations": measured})
            put(json.dumps(result.to_dict() | ends | more, allow_nan=False) + "\n")
        else:
            for note in result.notes:
                if note != result.sentence:
                    say(f"note: {note}")
            if is_terminal(sys.stderr) and not result.trusted and report is None:
                say(f"note: {_advice(result, shown=verbose)}")
            put(files.matrix_text(result.target_from_source) + verdict(result) + "\n")
            if measured is not None:
                put(distances.as_text(measured))
        raise typer.Exit(REGISTERED if result.trusted else NOT_TRUSTED)


@contextmanager
def _named(**paths: Path) -> Iterator[None]:
    """A complaint about the `source` or `target` names the file it came from."""
    try:
        yield
    except InvalidCloud as error:
        if error.role in paths:
            raise InvalidCloud(f"{paths[error.role]}: {error}", role=error.role) from None
        raise


def _changes(preset: str, configs: list[str]) -> list[dict[str, Any]]:
    """What each --config changes; a wrong one is found before anything is read. Raises `InvalidConfig`."""
    from deepgmr.pipeline import settings

    tried = settings.preset(preset)
    changes = [_change(config) for config in configs]
    for config, change in zip(configs, changes, strict=True):
        try:
            tried = tried.replace(**change)
        except InvalidConfig as error:
            raise InvalidConfig(f"--config {config}: {error}") from None
    return changes


def _change(config: str) -> dict[str, Any]:
    """The settings in KEY=VALUE, with a value as JSON or TOML write it, or in a TOML file."""
    from deepgmr.plain import from_toml

    key, assigned, value = config.partition("=")
    if not assigned:
        try:
            return from_toml(Path(config).read_text(encoding="utf-8"), where=config)
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"--config {config}: is neither KEY=VALUE nor a file of settings ({error})") from None
    try:
        found = json.loads(value)
    except ValueError:
        found = from_toml(f"value = {value}", where=f"the value in --config {config}")["value"]
    *rooms, last = key.strip().split(".")
    return {".".join(rooms): {last: found}} if rooms else {last: found}


def _check_paths(source: Path, target: Path, clouds: tuple[Path | None, ...], others: tuple[Path | None, ...]) -> None:
    """Every reason not to write clouds or other files is found before anything is computed."""
    from deepgmr import io as files

    places = [os.path.realpath(path) for path in (source, target, *clouds, *others) if path is not None]
    for path in (*clouds, *others):
        if path is not None and places.count(os.path.realpath(path)) > 1:
            raise InvalidInput(f"{path}: is named twice; the result would overwrite an input or the other result")
    for path in clouds:
        if path is not None:
            files.check_output(path)
    for path in others:
        if path is not None:
            files.check_writable(path)


def _described(cloud: CloudFile) -> str:
    sampled = "" if cloud.triangles is None else f", drawn on {len(cloud.triangles.faces):,} triangles"
    carried = f", with {', '.join(cloud.properties)}" if cloud.properties else ""
    return f"{cloud.format}, {len(cloud):,} points{sampled}{carried}"


def verdict(result: Registration) -> str:
    """One line that numpy.loadtxt takes for a comment."""
    status = paint(result.status.value, "green" if result.trusted else "yellow", sys.stdout)
    return f"# {status}: {result.numbers}. {one_line(result.sentence)}"


def _advice(result: Registration, *, shown: bool) -> str:
    """How to look further at an answer that should not be trusted, for whoever sits at the terminal."""
    count = len(result.alternatives)
    if not count:
        return "--report FILE.html shows what speaks for it and against"
    others = "the alternative" if count == 1 else f"the {count} alternatives"
    where = f"--report FILE.html shows {others}" if shown else f"-v prints {others}, --report FILE.html shows them"
    return f"{where}; --initial T.txt and --max-rotation DEG tell what is known of the motion"
