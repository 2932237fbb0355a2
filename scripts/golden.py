"""Write the answers that `tests/test_golden.py` holds `register` to: after a change that is meant to change them.

python scripts/golden.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from golden_answers import FILE, answers


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    FILE.write_text(json.dumps(answers(), indent=1) + "\n")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
