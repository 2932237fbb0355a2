"""The terminal's manners: results on stdout, everything else on stderr, and what goes wrong as an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from deepgmr.errors import DeepGMRError, InvalidFile

REGISTERED, BAD_INPUT, NOT_TRUSTED, INTERRUPTED = 0, 2, 3, 130


def run(program: typer.Typer, name: str, arguments: list[str] | None) -> int:
    """A program on its arguments, or on those of the process; returns the exit code."""
    try:
        program(args=arguments, prog_name=name)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else REGISTERED if stop.code is None else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # no reader and no writer of files lets one through: this is the help that is printed
        say(f"{name}: error: {error.filename or 'standard output'}: could not be written ({_reason(error)})")
        _mute()
        return BAD_INPUT
    return REGISTERED


@contextmanager
def answering(program: str) -> Iterator[None]:
    """What goes wrong on purpose becomes one line on stderr and an exit code; warnings become lines too."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"{program}: warning: {one_line(message)}")
        try:
            yield
        except DeepGMRError as error:
            say(f"{program}: error: {one_line(error)}")
            raise typer.Exit(BAD_INPUT) from None
        except MemoryError:
            say(f"{program}: error: not enough memory for clouds of this size; thin them out first")
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            say(f"{program}: interrupted, nothing more was written")
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None] | None]:
    """A bar on stderr that vanishes at the end, on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda stage, done: bar.update(task, description=stage, completed=done)


def say(text: str) -> None:
    """A line on stderr."""
    with suppress(OSError):  # whoever closed stderr does not want to know
        print(text, file=sys.stderr, flush=True)


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
