"""What `register` makes to be looked at: a page, a picture, a live view, and the command that the page repeats."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from deepgmr.pipeline.answer import Registration
    from deepgmr.pipeline.trace import Trace


def check(picture: Path | None, view: bool) -> None:
    """Every reason not to show is found before anything is computed; where may be written is checked elsewhere."""
    if picture is not None:
        from deepgmr.report.picture import check_picture

        check_picture(picture)
    if view:
        from deepgmr.report.live import viewer

        viewer()


def show(
    result: Registration,
    kept: Trace,
    *,
    report: Path | None,
    picture: Path | None,
    view: bool,
    source: str,
    target: str,
    command: str,
) -> None:
    """Make what was asked for; `source` and `target` are the names that the page gives the clouds."""
    if report is not None:
        result.report(report, source=source, target=target, command=command)
    if picture is not None:
        result.picture(picture)
    if view:
        from deepgmr.report import live

        live.show(kept.to_dict(), live.thinned(result.search))


def said(context: typer.Context) -> str:
    """The command line that was given, without what was left at its default."""
    words, positional = [], []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if value is None or value is False or value == parameter.default or value == [] or value == ():
            continue
        if parameter.param_type_name == "argument":
            positional.append(str(value))
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0]] if item is True else [parameter.opts[0], str(item)]
    dashed = ["--"] if any(word.startswith("-") for word in positional) else []
    return shlex.join([*context.command_path.split(), *words, *dashed, *positional])
