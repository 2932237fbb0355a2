"""Run every example and draw its picture: `python scripts/gallery.py`, into docs/pictures.

python scripts/gallery.py --only two_files --to /tmp
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "picture")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=EXAMPLES, default=EXAMPLES, metavar="NAME", help="these alone")
    parser.add_argument(
        "--to", type=Path, default=ROOT / "docs" / "pictures", metavar="FOLDER", help="for the pictures"
    )
    given = parser.parse_args(arguments)
    for name in given.only:
        print(f"-- {name}", flush=True)
        picture = given.to / f"{name}.png"
        done = subprocess.run([sys.executable, ROOT / "examples" / f"{name}.py", "--picture", picture], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
