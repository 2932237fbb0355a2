"""Recall as pairs get harder, one axis at a time: our method and other libraries' on the same pairs.

    python scripts/robustness.py --pairs 100 --picture docs/robustness.svg
    python scripts/robustness.py --from a.json b.json --json both.json --picture docs/robustness.svg

What the axes mean and how the pairs are cut stands in docs/robustness.md.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import listed, options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import robustness

    axes = given.axes or robustness.AXES
    return robustness.measure(pairs=given.pairs, seed=given.seed, axes=axes, methods=given.methods, watch=watch)


def main() -> int:
    parser = options(__doc__, "robustness")
    parser.add_argument("--pairs", type=int, default=100, help="of every point of a curve [default: 100]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--axes", type=listed, metavar="A,B", help="overlap, noise, outliers, density, points [all]")
    parser.add_argument("--methods", type=listed, metavar="A,B", help="[default: register and all installed peers]")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
