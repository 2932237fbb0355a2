"""What the network is worth: the same hard pairs registered with it and without.

python scripts/paired.py --pairs 250
python scripts/paired.py --pairs 30 --kinds "stands,fragments low"
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import listed, options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import paired

    return paired.measure(pairs=given.pairs, kinds=given.kinds or paired.KINDS, seed=given.seed, watch=watch)


def main() -> int:
    from deepgmr.evaluation.paired import SEED

    parser = options(__doc__, "paired")
    parser.add_argument("--pairs", type=int, default=250, help="of each kind [default: 250]")
    parser.add_argument("--kinds", type=listed, metavar="A,B", help="[default: eight hard kinds of objects]")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the pairs [default: {SEED}]")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
