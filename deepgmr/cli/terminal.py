"""The terminal's manners: results on stdout, everything else on stderr, and what goes wrong as an exit code."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, TextIO

import typer

from deepgmr.errors import DeepGMRError, InvalidFile, TimedOut

REGISTERED, BAD_INPUT, NOT_TRUSTED, INTERRUPTED = 0, 2, 3, 130
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "bold": 1}

_printer: Callable[[str], None] | None = None  # while a bar is shown: prints a line above it


def run(program: typer.Typer, name: str, arguments: list[str] | None) -> int:
    """A program on its arguments, or on those of the process; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = program(args=words, prog_name=name, standalone_mode=False)
        return code if isinstance(code, int) else REGISTERED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else REGISTERED if stop.code is None else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # no reader and no writer of files lets one through: this is the help that is printed
        say(f"{name}: error: {error.filename or 'standard output'}: could not be written ({_reason(error)})")
        _mute()
        return BAD_INPUT
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's own complaints, whichever click typer brings
            raise
        _usage(error, as_json="--json" in words)
        return BAD_INPUT


def _usage(error: Any, *, as_json: bool) -> None:
    """What click says of arguments that it cannot read."""
    with suppress(OSError):
        error.show()
    if as_json:
        _put_error("Usage", error.format_message(), BAD_INPUT)


@contextmanager
def answering(program: str, *, as_json: bool = False) -> Iterator[None]:
    """What goes wrong on purpose becomes one line on stderr and an exit code, and with `as_json` an object on stdout.

    Warnings become lines on stderr.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"{program}: warning: {one_line(message)}")
        try:
            yield
        except DeepGMRError as error:
            code = NOT_TRUSTED if isinstance(error, TimedOut) else BAD_INPUT
            kind, message = type(error).__name__, one_line(error)
        except MemoryError:
            kind, code = "MemoryError", BAD_INPUT
            message = "not enough memory for clouds of this size; thin them out first"
        except KeyboardInterrupt:
            kind, message, code = "Interrupted", "interrupted, nothing more was written", INTERRUPTED
        else:
            return
        told = message if code == INTERRUPTED else f"{paint('error', 'red', sys.stderr)}: {message}"
        say(f"{program}: {told}")
        if as_json:
            _put_error(kind, message, code)
        raise typer.Exit(code) from None


def _put_error(kind: str, message: str, code: int) -> None:
    with suppress(DeepGMRError):  # stdout is closed: it was said on stderr
        put(json.dumps({"error": {"kind": kind, "message": one_line(message)}, "exit_code": code}) + "\n")


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Called with (stage, share done). On a terminal a bar on stderr that vanishes at the end, with the time left.

    Elsewhere plain lines, none in the first ten seconds and then fewer and fewer: a short job says nothing.
    """
    global _printer
    from deepgmr.remaining import Lines, remaining

    if not is_terminal(sys.stderr):
        yield Lines(say)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()),
        TextColumn("{task.fields[left]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("starting", total=1.0, left="")

        def show(stage: str, done: float) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            bar.update(task, description=stage, completed=done, left=remaining(elapsed, done))

        _printer = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
        try:
            yield show
        finally:
            _printer = None


def say(text: str) -> None:
    """A line on stderr, above the bar if there is one."""
    with suppress(OSError):  # whoever closed stderr does not want to know
        if _printer is not None:
            _printer(text)
        else:
            print(text, file=sys.stderr, flush=True)


def paint(text: str, colour: str, stream: TextIO | None) -> str:
    """Coloured (red, green, yellow, bold) for a terminal; plain elsewhere, under NO_COLOR and on a dumb terminal."""
    plain = not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[{_COLOURS[colour]}m{text}\033[0m"


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def put(text: str) -> None:
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
    return one_line(error.strerror or error)


def one_line(message: object) -> str:
    """A message without its line breaks; one that is empty is named by its type."""
    return " ".join(str(message).split()) or type(message).__name__


def print_version(wanted: bool) -> None:
    """The version, and nothing else."""
    if wanted:
        from deepgmr import __version__

        print(f"deepgmr {__version__}")
        raise typer.Exit(REGISTERED)


Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
]
