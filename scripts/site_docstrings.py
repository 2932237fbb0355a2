"""For mkdocstrings: the arguments that docstrings list in columns (`name   what it is`) become a list."""

from __future__ import annotations

import argparse
import re
from typing import Any

try:
    import griffe
except ModuleNotFoundError:  # only --help is wanted
    Extension: Any = object
else:
    Extension = griffe.Extension

ROW = re.compile(r"^([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*) {2,}(\S.*)$")


def with_lists(text: str) -> str:
    """The docstring with its columns as a Markdown list, and the rest as it is."""
    lines: list[str] = []
    inside = False
    for line in text.split("\n"):
        row = ROW.match(line)
        if row:
            lines += ([] if inside else [""]) + [f"- `{row[1]}`: {row[2]}"]
            inside = True
        elif inside and re.match(r" {6,}\S", line):  # what did not fit on the line before
            lines.append(f"  {line.strip()}")
        else:
            inside = False
            lines.append(line)
    return "\n".join(lines)


class Columns(Extension):
    """Changes every docstring as it is read."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = with_lists(obj.docstring.value)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
