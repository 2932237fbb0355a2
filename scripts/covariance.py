"""Whether the stated covariance is true: mean squared Mahalanobis error and coverage, a kind of pair and a suite.

python scripts/covariance.py --pairs 100
python scripts/covariance.py --kinds --references scans/ lidar/ --json real.json
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import covariance

    return covariance.measure(
        pairs=given.pairs,
        seed=given.seed,
        kinds=covariance.MEASURED if given.kinds is None else given.kinds,
        files=given.references,
        search=given.search,
        watch=watch,
    )


def main() -> int:
    parser = options(__doc__, "covariance")
    parser.add_argument("--pairs", type=int, default=100, help="of each kind, and of a suite at most [default: 100]")
    parser.add_argument("--seed", type=int, default=777, help="of the pairs that are drawn [default: 777]")
    parser.add_argument("--kinds", nargs="*", metavar="KIND", help="of pairs that are drawn [default: all]")
    parser.add_argument("--references", nargs="*", metavar="SUITE", default=[], help="suites of real scans")
    parser.add_argument("--search", action="store_true", help="search for the answer, not from near the truth")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
