"""The terminal: `register SRC TGT`, and `deepgmr VERB`.

Exit codes: 0 registered; 2 bad input or usage (one line on stderr, nothing written); 3 answered, but not to be
trusted (printed and written all the same); 130 interrupted. Results go to stdout, everything else to stderr.
Whatever takes long to import is imported inside the command, after the files have been read.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from deepgmr.cli import (
    align,
    bulk,
    calibrate,
    doctor,
    download,
    evaluate,
    export,
    odometry,
    register,
    shard,
    train,
    view,
)
from deepgmr.cli.terminal import Version, run

_SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
register_app = typer.Typer(**_SETTINGS)
register_app.command()(register.command)
app = typer.Typer(help="Register point clouds by matching Gaussian mixtures.", no_args_is_help=True, **_SETTINGS)
for _room in (register, align, odometry, bulk, view, evaluate, shard, train, calibrate, export, download, doctor):
    app.command(_room.__name__.rpartition(".")[2])(_room.command)


@app.callback()
def _deepgmr(version: Version = False) -> None:
    """Register point clouds by matching Gaussian mixtures."""


def register_main(arguments: list[str] | None = None) -> int:
    """The console script `register`; returns the exit code."""
    return run(register_app, "register", arguments)


def main(arguments: list[str] | None = None) -> int:
    """The console script `deepgmr`; returns the exit code."""
    return run(app, "deepgmr", _with_dash(sys.argv[1:] if arguments is None else arguments))


def _with_dash(words: list[str]) -> list[str]:
    """`evaluate --json` without a file means `--json -`, as every other verb prints its JSON."""
    if words[:1] != ["evaluate"]:
        return words
    ends = [i for i, word in enumerate(words) if word == "--json" and (words[i + 1 : i + 2] or ["--"])[0][:2] == "--"]
    return [piece for i, word in enumerate(words) for piece in ([word, "-"] if i in ends else [word])]
