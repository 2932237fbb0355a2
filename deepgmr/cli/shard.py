"""`deepgmr shard FOLDER`: scans with known poses, as a training on them reads them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from deepgmr.cli.terminal import answering, progress_bar, put, say


def command(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Scans and their poses; a folder or the URL of one.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR|URL", help="Where the shards are written.")],
    points: Annotated[int, typer.Option("--points", metavar="N", help="Of a scan, at most.")] = 8192,
    overlap: Annotated[float, typer.Option("--overlap", metavar="SHARE", help="Of a pair, at least.")] = 0.2,
    drop_invalid: Annotated[bool, typer.Option("--drop-invalid", help="Ignore points that are not finite.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Write scans and the pairs of them that overlap as shards, for `deepgmr train --preset overlap-own --data DIR|URL`.

    FOLDER holds scans that `register` reads, and poses.json (by the name of each scan a 4x4 matrix, world from scan) or
    poses.txt (a pose a line in the order of the names: TUM's time, place and quaternion, or KITTI's twelve numbers).
    Exits with 0, or 2 on bad input; without an index.json in DIR nothing counts as written.
    """
    with answering("deepgmr shard", as_json=as_json):
        from deepgmr.datasets.pairs.shards import shard

        with progress_bar() as progress:
            made = shard(folder, output, points=points, least=overlap, drop_invalid=drop_invalid, progress=progress)
        if as_json:
            put(json.dumps(asdict(made)) + "\n")
        else:
            say(str(made))
