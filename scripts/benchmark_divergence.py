"""Measure the divergence module: the error and cost of each estimator, and speed and memory as ratios.

python scripts/benchmark_divergence.py            # a few minutes
python scripts/benchmark_divergence.py --quick    # the same at toy sizes, to see that it runs
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import divergences

    parts = [given.only] if given.only else divergences.PARTS
    return divergences.measure(parts=parts, sizes=divergences.TOY if given.quick else divergences.FULL, watch=watch)


def main() -> int:
    parser = options(__doc__, "divergences")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that it runs")
    parser.add_argument("--only", choices=["speed", "unscented", "accuracy"], help="one part")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
