"""Our methods beside other libraries', on the same pairs in the same run.

    python scripts/benchmark.py modelnet_*.h5 scans/ --limit 25

`deepgmr evaluate` with every peer that is installed: icp, fgr, ransac (Open3D), kiss (KISS-Matcher), gicp (small_gicp).
A peer gets the best of several sizes for each suite and each group of its pairs, chosen by its successes: an oracle no
user has. Its time is that of the chosen size. Ours is told nothing. Each answer of a peer is polished by ICP or GICP.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import evaluate
    from deepgmr.evaluation.peers import PEERS, is_installed
    from deepgmr.evaluation.tables import to_result

    methods = given.method or ["register", *filter(is_installed, PEERS)]
    tables = evaluate(
        given.suites,
        methods,
        limit=given.limit,
        seed=given.seed,
        points=given.points,
        max_rotation_degrees=given.max_rotation,
        progress=watch.progress,
    )
    return to_result(tables, pairs=False)


def main() -> int:
    parser = options(__doc__, "tables", "peers")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="as `deepgmr evaluate` takes them")
    parser.add_argument("--method", action="append", help="may be repeated [default: register and all installed peers]")
    parser.add_argument("--limit", type=int, help="at most so many pairs a suite, spread evenly")
    parser.add_argument("--points", type=int, help="cut every cloud to so many points")
    parser.add_argument("--max-rotation", type=float, metavar="DEG", help="a prior that ours are told")
    parser.add_argument("--seed", type=int, default=0)
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
