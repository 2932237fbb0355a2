"""Many scans into one frame: `deepgmr.align` beside Open3D's multiway registration, on real and procedural scans.

    python scripts/benchmark_align.py --shared PATH 2> open3d.log
    python scripts/benchmark_align.py --inputs rooms alike --peers

Needs open3d and kiss-matcher (pip install "deepgmr[benchmark]"), which write to stderr as they please.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import alignment

    return alignment.measure(
        inputs=alignment.INPUTS if given.inputs is None else given.inputs,
        peers=tuple(alignment.PEERS) if given.peers is None else given.peers,
        shared=given.shared,
        seed=given.seed,
        workers=given.workers,
        watch=watch,
    )


def main() -> int:
    parser = options(__doc__, "alignment", "align")
    shared = os.environ.get("DEEPGMR_SHARED")
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(shared) if shared else None,
        metavar="FOLDER",
        help="with scans/ and 3dmatch/ [default: the variable DEEPGMR_SHARED]",
    )
    parser.add_argument("--inputs", nargs="*", metavar="NAME", help="[default: all but tiny]")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="beside deepgmr [default: both]")
    parser.add_argument("--workers", type=int, default=1, help="of deepgmr.align [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn [default: %(default)s]")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
