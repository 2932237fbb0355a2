"""Download the official archives, resumable and checked: `deepgmr download`, from a checkout.

    python scripts/download.py modelnet40 --to data
    python scripts/download.py https://example.org/clouds.zip --sha256 HEX --to data

ICL-NUIM is shared by the authors of DeepGMR through Google Drive, which no script can fetch: see data/README.md.
"""

from __future__ import annotations

import sys

from deepgmr import cli


def main(arguments: list[str] | None = None) -> int:
    return cli.main(["download", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
