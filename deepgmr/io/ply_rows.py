"""The rows of a PLY, behind its header: text or binary, with lists of any length.

Counts are checked against the size of the file before anything is allocated. Binary rows without lists are read a
block at a time, straight into the columns.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.io.cloud import BLOCK
from deepgmr.io.tables import parse_rows

REMEDY = "export it again"
CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}  # of struct


@dataclass(frozen=True)
class Property:
    """One column of an element: a value, or a list of them, in each row."""

    name: str
    type: str  # NumPy type of a value, without byte order
    length: str | None  # NumPy type of a list's length; None for a single value


@dataclass(frozen=True)
class Element:
    """A table the header declares: vertex, face, ..."""

    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def has_lists(self) -> bool:
        """Whether its rows can differ in size."""
        return any(prop.length for prop in self.properties)

    def smallest_row(self) -> int:
        """Bytes of a row whose lists are all empty: no file can be shorter than count times this."""
        return sum(np.dtype(prop.length or prop.type).itemsize for prop in self.properties)


def _count(path: Path, element: Element, promised: str, found: str) -> InvalidFile:
    what = "points" if element.name == "vertex" else f"{element.name} rows"
    return InvalidFile(
        f"{path}: the PLY header promises {element.count:,} {what} ({promised}) but the file holds {found}; "
        "it is truncated or its count is wrong, export it again or correct the count"
    )


class BinaryRows:
    """The rows of a binary PLY, read element by element from where a stream stands, `left` bytes from its end.

    `order` is NumPy's sign of the byte order.
    """

    def __init__(self, path: Path, stream: BinaryIO, left: int, order: str) -> None:
        self.path, self.stream, self.order = path, stream, order
        self.data, self.offset, self._left = b"", 0, left  # the rest of the file, once an element with lists is met

    @property
    def left(self) -> int:
        """Bytes of the file that have not been read."""
        return len(self.data) - self.offset if self.data else self._left

    def check(self, element: Element) -> None:
        """Raise InvalidFile unless so many rows may fit into the rest: a header may promise 10^12 points."""
        need = element.count * element.smallest_row()
        if need > self.left:
            least = "at least " if element.has_lists else ""
            raise _count(self.path, element, f"{least}{need:,} bytes", f"{self.left:,} bytes of data")

    def read(
        self, element: Element, into: Mapping[str, np.ndarray] | None = None, *, keep: frozenset[str] | None = None
    ) -> dict[str, np.ndarray]:
        """The columns by name; those that `into` holds (count,) arrays for are filled and not returned.

        Of the others only those of `keep` are kept, where it is given.
        """
        self.check(element)
        if element.has_lists:
            columns = self._read_lists(element)
            return _kept(columns, into, keep)
        given = into or {}
        wanted = [p for p in element.properties if p.name not in given and (keep is None or p.name in keep)]
        columns = {prop.name: np.empty(element.count, prop.type) for prop in wanted}
        every = {**columns, **given}
        dtype = np.dtype([(prop.name, self.order + prop.type) for prop in element.properties])
        for start in range(0, element.count, BLOCK):
            block = self._rows(dtype, min(BLOCK, element.count - start))
            for name, column in every.items():
                column[start : start + BLOCK] = block[name]
        return columns

    def _rows(self, dtype: np.dtype, count: int) -> np.ndarray:
        if self.data:
            self.offset += count * dtype.itemsize
            return np.frombuffer(self.data, dtype, count, self.offset - count * dtype.itemsize)
        data = self.stream.read(count * dtype.itemsize)
        self._left -= len(data)
        if len(data) < count * dtype.itemsize:
            raise InvalidFile(f"{self.path}: became shorter while it was read; {REMEDY}")
        return np.frombuffer(data, dtype, count)

    def _read_lists(self, element: Element) -> dict[str, np.ndarray]:
        if not self.data:
            self.data = self.stream.read()
        if not element.count:
            return {prop.name: np.empty(0, self.order + prop.type) for prop in element.properties}
        lengths = self._row_lengths(element, self.offset)[0]
        fields: list[tuple] = []
        for prop in element.properties:
            if prop.length:
                fields.append((f"{prop.name} length", self.order + prop.length))
                fields.append((prop.name, self.order + prop.type, (lengths[prop.name],)))
            else:
                fields.append((prop.name, self.order + prop.type))
        dtype = np.dtype(fields)
        if element.count * dtype.itemsize <= self.left:
            rows = np.frombuffer(self.data, dtype, element.count, self.offset)
            if all((rows[f"{name} length"] == length).all() for name, length in lengths.items()):
                self.offset += rows.nbytes
                # astype copies out of the file's buffer and turns the bytes to this machine's order
                return {p.name: rows[p.name].astype(rows[p.name].dtype.newbyteorder("=")) for p in element.properties}
        return self._read_ragged(element)

    def _read_ragged(self, element: Element) -> dict[str, np.ndarray]:
        """Row by row, for lists of differing length (triangles mixed with quads)."""
        columns: dict[str, list] = {prop.name: [] for prop in element.properties}
        for _ in range(element.count):
            lengths, end = self._row_lengths(element, self.offset)
            at = self.offset
            for prop in element.properties:
                at += np.dtype(prop.length).itemsize if prop.length else 0
                values = np.frombuffer(self.data, self.order + prop.type, lengths.get(prop.name, 1), at)
                at += values.nbytes
                columns[prop.name].append(values.astype(prop.type) if prop.length else values[0])
            self.offset = end
        return _as_arrays(element, columns)

    def _row_lengths(self, element: Element, offset: int) -> tuple[dict[str, int], int]:
        """How long each list of the row at `offset` is, and where the row ends."""
        lengths: dict[str, int] = {}
        for prop in element.properties:
            size = np.dtype(prop.type).itemsize
            if prop.length:
                try:
                    (length,) = struct.unpack_from(self.order + CODES[prop.length], self.data, offset)
                except struct.error:
                    length = -1
                offset += np.dtype(prop.length).itemsize
                if not 0 <= length <= (len(self.data) - offset) // size:
                    raise InvalidFile(
                        f"{self.path}: a list of the PLY's {element.name} element runs past the end of the file; "
                        f"the file is truncated or corrupt, {REMEDY}"
                    )
                lengths[prop.name] = length
                offset += length * size
            else:
                offset += size
        if offset > len(self.data):
            raise InvalidFile(
                f"{self.path}: a row of the PLY's {element.name} element runs past the end of the file; "
                f"the file is truncated or corrupt, {REMEDY}"
            )
        return lengths, offset

    def check_end(self, last: Element) -> None:
        left = self.left
        if left >= max(last.smallest_row(), 3):  # a line end or a stray byte is no row
            raise InvalidFile(
                f"{self.path}: {left:,} bytes follow the {last.count:,} {last.name} rows that the PLY header "
                "declares; the count is wrong or the file is corrupt, correct the count or export it again"
            )


class TextRows:
    """The rows of an ascii PLY, one line each, read element by element."""

    def __init__(self, path: Path, data: bytes, offset: int) -> None:
        text = data[offset:].decode("latin-1")
        first = data[:offset].count(b"\n") + 1
        numbered = enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=first)
        self.path, self.next = path, 0
        self.lines = [(number, line) for number, line in numbered if line.strip()]

    def check(self, element: Element) -> None:
        """Raise InvalidFile unless there are so many lines."""
        left = len(self.lines) - self.next
        if left < element.count:
            raise _count(self.path, element, f"{element.count:,} lines", f"{left:,} lines of data for them")

    def read(
        self, element: Element, into: Mapping[str, np.ndarray] | None = None, *, keep: frozenset[str] | None = None
    ) -> dict[str, np.ndarray]:
        """The columns by name; those that `into` holds (count,) arrays for are filled and not returned.

        Of the others only those of `keep` are kept, where it is given.
        """
        self.check(element)
        columns = self._read(element)
        return _kept(columns, into, keep)

    def _read(self, element: Element) -> dict[str, np.ndarray]:
        lines = self.lines[self.next : self.next + element.count]
        self.next += element.count
        if not element.count:
            return {prop.name: np.empty(0, prop.type) for prop in element.properties}
        if not element.has_lists:
            dtype = np.dtype([(prop.name, prop.type) for prop in element.properties])
            rows = parse_rows(self.path, lines, None, dtype)
            return {prop.name: rows[prop.name].copy() for prop in element.properties}
        columns: dict[str, list] = {prop.name: [] for prop in element.properties}
        for number, line in lines:
            words = iter(line.split())
            try:
                for prop in element.properties:
                    convert = float if prop.type[0] == "f" else int
                    if prop.length:
                        length = int(next(words))
                        if length < 0:
                            raise ValueError("a negative length")
                        values = [convert(next(words)) for _ in range(length)]
                        columns[prop.name].append(np.array(values, prop.type))
                    else:
                        columns[prop.name].append(np.dtype(prop.type).type(convert(next(words))))
                if next(words, None) is not None:
                    raise ValueError("more values than the element declares")
            except (ValueError, OverflowError, StopIteration):
                raise InvalidFile(
                    f"{self.path}: line {number} is no {element.name} row of this PLY: {line.strip()[:60]!r}; {REMEDY}"
                ) from None
        return _as_arrays(element, columns)

    def check_end(self, last: Element) -> None:
        left = len(self.lines) - self.next
        if left:
            raise InvalidFile(
                f"{self.path}: {left:,} lines follow the {last.count:,} {last.name} rows that the PLY header "
                "declares; the count is wrong or the file is corrupt, correct the count or export it again"
            )


def _kept(
    columns: dict[str, np.ndarray], into: Mapping[str, np.ndarray] | None, keep: frozenset[str] | None
) -> dict[str, np.ndarray]:
    for name in into or {}:
        into[name][:] = columns.pop(name)  # type: ignore[index]
    return {name: column for name, column in columns.items() if keep is None or name in keep}


def _as_arrays(element: Element, columns: dict[str, list]) -> dict[str, np.ndarray]:
    result: dict[str, np.ndarray] = {}
    for prop in element.properties:
        if prop.length:
            ragged = np.empty(element.count, dtype=object)
            ragged[:] = columns[prop.name]
            result[prop.name] = ragged
        else:
            result[prop.name] = np.array(columns[prop.name], prop.type)
    return result
