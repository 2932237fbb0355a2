"""What each part of `register` is worth, and with weights instead, what more training of its network buys.

python scripts/ablation.py --pairs 40
python scripts/ablation.py runs/overlap/overlap-*.safetensors --json docs/results/curve.json
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import ablation

    if given.weights:
        return ablation.curve(given.weights, pairs=given.pairs, watch=watch)
    return ablation.parts(pairs=given.pairs, watch=watch)


def main() -> int:
    parser = options(__doc__, "ablation")
    parser.add_argument("weights", nargs="*", help="that `--keep-every` kept: the recall of each alone")
    parser.add_argument("--pairs", type=int, default=40, help="of each kind [default: 40]")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
