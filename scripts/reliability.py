"""Whether a confidence of .8 is right in eight of ten cases: a reliability diagram over suites that were evaluated.

deepgmr evaluate suite.h5 scans/ --json evaluated.json
python scripts/reliability.py evaluated.json --picture docs/reliability.svg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from deepgmr.cli.studies import options, run


def measured(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    from deepgmr.evaluation import reliability

    return reliability.measure(given.files, method=given.method)


def main() -> int:
    parser = options(__doc__, "reliability")
    parser.add_argument("files", nargs="*", type=Path, metavar="EVALUATED", help="by `deepgmr evaluate ... --json`")
    parser.add_argument("--method", default="register", help="one that states a confidence [default: register]")
    return run(parser, measured)


if __name__ == "__main__":
    sys.exit(main())
