"""Sources of another scale: noticed where a rigid motion was asked for, found where a similarity was.

python scripts/scales.py --pairs 24
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import scales

    kinds = scales.MEASURED if given.kinds is None else given.kinds
    return scales.measure(pairs=given.pairs, seed=given.seed, kinds=kinds, ratios=given.ratios, watch=watch)


def main() -> int:
    parser = options(__doc__, "scales")
    parser.add_argument("--pairs", type=int, default=24, help="of each kind [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=777, help="of the pairs that are drawn [default: %(default)s]")
    parser.add_argument("--kinds", nargs="*", metavar="KIND", help="of pairs that are drawn [default: fifteen]")
    parser.add_argument(
        "--ratios",
        nargs="*",
        type=float,
        default=(1.0, 1.05, 1.1, 1.2, 1.5),
        help="to be noticed [default: %(default)s]",
    )
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
