"""`deepgmr download NAME`: an official archive, resumable and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deepgmr.cli.terminal import answering, progress_bar, put
from deepgmr.errors import InvalidConfig


def command(
    archive: Annotated[str, typer.Argument(metavar="NAME|URL", help="modelnet40, or an address.")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where it goes.")] = Path("data"),
    sha256: Annotated[str | None, typer.Option("--sha256", metavar="HEX", help="What it must hash to.")] = None,
    no_unpack: Annotated[bool, typer.Option("--no-unpack", help="Leave the archive as it is.")] = False,
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, help="Tries that bring nothing new before giving up.")
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Download an official archive and unpack it; interrupted, the same command goes on where it stopped.

    An address without a known checksum is trusted once and recorded in downloads.lock.json beside the archive.
    """
    with answering("deepgmr download", as_json=as_json):
        from deepgmr.datasets.suites.download import ARCHIVES, fetch, unpack

        known = ARCHIVES.get(archive)
        if known is None and "://" not in archive:
            raise InvalidConfig(
                f"unknown archive `{archive}`; give one of {', '.join(ARCHIVES)}, or an http(s) address"
            )
        with progress_bar() as progress:

            def megabytes(have: int, total: int | None) -> None:
                of = f" of {total / 1e6:.0f}" if total else ""
                progress(f"{have / 1e6:.0f}{of} MB", have / total if total else 0.0)

            path = fetch(
                known.url if known else archive,
                to,
                sha256=sha256 or (known.sha256 if known else None),
                attempts=attempts,
                progress=megabytes,
            )
            progress(f"unpacking {path.name}", 1.0)
            made = unpack(path, to) if not no_unpack and path.suffix == ".zip" else []
        if as_json:
            put(json.dumps({"archive": str(path), "unpacked": [str(new) for new in made]}) + "\n")
        else:
            put("".join(f"{new}\n" for new in (path, *made)))
