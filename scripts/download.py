"""Download the official archives, resumable and checked.

    python scripts/download.py modelnet40 --to data
    python scripts/download.py https://example.org/clouds.zip --sha256 HEX --to data

Addresses without a known checksum are trusted once and recorded in downloads.lock.json beside the archive.
ICL-NUIM is shared by the authors of DeepGMR through Google Drive, which no script can fetch: see data/README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deepgmr.datasets.suites.download import ARCHIVES, fetch, unpack
from deepgmr.errors import DeepGMRError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help=f"an address, or one of: {', '.join(ARCHIVES)}")
    parser.add_argument("--to", type=Path, default=Path("data"), metavar="FOLDER", help="[default: data]")
    parser.add_argument("--sha256", metavar="HEX", help="what the archive must hash to")
    parser.add_argument("--no-unpack", action="store_true", help="leave the archive as it is")
    parser.add_argument("--attempts", type=int, default=5, help="tries that bring nothing new before giving up")
    options = parser.parse_args(arguments)
    known = ARCHIVES.get(options.archive)
    try:
        path = fetch(
            known.url if known else options.archive,
            options.to,
            sha256=options.sha256 or (known.sha256 if known else None),
            attempts=options.attempts,
            progress=progress if sys.stderr.isatty() else None,
        )
        print(path)
        if not options.no_unpack and path.suffix == ".zip":
            for new in unpack(path, options.to):
                print(new)
    except DeepGMRError as error:
        print(f"download.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("download.py: stopped; call again to resume", file=sys.stderr)
        return 130
    return 0


def progress(have: int, total: int | None) -> None:
    share = f"{100 * have / total:3.0f} %" if total else ""
    print(f"\r{share} {have / 1e6:.1f} MB", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
