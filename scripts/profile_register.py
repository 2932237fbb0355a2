"""Where the time of `register` goes: mean milliseconds a pair in each step, on any suite, one thread.

python scripts/profile_register.py ../shared/modelnet40/benchmark/modelnet_crop70_180.h5 ../shared/scans --pairs 50
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import profile
    from deepgmr.pipeline.registrar import Registrar

    registrar = Registrar.load(given.bundle, preset=given.preset)
    return profile.measure(given.suites, pairs=given.pairs, registrar=registrar, watch=watch)


def main() -> int:
    parser = options(__doc__, "profile")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="as `deepgmr evaluate` takes them")
    parser.add_argument("--pairs", type=int, default=50, help="of each suite, spread evenly [default: 50]")
    parser.add_argument("--bundle", default="default", help="by name or path")
    parser.add_argument("--preset", default="default")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
