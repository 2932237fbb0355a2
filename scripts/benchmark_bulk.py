"""Pairs a second of `deepgmr bulk`, beside a bare loop.

python scripts/benchmark_bulk.py --pairs 3000
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import listed, options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import bulk

    return bulk.measure(
        pairs=given.pairs, seed=given.seed, ways=given.ways or bulk.WAYS, known=given.known, watch=watch
    )


def main() -> int:
    parser = options(__doc__, "bulk")
    parser.set_defaults(threads=2)
    parser.add_argument("--pairs", type=int, default=3_000, help="[default: %(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--known", action="store_true", help="every pair comes with a motion near the true one")
    parser.add_argument(
        "--ways", type=listed, metavar="A,B", help="loop, local N or ray N [default: loop,local 1,local 2]"
    )
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
