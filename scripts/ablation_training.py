"""What each choice in a network buys: short trainings of equal length, every row changing one thing of the first.

python scripts/ablation_training.py deepgmr --data ModelNet40/ --suite modelnet_noisy.h5 --steps 200
python scripts/ablation_training.py overlap --data runs/overlap/pool --steps 1500
python scripts/ablation_training.py overlap --data runs/overlap/pool --steps 600 --start overlap
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from deepgmr.cli.studies import options, run
from deepgmr.errors import InvalidInput


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import trainings

    if given.network == "overlap":
        asked = {"steps": given.steps, "data": given.data, "pairs": given.pairs, "start": given.start}
        return trainings.overlap(given.out, **asked, watch=watch)
    if given.data is None or given.suite is None:
        raise InvalidInput("trainings of `deepgmr` need --data and --suite")
    return trainings.deepgmr(given.data, given.suite, steps=given.steps, only=given.only, watch=watch)


def main() -> int:
    parser = options(__doc__, "trainings")
    parser.add_argument("network", nargs="?", default="deepgmr", choices=["deepgmr", "overlap"])
    parser.add_argument("--steps", type=int, default=200, help="of every training [default: 200]")
    parser.add_argument("--data", type=Path, help="ModelNet40 in its official layout; overlap: its pool of scenes")
    parser.add_argument("--suite", help="noisy fixed pairs, e.g. modelnet_noisy.h5")
    parser.add_argument("--only", default="", help="only the rows whose name contains this")
    parser.add_argument("--pairs", type=int, default=40, help="overlap: of each kind [default: 40]")
    parser.add_argument("--start", default="", help="overlap: weights to go on from [default: from scratch]")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="overlap: for the trainings")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
