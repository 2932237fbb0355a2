"""Time, memory and success from a thousand points to ten million, ours and the peers, on procedural halls.

    python scripts/benchmark_scaling.py --picture docs/scaling.svg
    python scripts/benchmark_scaling.py --points 1000,100000 --scales 1 --halls 1 --json /tmp/scaling.json
    python scripts/benchmark_scaling.py --resume --picture docs/scaling.svg

What is measured, and how, stands in docs/scaling.md. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import listed, options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import read_result, scaling

    known = read_result(given.json, scaling.STUDY)["cells"] if given.resume and given.json.exists() else []
    return scaling.measure(
        points=[int(count) for count in given.points or scaling.POINTS],
        scales=[float(scale) for scale in given.scales or scaling.SCALES],
        methods=given.methods or scaling.METHODS,
        halls=given.halls,
        seed=given.seed,
        known=known,
        watch=watch,
    )


def main() -> int:
    parser = options(__doc__, "scaling")
    parser.add_argument("--points", type=listed, metavar="N,M", help="in each cloud [default: 1,000 to 10 million]")
    parser.add_argument("--scales", type=listed, metavar="S,T", help="of the halls [default: 1,4]")
    parser.add_argument("--methods", type=listed, metavar="A,B", help="[default: register,ransac,kiss]")
    parser.add_argument("--halls", type=int, default=3, help="of each scale; fewer of more points [default: 3]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="take over what the JSON holds, measure the rest")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
