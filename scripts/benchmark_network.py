"""One forward pass, and one training step, against the same network written plainly, as the 2020 code is.

python scripts/benchmark_network.py                      # the clouds are generated
python scripts/benchmark_network.py --device cuda
python scripts/benchmark_network.py --suite modelnet_clean.h5    # the solver of 2020 against ours too
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import networks

    return networks.measure(weights=given.weights, device=given.device, suite=given.suite, watch=watch)


def main() -> int:
    parser = options(__doc__, "networks")
    parser.add_argument("--weights", default="deepgmr", help="the trained network to time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--suite", help="clean fixed pairs, for the comparison of the solvers")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
