"""Seconds to draw both clouds of a pair of each procedural world.

python scripts/benchmark_worlds.py
python scripts/benchmark_worlds.py --points 20000,500000 --worlds halls --json /tmp/worlds.json
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import listed, options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import worlds

    counts = [int(count) for count in given.points] if given.points else worlds.POINTS
    return worlds.measure(points=counts, worlds=given.worlds or (), watch=watch)


def main() -> int:
    parser = options(__doc__, "worlds")
    parser.add_argument(
        "--points", type=listed, metavar="N,M", help="a cloud [default: 20,000, 500,000 and 10 million]"
    )
    parser.add_argument("--worlds", type=listed, metavar="A,B", help="[default: all]")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
