"""How much longer a registration takes beside busy processes, with stray points far away, and with other units.

    python scripts/benchmark_busy.py --pairs 40

Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import busy

    return busy.measure(
        pairs=given.pairs,
        loops=given.loops,
        processes=given.processes,
        points=given.points,
        repeats=given.repeats,
        watch=watch,
    )


def main() -> int:
    parser = options(__doc__, "busy")
    parser.set_defaults(threads=os.cpu_count())  # what is busy shares them
    parser.add_argument("--pairs", type=int, default=40, help="on a busy machine [default: 40]")
    parser.add_argument("--loops", type=int, nargs="*", default=[1, 2], help="busy loops beside a call")
    parser.add_argument("--processes", type=int, default=2, help="processes that register at the same time")
    parser.add_argument("--points", type=int, default=20_000, help="a side, of the pair that is disturbed")
    parser.add_argument("--repeats", type=int, default=5, help="calls a disturbance [default: 5]")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
