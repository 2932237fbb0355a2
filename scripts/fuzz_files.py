"""Damage small files of every format at random and read them: every one must end as a cloud or as one named error.

    python scripts/fuzz_files.py --files 30000 --seed 0

Prints what ended otherwise, by type and place, what libraries printed, and the slowest call. Exit code 1 if there is
anything to mend.
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep the first file of every finding here")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from damage import fuzz  # shared with the tests, which run a few hundred files of it

    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(given.files, given.seed, Path(folder))
    print(report.text())
    if given.save is not None:
        report.save(given.save)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
