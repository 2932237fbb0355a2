"""`deepgmr view TRACE` and `deepgmr view SRC TGT`: a registration played back in a window."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from deepgmr.cli.register import verdict
from deepgmr.cli.terminal import NOT_TRUSTED, REGISTERED, answering, progress_bar, put
from deepgmr.errors import InvalidInput


def command(
    files: Annotated[
        list[Path], typer.Argument(metavar="TRACE | SRC TGT", help="What `register --trace` wrote, or two clouds.")
    ],
    save: Annotated[
        Path | None, typer.Option("--save", metavar="OUT.rrd", help="Write a recording and open no window.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Play a registration in the Rerun viewer: clouds, matches, candidates look by look, the winner.

    Needs the extra deepgmr[view]. Of two clouds the verdict is printed, with the exit codes of `register`.
    """
    with answering("deepgmr view", as_json=as_json):
        if len(files) > 2:
            raise InvalidInput(f"give one trace or two clouds, got {len(files)} files")
        from deepgmr.report import live

        live.viewer()
        if save is not None:
            from deepgmr.io.disk import check_writable

            check_writable(save)
        if len(files) == 1:
            live.show(live.read_trace(files[0]), save=save)
            if as_json:
                put(json.dumps({"trace": str(files[0]), "recording": save and str(save)}) + "\n")
            raise typer.Exit(REGISTERED)
        from deepgmr.io import read_cloud
        from deepgmr.pipeline.registrar import Registrar
        from deepgmr.pipeline.trace import Trace

        kept, (source, target) = Trace(), (read_cloud(path).points for path in files)
        with progress_bar() as progress, redirect_stdout(sys.stderr):
            result = Registrar.load("default").register(source, target, trace=kept, progress=progress)
            live.show(kept.to_dict(), live.thinned(result.search), save=save)
        put((json.dumps(result.to_dict(), allow_nan=False) if as_json else verdict(result)) + "\n")
        raise typer.Exit(REGISTERED if result.trusted else NOT_TRUSTED)
