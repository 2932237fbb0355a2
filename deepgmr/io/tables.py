"""Tables of numbers as text: XYZ, PTS, TXT, CSV, ASC; with or without a header, any common separator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.io.cloud import CloudFile, flat_columns, renamed, stored_coordinates, unpacked_colour, word

COMMENT = ("#", "//", "%")
Lines = list[tuple[int, str]]  # (line number in the file, text)


def read_table(path: Path) -> CloudFile:
    """Read columns of numbers. x, y, z are the columns so named, or the first three where there are no names.

    Further columns keep their names (or are called column_4, column_5, ...), integers stay integers. Three unnamed
    columns of unit length right after the coordinates are taken for normals, so that a motion rotates them.
    """
    text = decoded(path, path.read_bytes())
    lines, comments = _content(text)
    if not lines:
        raise InvalidFile(f"{path}: holds zero points (no line of numbers); export it again")
    counted = re.fullmatch(r"[+-]?\d{1,40}", lines[0][1]) is not None  # a PTS begins with its number of points
    if counted and (path.suffix.lower() == ".pts" or (len(lines) > 1 and len(_split(*_cut(lines[1][1]))) >= 3)):
        promised, lines = int(lines[0][1]), lines[1:]
        if promised != len(lines):
            raise InvalidFile(
                f"{path}: the first line promises {promised:,} points but {len(lines):,} lines follow; "
                "the file is truncated or the count is wrong"
            )
    names = None
    if lines and not any(map(_is_number, _split(*_cut(lines[0][1])))):
        names = _names(lines[0][1])
        lines = lines[1:]
    if not lines:
        raise InvalidFile(f"{path}: holds zero points (a header and no line of numbers); export it again")
    separator = _separator(lines[0][1])
    width = len(_split(lines[0][1], separator))
    if width < 3:
        raise InvalidFile(
            f"{path}: line {lines[0][0]} has {width} column{'s' if width > 1 else ''}, a point needs three (x, y, z)"
        )
    values = parse_rows(path, lines, separator, None)
    if names is None:
        names = next((found for found in map(_names, comments) if len(found) == width and _find(found, 0) >= 0), None)
    if names is not None and len(names) != width:
        raise InvalidFile(f"{path}: the header names {len(names)} columns but the rows have {width}; make them agree")
    return _as_cloud(path, values, names, _whole(lines[0][1], separator), comments)


def _as_cloud(
    path: Path, values: np.ndarray, names: list[str] | None, whole: list[bool], comments: list[str]
) -> CloudFile:
    place = [0, 1, 2] if names is None else [_find(names, axis) for axis in range(3)]
    if names is None:
        names = [*"xyz", *(f"column_{i}" for i in range(4, values.shape[1] + 1))]
        block = np.clip(values[:, 3:6], -2.0, 2.0)  # whatever is longer is no unit vector either way
        if block.shape[1] == 3 and np.all(np.abs(np.linalg.norm(block, axis=1) - 1.0) < 1e-3):
            names[3:6] = ["nx", "ny", "nz"]
    if -1 in place:
        raise InvalidFile(
            f"{path}: no columns named x, y and z among {', '.join(names)[:100]}; name them so, or remove the header"
        )
    properties: dict[str, np.ndarray] = {}
    for i, name in enumerate(names):
        if i not in place:
            column = values[:, i]
            exact = whole[i] and np.all(np.abs(column) < 2**53) and np.all(column == np.rint(column))
            properties[name if name not in properties else f"{name}_{i + 1}"] = (
                column.astype(np.int64) if exact else column.copy()
            )
    kept = tuple(comment for comment in comments if _find(_names(comment), 0) < 0)
    return CloudFile(np.ascontiguousarray(values[:, place]), properties, "table", kept, text=True)


def decoded(path: Path, data: bytes) -> str:
    """The bytes as text: UTF-8 or UTF-16 by its mark, else Latin-1 (digits are the same); binary data is an error."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise InvalidFile(f"{path}: begins as UTF-16 text but cannot be decoded; save it as UTF-8") from None
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", data):
        raise InvalidFile(
            f"{path}: holds binary bytes that are neither text nor a format known here; "
            "readable are PLY, PCD, OBJ, STL, OFF, GLB/GLTF, XYZ/PTS/TXT/CSV/ASC, NPY/NPZ, LAS/LAZ"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _content(text: str) -> tuple[Lines, list[str]]:
    lines: Lines = []
    comments: list[str] = []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        stripped = line.strip()
        if stripped.startswith(COMMENT):
            comments.append(stripped.lstrip("#/%").strip())
        elif stripped:
            lines.append((number, stripped))
    return lines, comments


def _separator(line: str) -> str | None:
    return next((mark for mark in ";," if mark in line), None)  # None: any run of blanks and tabs


def _cut(line: str) -> tuple[str, str | None]:
    return line, _separator(line)


def _split(line: str, separator: str | None) -> list[str]:
    return [token.strip() for token in line.rstrip(f" {separator or ''}").split(separator)]


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _whole(line: str, separator: str | None) -> list[bool]:
    return [re.fullmatch(r"[+-]?\d+", token) is not None for token in _split(line, separator)]


def _plain(name: str) -> str:
    return re.sub(r"\s*[\[(].*?[\])]\s*$", "", name.strip().strip("\"'").lstrip("#/% ")).strip()  # "X [m]" is X


def _names(line: str) -> list[str]:
    return [_plain(token) for token in _split(*_cut(line))]


def _find(names: list[str], axis: int) -> int:
    wanted = {"xyz"[axis], f"points:{axis}", f"points_{axis}"}  # the latter two are ParaView's
    return next((i for i, name in enumerate(names) if name.lower() in wanted), -1)


def parse_rows(path: Path, lines: Lines, separator: str | None, dtype: np.dtype | None) -> np.ndarray:
    """Lines of numbers as an array: (N, columns) float64, or (N,) of a structured dtype.

    Raises InvalidFile naming the first line that does not fit and what stands there.
    """
    trimmed = [line.rstrip(separator + " ") for _, line in lines] if separator else [line for _, line in lines]
    try:
        if dtype is None:
            return np.loadtxt(trimmed, np.float64, comments=None, delimiter=separator, ndmin=2)
        return np.loadtxt(trimmed, dtype, comments=None, delimiter=separator, ndmin=1)
    except (ValueError, OverflowError) as error:
        raise InvalidFile(f"{path}: {_complaint(lines, separator, dtype) or ' '.join(str(error).split())}") from None


def _complaint(lines: Lines, separator: str | None, dtype: np.dtype | None) -> str | None:
    width = len(_split(lines[0][1], separator)) if dtype is None else len(dtype.names or ())
    for number, line in lines:
        tokens = _split(line, separator)
        if len(tokens) != width:
            return f"line {number} has {len(tokens)} values where {width} belong; the file is damaged or mixes layouts"
        for column, token in enumerate(tokens):
            kind = np.dtype(np.float64) if dtype is None else dtype[column]
            if not _is_number(token):
                comma = " (decimal comma? write a point)" if re.fullmatch(r"[+-]?\d+,\d+", token) else ""
                return f"line {number} has {token[:40]!r} where a number belongs (column {column + 1}){comma}"
            if kind.kind in "iu":
                low, high = np.iinfo(kind).min, np.iinfo(kind).max
                if not re.fullmatch(r"[+-]?\d{1,40}", token) or not low <= int(token) <= high:
                    return f"line {number} has {token[:40]!r}, which does not fit the declared type {kind.name}"
    return None


def write_table(stream: BinaryIO, cloud: CloudFile, suffix: str) -> list[str]:
    """Write the points and their properties, one line each, each number in as many digits as it has."""
    coordinates = stored_coordinates(cloud.points, cloud.coordinate_dtype)
    columns = {axis: coordinates[:, i] for i, axis in enumerate("xyz")}
    dropped: list[str] = []
    for name, values in renamed(unpacked_colour(flat_columns(cloud.properties)), ("nx", "ny", "nz")).items():
        if values.dtype.kind in "biuf":
            columns[name] = values
        else:
            dropped.append(name)
    separator = "," if suffix == ".csv" else " "
    if suffix == ".pts":
        stream.write(f"{len(cloud)}\n".encode())
    elif suffix == ".csv":
        stream.write((separator.join(columns) + "\n").encode())
    else:
        for comment in cloud.comments:
            stream.write(f"# {' '.join(comment.split())}\n".encode())
        if len(columns) > 3:
            stream.write(f"# {separator.join(map(word, columns))}\n".encode())
    stream.write(joined_columns(list(columns.values()), separator))
    return dropped


def joined_columns(columns: list[np.ndarray], separator: str) -> bytes:
    """Columns as lines of text; each value in the fewest digits that give it back exactly."""
    words = [
        column.astype(np.uint8 if column.dtype == bool else column.dtype).astype(str).tolist() for column in columns
    ]
    return ("\n".join(map(separator.join, zip(*words, strict=True))) + "\n").encode("ascii")
