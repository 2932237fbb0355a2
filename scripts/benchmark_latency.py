"""How long an answer takes, by what is known beforehand, ours and the peers, on procedural halls.

    python scripts/benchmark_latency.py
    python scripts/benchmark_latency.py --points 1000,20000 --halls 1 --json /tmp/latency.json

What is measured, and how, stands in docs/howto/robotics.md.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import listed, options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import latency

    return latency.measure(
        points=[int(count) for count in given.points or latency.POINTS], halls=given.halls, seed=given.seed, watch=watch
    )


def main() -> int:
    parser = options(__doc__, "latency")
    parser.add_argument("--points", type=listed, metavar="N,M", help="in each cloud [default: 1,000 to 1 million]")
    parser.add_argument("--halls", type=int, default=5, help="of each number of points [default: 5]")
    parser.add_argument("--seed", type=int, default=0)
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
