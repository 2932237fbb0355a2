"""Make every table, number and picture of README and docs that comes from docs/results: `python scripts/pages.py`.

    python scripts/pages.py --check     # writes nothing; says what differs, and exits with 1 if anything does

A page marks what is made. A whole result as its study prints it, one part of it (see `parts` of its module), or a list of
its rows; of rows the columns that are wanted, and how their numbers are written. Files of one study go together by +.

    <!-- results: profile -->
    <!-- results: suites+scenes scans suite,right,wrong and sure:.2f -->
    (the table)
    <!-- end -->

`<!-- results: suites origin -->` says when, where and by which command it was measured. A single number within a sentence
is <!-- value: busy machine.2.ratio .1f -->1.7<!-- /value -->. Where a result is `optional:` and not there, nothing is made.
A study with a picture (`draw` in its module) has it drawn to docs/NAME.svg where docs/results/NAME.json is there, and a
page shows it where it says `picture` for a part.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deepgmr.errors import DeepGMRError, InvalidConfig
from deepgmr.evaluation.results import Result, as_table, read_result

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(?ms)^(<!-- results: (optional:)?(\S+?)(?: (\S+?)(?: ([^\n]+?))?)? -->\n).*?^(<!-- end -->)$")
VALUE = re.compile(r"(<!-- value: (\S+) (.+?) (\S+) -->)[^<]*(<!-- /value -->)")
FORMATS = {
    "ms": ".1f",
    "ratio": ".2f",
    "mean distance": ".4f",
    "CPU ms a pair": ".1f",
}  # where a page asks for nothing else


def made(text: str, results: Path) -> str:
    """A page with everything that is marked made anew. Raises `InvalidFile` or `InvalidConfig`."""

    def table(found: re.Match[str]) -> str:
        opening, optional, names, part, columns, closing = found.groups()
        paths = [results / f"{name}.json" for name in names.split("+")]
        if optional and not all(path.exists() for path in paths):
            return f"{opening}{closing}"
        return f"{opening}{_told(paths, part, columns)}\n{closing}"

    def value(found: re.Match[str]) -> str:
        opening, name, path, form, closing = found.groups()
        return f"{opening}{format(_inside(read_result(results / f'{name}.json'), path), form)}{closing}"

    return VALUE.sub(value, TABLE.sub(table, text))


def _told(paths: Sequence[Path], part: str | None, columns: str | None) -> str:
    """The Markdown of one part of these results, which are of one study."""
    results = [read_result(path) for path in paths]
    study: Any = _study(results[0])
    if part == "origin":
        return "\n".join(f"{'- ' * (len(results) > 1)}{_origin(result)}" for result in results)
    if part == "picture":
        return f"![{columns or results[0]['study']}]({paths[0].stem}.svg)"
    if part is None:
        return "\n\n".join(str(study.markdown(result)) for result in results)
    pieces = [_part(study, result, part) for result in results]
    if isinstance(pieces[0], str):
        return "\n\n".join(pieces)
    rows = [row for piece in pieces for row in piece]
    wanted = dict(column.partition(":")[::2] for column in columns.split(",")) if columns else {}
    if wanted and not any(name in row for name in wanted for row in rows):
        raise InvalidConfig(f"no row of {part} in {paths[0].name} holds one of {columns}")
    if wanted:
        rows = [{name: row.get(name) for name in wanted} for row in rows]
    return as_table(rows, FORMATS | {name: form for name, form in wanted.items() if form})


def _study(result: Result) -> Any:
    """The module that measured it, or None where that was done by hand."""
    name = f"deepgmr.evaluation.{result['study']}"
    return import_module(name) if find_spec(name) else None


def _part(study: Any, result: Result, part: str) -> Any:
    parts = study.parts(result) if hasattr(study, "parts") else {}
    return parts[part] if part in parts else _inside(result, part)


def _origin(result: Result) -> str:
    """One sentence, and what the file notes beside."""
    told = result.get("provenance") or result["tables"][0]["provenance"]
    threads = f"{told['threads']} thread{'s' * (told['threads'] != 1)} of {told.get('processor') or told['machine']}"
    code = f"commit {told['commit']}" if told.get("commit") else f"version {told['versions']['deepgmr']}"
    command = f": `{told['command']}`" if told.get("command") else ""
    return " ".join([f"Measured on {told['date'][:10]} with {code} on {threads}{command}.", *result.get("notes", ())])


def _inside(result: Result, path: str) -> Any:
    """What is at `a.0.b` in a result; a row of a table goes by its method, too."""
    found: Any = result
    for key in path.split("."):
        try:
            if isinstance(found, list) and not key.isdigit():
                found = {row["method"]: row for row in found}
            found = found[int(key) if isinstance(found, list) else key]
        except (KeyError, IndexError, ValueError, TypeError):
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
        result = read_result(path)
        if not hasattr(_study(result), "draw"):
            continue
        picture = ROOT / "docs" / f"{path.stem}.svg"
        mark = f"<!-- drawn from {hashlib.sha256(path.read_bytes()).hexdigest()} -->"
        # By what it was drawn from: its bytes differ from one release of matplotlib to the next.
        if not picture.exists() or mark not in picture.read_text(encoding="utf-8"):
            found.append(str(picture.relative_to(ROOT)))
            if write:
                picture.write_text(f"{_drawn(result)}{mark}\n", encoding="utf-8")
    return found


def _drawn(result: Result) -> str:
    with tempfile.TemporaryDirectory() as folder:
        _study(result).draw(result, Path(folder, "new.svg"))
        return Path(folder, "new.svg").read_text(encoding="utf-8")


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
