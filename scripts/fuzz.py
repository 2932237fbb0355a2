"""Damaged files and hostile arrays, at random: each must end as a cloud or an answer, or as one named error.

    python scripts/fuzz.py --files 30000 --arrays 3000 --seed 0

Files of every readable format are damaged and read; arrays of every type, layout and size are registered. Prints what
ended otherwise, by type and place, what libraries printed, and the slowest call. Exit code 1 if there is anything to mend.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--arrays", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep the first file of every finding here")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from damage import fuzz  # shared with the tests, which run a few hundred of both
    from hostile import fuzz_arrays

    with tempfile.TemporaryDirectory() as folder:
        reports = [fuzz(given.files, given.seed, Path(folder)), fuzz_arrays(given.arrays, given.seed)]
    for report in reports:
        print(report.text())
        if given.save is not None:
            report.save(given.save / report.what)
    return 1 if any(report.findings for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
