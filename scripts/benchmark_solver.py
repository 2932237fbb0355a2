"""The closed-form solver beside its peers: many problems in one batch, forward and with gradients, in one run.

python scripts/benchmark_solver.py --rounds 40
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import solvers

    return solvers.measure(problems=given.problems, components=given.components, rounds=given.rounds, watch=watch)


def main() -> int:
    parser = options(__doc__, "solvers")
    parser.add_argument("--problems", type=int, default=10_000, help="in one batch [default: 10,000]")
    parser.add_argument("--components", type=int, default=16, help="matched pairs of a problem [default: 16]")
    parser.add_argument("--rounds", type=int, default=15, help="of the batched methods; the loop gets two")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
