"""PLY: text and both byte orders, any property, faces.

Read here rather than by a library: trimesh keeps no comments and writes only single precision, plyfile is under the
GPL, and neither says in one line what is wrong with a damaged file. Format: Greg Turk, "The PLY Polygon File Format"
(1994).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.io.cloud import (
    BLOCK,
    CloudFile,
    Triangles,
    as_points,
    coordinate_dtype,
    count_of,
    flat_columns,
    renamed,
    stored_dtype,
    unpacked_colour,
    word,
)
from deepgmr.io.ply_rows import BinaryRows, Element, Property, TextRows
from deepgmr.io.splats import SHAPE
from deepgmr.io.tables import joined_columns

TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8"},
}
NAMES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float"}
NAMES["f8"] = "double"
FACE_LISTS = ("vertex_indices", "vertex_index")
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
HEADER = 1 << 20  # bytes among which a header must end
REMEDY = "export it again"


@dataclass(frozen=True)
class Header:
    """What a PLY says of itself before its data."""

    encoding: str
    elements: tuple[Element, ...]
    comments: tuple[str, ...]
    size: int  # bytes up to and including the line end after end_header


def read_ply(path: Path, *, properties: bool = True) -> CloudFile:
    """Read a PLY. Faces, where there are any, come back as the vertices' `triangles` for the caller to sample.

    Without `properties` there are the points and the faces, and no other column but those that make it a splat.
    """
    with path.open("rb") as stream:
        header = parse_header(path, stream.read(HEADER))
        stream.seek(header.size)
        columns: dict[str, dict[str, np.ndarray]] = {}
        rows: TextRows | BinaryRows
        if header.encoding == "ascii":
            stream.seek(0)
            rows = TextRows(path, stream.read(), header.size)
        else:
            left = path.stat().st_size - header.size
            rows = BinaryRows(path, stream, left, ORDERS[header.encoding])
        wanted = [index for index, element in enumerate(header.elements) if element.name in ("vertex", "face")]
        for element in header.elements[: wanted[-1] + 1]:
            if element.name == "vertex":
                points, stored, columns["vertex"] = _vertices(
                    path, rows, element, None if properties else _shape(element)
                )
            else:
                columns[element.name] = rows.read(element)
        if wanted[-1] + 1 == len(header.elements):  # all the rest was read: whatever follows was not declared
            rows.check_end(header.elements[-1])
    vertex = columns["vertex"]
    faces = next((columns["face"][name] for name in FACE_LISTS if name in columns.get("face", {})), None)
    surface = None
    if faces is not None and len(faces):
        surface = Triangles(points, triangles(faces), vertex)
    return CloudFile(points, vertex, "ply", header.comments, stored, header.encoding == "ascii", surface)


def _vertices(
    path: Path, rows: TextRows | BinaryRows, element: Element, keep: frozenset[str] | None
) -> tuple[np.ndarray, np.dtype, dict[str, np.ndarray]]:
    """The points (N, 3) float64, the type they were stored in, and the other columns, where given only those of `keep`."""
    types = {prop.name: np.dtype(prop.type) for prop in element.properties if not prop.length}
    stored = coordinate_dtype(*(types[axis] for axis in "xyz"))
    rows.check(element)
    if any(types[axis].kind in "iu" and types[axis].itemsize == 8 for axis in "xyz"):  # they may not fit float64
        columns = rows.read(element, keep=None if keep is None else keep.union("xyz"))
        return as_points(path, [columns.pop(axis) for axis in "xyz"]), stored, columns
    points = np.empty((element.count, 3))
    with np.errstate(invalid="ignore"):  # NaN comes in kinds, some of which warn
        columns = rows.read(element, {axis: points[:, i] for i, axis in enumerate("xyz")}, keep=keep)
    return points, stored, columns


def _shape(element: Element) -> frozenset[str]:
    """What makes a splat of the vertices, where all of it is there."""
    return SHAPE if {prop.name for prop in element.properties} >= SHAPE else frozenset()


def parse_header(path: Path, data: bytes) -> Header:
    """The header of a PLY, checked line by line; raises InvalidFile naming the line."""
    # A header in bare carriage returns ends with one: the next byte, even if a line feed, is data.
    line_end = rb"\r" if re.match(rb"ply[ \t]*\r(?!\n)", data) else rb"(?:\r\n|\n|\Z)"
    end = re.compile(rb"[\r\n]end_header[ \t]*" + line_end).search(data)
    if end is None:
        raise InvalidFile(f"{path}: the PLY header has no end_header line, the file is truncated or damaged; {REMEDY}")
    encoding = ""
    comments: list[str] = []
    elements: list[tuple[str, int, list[Property]]] = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", data[: end.start()].decode("utf-8", "replace")), start=1):
        words = line.split()
        try:
            match words:
                case [] | ["ply"]:
                    pass
                case ["comment" | "obj_info", *_]:
                    comments.append(line.split(maxsplit=1)[1].rstrip() if len(words) > 1 else "")
                case ["format", kind, _] if kind in ORDERS:
                    encoding = kind
                case ["element", name, count] if name not in [known for known, _, _ in elements]:
                    elements.append((name, count_of(count), []))
                case ["property", "list", length, kind, name] if TYPES[length][0] in "iu":
                    _add(elements, Property(name, TYPES[kind], TYPES[length]))
                case ["property", kind, name]:
                    _add(elements, Property(name, TYPES[kind], None))
                case _:
                    raise ValueError
        except (ValueError, KeyError, IndexError):
            raise InvalidFile(
                f"{path}: PLY header line {number} cannot be understood: {line.strip()[:80]!r}; {REMEDY}"
            ) from None
    if not encoding:
        raise InvalidFile(f"{path}: the PLY header has no format line; {REMEDY}")
    header = Header(encoding, tuple(Element(n, c, tuple(p)) for n, c, p in elements), tuple(comments), end.end())
    vertex = next((element for element in header.elements if element.name == "vertex"), None)
    if vertex is None:
        raise InvalidFile(f"{path}: the PLY declares no vertex element, so it holds no points; {REMEDY}")
    if vertex.count == 0:
        raise InvalidFile(f"{path}: holds zero points (element vertex 0); {REMEDY}")
    if empty := [element for element in header.elements if element.count and not element.properties]:
        raise InvalidFile(
            f"{path}: the PLY declares {empty[0].count:,} {empty[0].name} rows without any property; {REMEDY}"
        )
    missing = [axis for axis in "xyz" if axis not in [p.name for p in vertex.properties if not p.length]]
    if missing:
        raise InvalidFile(
            f"{path}: the PLY's vertices have no {', '.join(missing)} "
            f"(found: {', '.join(p.name for p in vertex.properties) or 'nothing'}); a cloud needs x, y and z"
        )
    return header


def _add(elements: list[tuple[str, int, list[Property]]], prop: Property) -> None:
    known = elements[-1][2]
    if prop.name in [other.name for other in known]:
        raise ValueError("declared twice")
    known.append(prop)


def triangles(faces: np.ndarray) -> np.ndarray:
    """Polygons, an (F, k) array or an object array of index lists, as a fan of triangles each: (F', 3) int64."""
    if faces.dtype != object:
        rows = faces.astype(np.int64)
        fans = [np.column_stack([rows[:, 0], rows[:, i], rows[:, i + 1]]) for i in range(1, rows.shape[1] - 1)]
        return np.stack(fans, axis=1).reshape(-1, 3) if fans else np.empty((0, 3), np.int64)
    lists = (list(map(int, face)) for face in faces)
    fan = [(face[0], b, c) for face in lists for b, c in pairwise(face[1:])]
    return np.array(fan, np.int64).reshape(-1, 3)


def write_ply(stream: BinaryIO, cloud: CloudFile) -> list[str]:
    """Write the cloud, or its mesh where it came from one; returns the names of properties PLY cannot hold."""
    surface = cloud.triangles
    positions = cloud.points if surface is None else surface.vertices
    properties = cloud.properties if surface is None else surface.properties
    stored = stored_dtype(positions, cloud.coordinate_dtype)
    columns: dict[str, np.ndarray] = {axis: positions[:, i] for i, axis in enumerate("xyz")}
    dropped: list[str] = []
    for name, values in renamed(unpacked_colour(flat_columns(properties)), ("nx", "ny", "nz")).items():
        held = _held(values)
        if held is None or word(name) in columns:
            dropped.append(name)
        else:
            columns[word(name)] = held
    text = cloud.text and cloud.format == "ply"
    lines = ["ply", f"format {'ascii' if text else 'binary_little_endian'} 1.0"]
    lines += [f"comment {' '.join(comment.split())}" for comment in cloud.comments]
    lines.append(f"element vertex {len(positions)}")
    types = {name: stored if name in "xyz" else values.dtype for name, values in columns.items()}
    lines += [f"property {NAMES[kind.str[1:]]} {name}" for name, kind in types.items()]
    if surface is not None:
        lines += [f"element face {len(surface.faces)}", "property list uchar int vertex_indices"]
    stream.write(("\n".join([*lines, "end_header"]) + "\n").encode("utf-8"))
    if text:
        stream.write(joined_columns([values.astype(types[name]) for name, values in columns.items()], " "))
    else:
        kind = np.dtype([(name, each.newbyteorder("<")) for name, each in types.items()])
        for start in range(0, len(positions), BLOCK):
            rows = np.empty(min(BLOCK, len(positions) - start), kind)
            for name, values in columns.items():
                rows[name] = values[start : start + BLOCK]
            stream.write(rows.data)
    if surface is not None:
        faces = np.empty(len(surface.faces), [("length", "u1"), ("indices", "<i4", (3,))])
        faces["length"], faces["indices"] = 3, surface.faces
        if text:
            stream.write(joined_columns([faces["length"], *faces["indices"].T], " "))
        else:
            stream.write(faces.tobytes())
    return dropped


def _held(values: np.ndarray) -> np.ndarray | None:
    """The values in a type that PLY has (it knows no 8-byte integers), or None where none holds them exactly."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and values.dtype.itemsize == 2:
        return values.astype(np.float32)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        largest = max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0))))
        return values.astype(np.int32) if largest < 2**31 else values.astype(np.float64) if largest <= 2**53 else None
    return values if values.dtype.kind in "fiu" and values.dtype.itemsize <= 8 else None
