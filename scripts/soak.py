"""Many registrations of mixed kinds in one process: does memory stay, and how long does the slowest take?

python scripts/soak.py --registrations 20000
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import soak
    from deepgmr.pipeline.registrar import Registrar

    registrar = Registrar.load(given.bundle, preset=given.preset)
    return soak.measure(given.registrations, seed=given.seed, registrar=registrar, watch=watch)


def main() -> int:
    parser = options(__doc__, "soak")
    parser.add_argument("--registrations", type=int, default=20_000, help="[default: %(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", default="default", help="by name or path")
    parser.add_argument("--preset", default="default")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
