"""Drift, error and time of odometry on a procedural drive, beside KISS-ICP in the same run.

    python scripts/benchmark_odometry.py
    python scripts/benchmark_odometry.py --moving --json moving.json

Needs kiss-icp (pip install "deepgmr[benchmark]").
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import odometry

    return odometry.measure(frames=given.frames, steps=given.steps, seed=given.seed, moving=given.moving, watch=watch)


def main() -> int:
    parser = options(__doc__, "odometry")
    parser.add_argument("--frames", type=int, default=2001, help="scans, a metre apart [default: 2001]")
    parser.add_argument("--steps", type=int, default=600, help="of azimuth a turn, of 64 beams each [default: 600]")
    parser.add_argument("--seed", type=int, default=1, help="of the town and the drive [default: 1]")
    parser.add_argument("--moving", action="store_true", help="the sensor moves while it turns")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
