"""Make every table, number and picture of README and docs that comes from docs/results: `python scripts/pages.py`.

    python scripts/pages.py --check     # writes nothing; says what differs, and exits with 1 if anything does

A page marks what is made. A whole result, as its study prints it, or one list of its rows, with the columns wanted:

    <!-- results: profile -->
    <!-- results: busy machine beside,ms,ratio -->
    (the table)
    <!-- end -->

and a single number within a sentence: <!-- value: busy machine.2.ratio .1f -->1.7<!-- /value -->. A study with a picture
(`draw` in its module) has it drawn to docs/STUDY.svg where docs/results/STUDY.json is there.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from deepgmr.errors import DeepGMRError, InvalidConfig
from deepgmr.evaluation.results import Result, as_table, read_result

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(?ms)^(<!-- results: (\S+)(?: (\S+)(?: (\S+))?)? -->\n).*?^(<!-- end -->)$")
VALUE = re.compile(r"(<!-- value: (\S+) (\S+) (\S+) -->)[^<]*(<!-- /value -->)")
FORMATS = {"ms": ".1f", "ratio": ".2f"}


def made(text: str, results: Path) -> str:
    """A page with everything that is marked made anew. Raises `InvalidFile` or `InvalidConfig`."""

    def table(found: re.Match[str]) -> str:
        opening, study, part, columns, closing = found.groups()
        result = read_result(results / f"{study}.json", study)
        return f"{opening}{_table(result, study, part, columns)}\n{closing}"

    def value(found: re.Match[str]) -> str:
        opening, study, path, form, closing = found.groups()
        return f"{opening}{format(_inside(read_result(results / f'{study}.json', study), path), form)}{closing}"

    return VALUE.sub(value, TABLE.sub(table, text))


def _table(result: Result, study: str, part: str | None, columns: str | None) -> str:
    if part is None:
        return str(import_module(f"deepgmr.evaluation.{study}").markdown(result))
    rows = _inside(result, part)
    if columns is not None:
        rows = [{name: row.get(name) for name in columns.split(",")} for row in rows]
    return as_table(rows, FORMATS)


def _inside(result: Result, path: str) -> Any:
    """What is at `a.0.b` in a result."""
    found: Any = result
    for key in path.split("."):
        try:
            found = found[int(key) if isinstance(found, list) else key]
        except (KeyError, IndexError, ValueError):
            raise InvalidConfig(f"the result of `{result['study']}` holds no {path}") from None
    return found


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def different(*, write: bool) -> list[str]:
    """The pages and pictures that are not what the results make of them; with `write` they then are."""
    results, found = ROOT / "docs" / "results", []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = made(before, results)
        if after != before:
            found.append(str(page.relative_to(ROOT)))
            if write:
                page.write_text(after, encoding="utf-8")
    for path in sorted(results.glob("*.json")):
        study: Any = import_module(f"deepgmr.evaluation.{path.stem}")
        picture = ROOT / "docs" / f"{path.stem}.svg"
        if not hasattr(study, "draw"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            study.draw(read_result(path, path.stem), Path(folder, "new.svg"))
            drawn = Path(folder, "new.svg").read_bytes()
        if not picture.exists() or drawn != picture.read_bytes():
            found.append(str(picture.relative_to(ROOT)))
            if write:
                picture.write_bytes(drawn)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if anything would change")
    given = parser.parse_args(arguments)
    try:
        found = different(write=not given.check)
    except DeepGMRError as error:
        print(f"pages.py: {error}", file=sys.stderr)
        return 2
    for name in found:
        print(f"{name} {'differs from' if given.check else 'is made anew from'} docs/results")
    return 1 if given.check and found else 0


if __name__ == "__main__":
    sys.exit(main())
