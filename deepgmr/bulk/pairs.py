"""The table of what is to be registered: a row a pair."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepgmr.errors import InvalidFile
from deepgmr.extras import extra
from deepgmr.io.disk import reason

if TYPE_CHECKING:
    import pyarrow

SHAPES = {"initial": (4, 4), "initial_covariance": (6, 6), "source_origin": (3,), "target_origin": (3,)}
NUMBERS = ("max_rotation_degrees", "timeout")


@dataclass(frozen=True)
class Ask:
    """A pair to be registered: its id in the table, where its clouds are, and what is known of the motion."""

    id: int | str
    source: str
    target: str
    options: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps([self.id, self.source, self.target, self.options])

    @classmethod
    def from_json(cls, text: str) -> Ask:
        return cls(*json.loads(text))


def read_pairs(path: str) -> tuple[list[Ask], Any]:
    """The pairs of a table (.parquet, .csv or .jsonl; a path or a URL that fsspec knows), and the Arrow type of their ids.

    Columns: `source` and `target`, paths or URLs of clouds; `id`, a whole number or a text, by default the number of the
    row; and, where they are known, `initial` (16 numbers, row by row), `initial_covariance` (36), `source_origin` and
    `target_origin` (3), `max_rotation_degrees` and `timeout`, as `deepgmr.register` takes them. Others are not looked at.
    Raises `InvalidFile` for a table that cannot be read, lacks a column, or has an id twice.
    """
    arrow = extra("pyarrow", "bulk", "reading tables")
    table = _table(path, arrow)
    missing = [name for name in ("source", "target") if name not in table.column_names]
    if missing:
        found = ", ".join(table.column_names) or "none"
        raise InvalidFile(f"{path}: a table of pairs has the columns source and target; found {found}")
    if "id" not in table.column_names:
        table = table.append_column("id", arrow.array(range(len(table)), arrow.int64()))
    kind = table.schema.field("id").type
    if not (arrow.types.is_integer(kind) or arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
        raise InvalidFile(f"{path}: ids are whole numbers or texts, got {kind}")
    if len(set(table["id"].to_pylist())) < len(table) or table["id"].null_count:
        raise InvalidFile(f"{path}: every pair needs an id of its own; some are missing or come twice")
    return list(_asks(path, table)), kind


def _table(path: str, arrow: Any) -> pyarrow.Table:
    from pyarrow import csv, parquet
    from pyarrow import json as lines

    readers = {".parquet": parquet.read_table, ".csv": csv.read_csv, ".jsonl": lines.read_json}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise InvalidFile(f"{path}: a table of pairs is one of {', '.join(readers)}")
    try:
        with extra("fsspec", "bulk", "reading tables").open(path, "rb") as stream:
            return reader(stream)
    except (OSError, ValueError, arrow.ArrowException, ImportError) as error:
        raise InvalidFile(f"{path}: cannot be read as a table ({reason(error)[:200]}); check the path") from None


def _asks(path: str, table: pyarrow.Table) -> Iterator[Ask]:
    import numpy as np

    known = [name for name in (*SHAPES, *NUMBERS) if name in table.column_names]
    columns = {name: table[name].to_pylist() for name in ("id", "source", "target", *known)}
    for row in range(len(table)):
        options = {name: columns[name][row] for name in known if columns[name][row] not in (None, "")}
        for name, value in options.items():
            try:
                numbers = np.asarray(json.loads(value) if isinstance(value, str) else value, dtype=np.float64)
                options[name] = numbers.reshape(SHAPES.get(name, ())).tolist()
            except (TypeError, ValueError):
                shape = "x".join(map(str, SHAPES.get(name, (1,))))
                raise InvalidFile(f"{path}: `{name}` of pair {columns['id'][row]} must be {shape} numbers") from None
        yield Ask(columns["id"][row], str(columns["source"][row]), str(columns["target"][row]), options)
