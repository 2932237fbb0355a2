"""The terminal: `register SRC TGT`, and `deepgmr VERB`.

Exit codes: 0 registered; 2 bad input or usage (one line on stderr, nothing written); 3 answered, but not to be
trusted (printed and written all the same); 130 interrupted. Results go to stdout, everything else to stderr.
Whatever takes long to import is imported inside the command, after the files have been read.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgmr.errors import DeepGMRError, InvalidCloud, InvalidConfig, InvalidFile, InvalidInput

if TYPE_CHECKING:
    from deepgmr.io import CloudFile
    from deepgmr.pipeline.registrar import Registration

REGISTERED, BAD_INPUT, NOT_TRUSTED, INTERRUPTED = 0, 2, 3, 130

_SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
register_app = typer.Typer(**_SETTINGS)
app = typer.Typer(help="Register point clouds by matching Gaussian mixtures.", no_args_is_help=True, **_SETTINGS)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"deepgmr {version('deepgmr')}")
        raise typer.Exit(REGISTERED)


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def _deepgmr(version: Version = False) -> None:
    """Register point clouds by matching Gaussian mixtures."""


@register_app.command()
@app.command("register")
def register(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The cloud (or mesh) to move.")],
    target: Annotated[Path, typer.Argument(metavar="TGT", help="The cloud (or mesh) to move it onto.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the moved source, with its properties.")
    ] = None,
    transform: Annotated[
        Path | None, typer.Option("--transform", metavar="FILE", help="Write the 4x4 (.txt, .npy or .json).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    initial: Annotated[
        Path | None, typer.Option("--initial", metavar="FILE", help="A 4x4 known to be near the answer.")
    ] = None,
    max_rotation: Annotated[
        float | None, typer.Option("--max-rotation", metavar="DEG", help="The rotation is known to be below this.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the points on meshes; clouds need none.")] = 0,
    no_refine: Annotated[bool, typer.Option("--no-refine", help="Skip the polish at full resolution.")] = False,
    drop_invalid: Annotated[bool, typer.Option("--drop-invalid", help="Ignore points that are not finite.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what was read and found.")] = False,
    version: Version = False,
) -> None:
    """Find the rigid motion that carries SRC onto TGT, and print it: x_target = R x_source + t.

    Prints the 4x4 (read it with numpy.loadtxt) and a verdict behind a #. Exits with 0 when registered, 2 on bad input,
    3 when there is an answer that should not be trusted. Reads PLY, PCD, OBJ, STL, OFF, GLB, XYZ, PTS, TXT, CSV, NPY,
    NPZ and, with the extra deepgmr[las], LAS and LAZ.
    """
    with _answering("register"):
        from deepgmr import io as files

        start = time.perf_counter()
        _check_paths(source, target, output, transform)
        if max_rotation is not None and not 0.0 < max_rotation <= 180.0:
            raise InvalidInput(f"--max-rotation must be above 0 and at most 180 degrees, got {max_rotation:g}")
        prior = None if initial is None else files.read_transform(initial)
        clouds = [files.read_cloud(path, seed=seed) for path in (source, target)]
        if output is not None:
            files.check_output(output, clouds[0])
        if verbose:
            for role, path, cloud in zip(("source", "target"), (source, target), clouds, strict=True):
                _say(f"{role}: {path}: {_described(cloud)}")

        from deepgmr.pipeline import registrar as registration

        read = time.perf_counter()
        # A library that prints must not come between the caller and the one JSON object.
        with _progress() as progress, redirect_stdout(sys.stderr), _named(source=source, target=target):
            result = registration.register(
                clouds[0].points,
                clouds[1].points,
                initial=prior,
                max_rotation_degrees=max_rotation,
                seed=seed,
                refine=not no_refine,
                drop_invalid=drop_invalid,
                progress=progress,
            )
        found = time.perf_counter()
        if output is not None:
            moved = files.transformed(clouds[0], result.target_from_source)
            lost = files.write_cloud(output, moved)
            if lost:
                _say(f"note: {output.suffix} cannot hold {', '.join(lost)}; a .ply or .npz can hold more")
            if caveat := files.caveat(output, moved):
                _say(f"note: {caveat}")
        if transform is not None:
            files.write_transform(transform, result.target_from_source)
        if verbose:
            _say(f"reading and imports {read - start:.2f} s, registration {found - read:.2f} s")
            _say(f"standard deviations: {_deviations(result)}; score {result.score:.3f}")
            for other in result.alternatives:
                _say(f"alternative, score {other.score:.3f}:\n{files.matrix_text(other.target_from_source)}")
        if as_json:
            _put(_as_json(result, source, target, clouds, found - read) + "\n")
        else:
            for note in result.notes:
                if note != result.sentence:
                    _say(f"note: {note}")
            _put(files.matrix_text(result.target_from_source) + _verdict(result) + "\n")
        raise typer.Exit(REGISTERED if result.status.value == "ok" else NOT_TRUSTED)


@app.command("evaluate")
def evaluate(
    suites: Annotated[
        list[str],
        typer.Argument(metavar="SUITE...", help="Fixed-pair HDF5 files, or folders of scans; #unseen selects."),
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME", help="May be given several times. [default: register]"),
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
    with _answering("deepgmr evaluate"):
        from deepgmr import io as files

        if output is not None:
            files.check_writable(output)
        from deepgmr import evaluation

        with _progress() as progress, redirect_stdout(sys.stderr):
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
        _put(evaluation.to_text(tables) + "\n")


@app.command("train")
def train(
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
    with _answering("deepgmr train"):
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
        _put(f"{'finished' if result.finished else 'stopped'} at step {result.step}: {result.checkpoint}\n")


def register_main(arguments: list[str] | None = None) -> int:
    """The console script `register`; returns the exit code."""
    return _run(register_app, "register", arguments)


def main(arguments: list[str] | None = None) -> int:
    """The console script `deepgmr`; returns the exit code."""
    return _run(app, "deepgmr", arguments)


def _run(program: typer.Typer, name: str, arguments: list[str] | None) -> int:
    try:
        program(args=arguments, prog_name=name)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else REGISTERED if stop.code is None else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # no reader and no writer of files lets one through: this is the help that is printed
        _say(f"{name}: error: {error.filename or 'standard output'}: could not be written ({_reason(error)})")
        _mute()
        return BAD_INPUT
    return REGISTERED


@contextmanager
def _answering(program: str) -> Iterator[None]:
    """What goes wrong on purpose becomes one line on stderr and an exit code; warnings become lines too."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _say(f"{program}: warning: {_line(message)}")
        try:
            yield
        except DeepGMRError as error:
            _say(f"{program}: error: {_line(error)}")
            raise typer.Exit(BAD_INPUT) from None
        except MemoryError:
            _say(f"{program}: error: not enough memory for clouds of this size; thin them out first")
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            _say(f"{program}: interrupted, nothing more was written")
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _named(**paths: Path) -> Iterator[None]:
    """A complaint about the `source` or `target` names the file it came from."""
    try:
        yield
    except InvalidCloud as error:
        role, colon, rest = str(error).partition(":")
        if colon and role in paths:
            raise InvalidCloud(f"{paths[role]}: {role}:{rest}") from None
        raise


