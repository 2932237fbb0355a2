"""What a study found: one JSON file with where it comes from, and rows of numbers as Markdown."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from deepgmr.errors import InvalidFile
from deepgmr.io.disk import check_readable, replacing
from deepgmr.io.origin import commit, processor

Result = dict[str, Any]  # as JSON holds it; "study" is the name of the module that made it

_PACKAGES = ("deepgmr", "torch", "numpy", "scipy", "small_gicp", "open3d", "kiss-matcher", "kiss-icp")
_LEFT = ("method", "failed", "kind", "suite")  # columns of words


def _ignored(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Watch:
    """Who follows a study: `keep` is given what there is so far, `progress` a label and the share done."""

    keep: Callable[[Result], None] = _ignored
    progress: Callable[[str, float], None] = _ignored


def provenance(**options: Any) -> Result:
    """When, by which command, of which commit, on what, with which versions, and with which options."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        **options,
        "command": _command(sys.argv),
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "processor": processor(),
        "versions": versions,
    }


def _command(words: Sequence[str]) -> str:
    """What was typed, without the folders that data and programs happen to lie in."""
    program = Path(words[0])
    if program.name == "__main__.py":
        begun = ["python", "-m", program.parent.name]
    else:
        begun = ["python", f"{program.parent.name}/{program.name}"] if program.suffix == ".py" else [program.name]
    return shlex.join([*begun, *(_without_folder(word) for word in words[1:])])


def _without_folder(word: str) -> str:
    if not word.startswith(("/", "..", "~")):
        return word
    path, mark, choice = word.partition("#")
    return Path(path).name + mark + choice


def write_result(path: str | Path, result: Result) -> None:
    """Write a result; the file appears whole or not at all."""
    text = json.dumps(result, allow_nan=False)
    with replacing(Path(path)) as stream:
        stream.write(text.encode())


def read_result(path: str | Path, study: str | None = None) -> Result:
    """What `write_result` wrote of this study, or of any. Raises `InvalidFile`."""
    path = Path(path)
    check_readable(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidFile(f"{path}: is not JSON ({error}); give what a study wrote with --json") from None
    found = content.get("study") if isinstance(content, dict) else None
    if not found or found != (study or found):
        held = f"is of the study `{found}`" if found else "holds no study"
        raise InvalidFile(f"{path}: {held}; give what {f'`{study}`' if study else 'a study'} wrote with --json")
    return content


def as_table(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str] | None = None, *, form: str = ".3f") -> str:
    """A Markdown table with one column a key; what is not known is a dash, and a column of dashes is left out.

    `formats` says how the numbers of a column are written, `form` how the rest are.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [key for key in columns if any(_known(row.get(key)) for row in rows)]
    words = {key for key in columns if key in _LEFT or any(_is_word(row.get(key)) for row in rows)}
    lines = [columns, ["---" if key in words else "---:" for key in columns]]
    lines += [[_cell(row.get(key), (formats or {}).get(key, form)) for key in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and not value[:1].isdigit()


def _cell(value: Any, form: str) -> str:
    if not _known(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return format(value, form) if isinstance(value, float) else str(value)
