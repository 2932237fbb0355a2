"""Many pairs on one device beside one after the other: time, differences, and what cannot be shared.

    python scripts/benchmark_throughput.py
    python scripts/benchmark_throughput.py --device cuda --pairs 400 --json throughput-cuda.json

What is measured, and how, stands in docs/howto/many.md.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import throughput

    return throughput.measure(
        pairs=given.pairs,
        points=given.points,
        repeats=given.repeats,
        device=given.device,
        batch=given.batch,
        shared=given.shared,
        seed=given.seed,
        watch=watch,
    )


def main() -> int:
    parser = options(__doc__, "throughput")
    parser.add_argument("--pairs", type=int, default=40, help="[default: %(default)s]")
    parser.add_argument("--points", type=int, default=1024, help="in each cloud [default: %(default)s]")
    parser.add_argument("--repeats", type=int, default=5, help="of both ways, in turns [default: %(default)s]")
    parser.add_argument("--device", default="cpu", help="that pairs are computed on together [default: %(default)s]")
    parser.add_argument("--batch", type=int, help="pairs under way [default: what `register_batch` takes]")
    parser.add_argument("--shared", type=int, default=8, help="pairs whose steps are timed together [default: 8]")
    parser.add_argument("--seed", type=int, default=0)
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