def _check_paths(source: Path, target: Path, output: Path | None, transform: Path | None) -> None:
    """Every reason not to write is found before anything is computed."""
    from deepgmr import io as files

    places = [(path, os.path.realpath(path)) for path in (source, target, output, transform) if path is not None]
    for path in (output, transform):
        if path is not None and [place for _, place in places].count(os.path.realpath(path)) > 1:
            raise InvalidInput(f"{path}: is named twice; the result would overwrite an input or the other result")
    if output is not None:
        files.check_output(output)
    if transform is not None:
        files.check_writable(transform)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None] | None]:
    """A bar on stderr that vanishes at the end, on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda stage, done: bar.update(task, description=stage, completed=done)


def _say(text: str) -> None:
    with suppress(OSError):  # whoever closed stderr does not want to know
        print(text, file=sys.stderr, flush=True)


def _put(text: str) -> None:
    """Results on stdout. A reader that closed the pipe (`| head -1`) has what it wanted: that is no error."""
    if sys.stdout is None:
        raise InvalidFile("standard output: is closed; send it to a file or a terminal")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _mute()
    except OSError as error:
        _mute()
        raise InvalidFile(f"standard output: could not be written ({_reason(error)}); send it elsewhere") from None


def _mute() -> None:
    """Python flushes stdout once more on exit: give it somewhere to go."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reason(error: OSError) -> str:
    return _line(error.strerror or error)


def _line(message: object) -> str:
    return " ".join(str(message).split()) or type(message).__name__


def _described(cloud: CloudFile) -> str:
    sampled = "" if cloud.triangles is None else f", drawn on {len(cloud.triangles.faces):,} triangles"
    carried = f", with {', '.join(cloud.properties)}" if cloud.properties else ""
    return f"{cloud.format}, {len(cloud):,} points{sampled}{carried}"


def _verdict(result: Registration) -> str:
    """One line that numpy.loadtxt takes for a comment."""
    numbers = f"confidence {result.confidence:.3f}, overlap {result.overlap:.3f}"
    return f"# {result.status.value}: {numbers}. {_line(result.sentence)}"


def _deviations(result: Registration) -> str:
    variances = [float(result.covariance[i, i]) for i in range(6)]
    turn, shift = math.sqrt(abs(sum(variances[:3]))), math.sqrt(abs(sum(variances[3:])))
    return f"rotation {math.degrees(turn):.3g} degrees, translation {shift:.3g} (units of the input)"


def _as_json(result: Registration, source: Path, target: Path, clouds: list[CloudFile], seconds: float) -> str:
    content = {
        "registered": result.status.value == "ok",
        "status": result.status.value,
        "sentence": result.sentence,
        "confidence": result.confidence,
        "overlap": result.overlap,
        "score": result.score,
        "target_from_source": result.target_from_source.tolist(),
        "covariance": result.covariance.tolist(),
        "alternatives": [
            {"target_from_source": other.target_from_source.tolist(), "score": other.score}
            for other in result.alternatives
        ],
        "notes": list(result.notes),
        "source": {"path": str(source), "points": len(clouds[0])},
        "target": {"path": str(target), "points": len(clouds[1])},
        "seconds": seconds,
    }
    return json.dumps(_finite(content), allow_nan=False)


def _finite(value: Any) -> Any:
    """The same, with null for every number that JSON has no sign for (the covariance of an undetermined motion)."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    sys.exit(main())
