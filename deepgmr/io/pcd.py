"""PCD, the Point Cloud Library's format: ascii, binary and binary_compressed.

Read here rather than by a library: open3d drops fields it does not know, pypcd4 needs two further packages and merges
fields of several values. Format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.io.cloud import (
    CloudFile,
    as_points,
    coordinate_dtype,
    count_of,
    flat_columns,
    needs_double,
    renamed,
    stored_coordinates,
    word,
)
from deepgmr.io.disk import check_growth
from deepgmr.io.tables import joined_columns, parse_rows

REMEDY = "export it again"
ENCODINGS = ("ascii", "binary", "binary_compressed")


@dataclass(frozen=True)
class Header:
    """What a PCD says of itself before its data."""

    fields: tuple[tuple[str, np.dtype, int], ...]  # name, type of a value, values a point
    points: int
    encoding: str
    viewpoint: tuple[float, ...] | None
    comments: tuple[str, ...]
    size: int  # bytes up to and including the DATA line

    @property
    def dtype(self) -> np.dtype:
        """A point as it lies in the file; to be asked for once the file is known to hold one."""
        return np.dtype([(name, kind) if n == 1 else (name, kind, (n,)) for name, kind, n in self.fields])

    @property
    def itemsize(self) -> int:
        """Bytes of a point."""
        return sum(kind.itemsize * n for _, kind, n in self.fields)


def read_pcd(path: Path) -> CloudFile:
    """Read a PCD; every field but padding (`_`) is kept, PCL's packed `rgb` bit for bit."""
    data = path.read_bytes()
    header = parse_header(path, data)
    if header.encoding == "ascii":
        rows = _read_text(path, data, header)
    else:
        rows = _read_binary(path, data, header)
    columns = {name: rows[name] for name, _, _ in header.fields if not name.startswith("_ ")}
    coordinates = [columns.pop(axis) for axis in "xyz"]
    return CloudFile(
        as_points(path, coordinates),
        columns,
        "pcd",
        header.comments,
        coordinate_dtype(*(column.dtype for column in coordinates)),
        header.encoding == "ascii",
        viewpoint=header.viewpoint,
    )


def parse_header(path: Path, data: bytes) -> Header:
    """The header of a PCD, checked entry by entry; raises InvalidFile naming the entry."""
    entries: dict[str, list[str]] = {}
    comments: list[str] = []
    at = 0
    while "DATA" not in entries:
        end = data.find(b"\n", at)
        if end < 0 or at > 1 << 20:
            raise InvalidFile(f"{path}: the PCD header has no DATA line, the file is truncated or damaged; {REMEDY}")
        line = data[at:end].decode("utf-8", "replace").strip()
        at = end + 1
        if line.startswith("#"):
            comments.append(line.lstrip("# "))
        elif line:
            key, *values = line.split()
            entries["FIELDS" if key.upper() == "COLUMNS" else key.upper()] = values
    try:
        key = "FIELDS"
        names = [name if name != "_" else f"_ {i}" for i, name in enumerate(entries[key])]
        counts = [count_of(n) for n in entries.get("COUNT", ["1"] * len(names))]
        key = "SIZE or TYPE"
        kinds = [_kind(kind, size) for kind, size in zip(entries["TYPE"], entries["SIZE"], strict=True)]
        fields = tuple(zip(names, kinds, counts, strict=True))
        key = "FIELDS or COUNT"
        if len(set(names)) < len(names) or min(counts, default=1) < 1 or max(counts, default=1) >= 2**31 // 8:
            raise ValueError
        key = "WIDTH or HEIGHT"
        grid = [count_of(entries[name][0]) for name in ("WIDTH", "HEIGHT") if name in entries]
        key = "POINTS"
        points = count_of(entries["POINTS"][0]) if "POINTS" in entries else math.prod(grid)
        if not ("POINTS" in entries or len(grid) == 2):
            raise ValueError
        key = "VIEWPOINT"
        viewpoint = tuple(map(float, entries[key])) if key in entries else None
        if viewpoint is not None and len(viewpoint) != 7:
            raise ValueError
        key = "DATA"
        encoding = entries[key][0].lower()
        if encoding not in ENCODINGS:
            raise ValueError
    except (KeyError, ValueError, IndexError):
        found = "; ".join(f"{k} {' '.join(entries[k])[:60]}" for k in key.split(" or ") if k in entries)
        raise InvalidFile(
            f"{path}: PCD header entry {key} is missing or wrong ({found or 'missing'}); {REMEDY}"
        ) from None
    if len(grid) == 2 and math.prod(grid) != points:
        raise InvalidFile(
            f"{path}: the PCD header contradicts itself: POINTS {points:,} but WIDTH x HEIGHT is {math.prod(grid):,}; "
            "correct the count or export it again"
        )
    if points == 0:
        raise InvalidFile(f"{path}: holds zero points (POINTS 0); {REMEDY}")
    missing = [axis for axis in "xyz" if (axis, 1) not in [(name, n) for name, _, n in fields]]
    if missing:
        raise InvalidFile(
            f"{path}: the PCD has no field {', '.join(missing)} (found: {', '.join(names)}); a cloud needs x, y and z"
        )
    ours = tuple(c for c in comments if not c.startswith(".PCD v"))
    return Header(fields, points, encoding, viewpoint, ours, at)


def _kind(kind: str, size: str) -> np.dtype:
    if (kind, size) not in {("F", "4"), ("F", "8"), *((k, s) for k in "IU" for s in "1248")}:
        raise ValueError
    return np.dtype({"F": "f", "I": "i", "U": "u"}[kind] + size)


def _read_text(path: Path, data: bytes, header: Header) -> np.ndarray:
    text = data[header.size :].decode("latin-1")
    first = data[: header.size].count(b"\n") + 1
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=first) if line.strip()]
    if len(lines) != header.points:
        raise InvalidFile(
            f"{path}: the PCD header promises {header.points:,} points but {len(lines):,} lines of data follow; "
            "the file is truncated or its count is wrong, export it again or correct the count"
        )
    values, found = sum(n for _, _, n in header.fields), len(lines[0][1].split())
    if found != values:
        raise InvalidFile(
            f"{path}: line {lines[0][0]} has {found:,} values where the PCD header's FIELDS and COUNT promise {values:,}; "
            f"the file is damaged, {REMEDY}"
        )
    flat = np.dtype([(f"{name} {i}", kind) for name, kind, n in header.fields for i in range(n)])
    return parse_rows(path, lines, None, flat).view(header.dtype)


def _read_binary(path: Path, data: bytes, header: Header) -> np.ndarray:
    need = header.points * header.itemsize
    body = memoryview(data)[header.size :]
    if header.encoding == "binary":
        if need > len(body) or len(body) - need >= max(header.itemsize, 3):
            raise InvalidFile(
                f"{path}: the PCD header promises {header.points:,} points ({need:,} bytes) but the file holds "
                f"{len(body):,} bytes of data; it is truncated or its count is wrong, export it again"
            )
        return np.frombuffer(body, header.dtype, header.points).copy()
    packed, unpacked = np.frombuffer(body[:8], "<u4").tolist() if len(body) >= 8 else (0, 0)
    if unpacked != need or packed > len(body) - 8:
        raise InvalidFile(
            f"{path}: the PCD header promises {header.points:,} points ({need:,} bytes), its compressed part "
            f"{packed:,} bytes for {unpacked:,}, but {max(len(body) - 8, 0):,} bytes follow; the file is truncated or "
            "corrupt, export it again"
        )
    check_growth(path, need)
    # A writer that finds nothing to compress stores the bytes as they are.
    plain = bytes(body[8 : 8 + packed]) if packed == unpacked else decompressed(path, bytes(body[8 : 8 + packed]), need)
    rows = np.empty(header.points, header.dtype)  # the compressed part keeps all values of a field together
    at = 0
    for name, kind, n in header.fields:
        values = np.frombuffer(plain, kind, header.points * n, at)
        rows[name] = values if n == 1 else values.reshape(header.points, n)
        at += values.nbytes
    return rows


def decompressed(path: Path, data: bytes, size: int) -> bytes:
    """LZF (Marc Lehmann's liblzf, the stream PCL writes) undone: `size` bytes, or InvalidFile."""
    out = bytearray()
    at = 0
    try:
        while at < len(data) and len(out) <= size:
            control = data[at]
            at += 1
            if control < 32:  # the next control + 1 bytes stand for themselves
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5  # else a repetition of what was written `offset` bytes ago
            if length == 7:
                length += data[at]
                at += 1
            length += 2
            offset = ((control & 31) << 8 | data[at]) + 1
            at += 1
            start = len(out) - offset
            if start < 0:
                raise IndexError
            piece = out[start : start + length]
            out += piece if offset >= length else (piece * (length // offset + 1))[:length]
    except IndexError:
        out = bytearray()
    if len(out) != size or at != len(data):
        raise InvalidFile(f"{path}: the compressed part of the PCD is corrupt; {REMEDY}")
    return bytes(out)


def holds_doubles(cloud: CloudFile) -> bool:
    """Whether `write_pcd` writes this cloud's coordinates in binary double precision, which not everyone reads."""
    return not _as_text(cloud) and needs_double(cloud.points)


def _as_text(cloud: CloudFile) -> bool:
    return cloud.text and cloud.format == "pcd"


def write_pcd(stream: BinaryIO, cloud: CloudFile) -> list[str]:
    """Write binary PCD (ascii where the source was); returns the names of properties PCD cannot hold.

    Binary coordinates are float32 wherever that keeps their detail: Open3D's legacy reader takes others for zeros.
    """
    text = _as_text(cloud)
    coordinates = stored_coordinates(cloud.points, cloud.coordinate_dtype if text else np.dtype(np.float32))
    columns: dict[str, np.ndarray] = {axis: coordinates[:, i] for i, axis in enumerate("xyz")}
    dropped: list[str] = []
    named = renamed(flat_columns(cloud.properties), ("normal_x", "normal_y", "normal_z"))
    for name, values in _packed_colour(named).items():
        plain = values.astype(np.uint8) if values.dtype == bool else values
        plain = plain.astype(np.float32) if plain.dtype == np.float16 else plain
        if plain.dtype.kind not in "fiu" or plain.dtype.itemsize > 8 or word(name) in columns:
            dropped.append(name)
        else:
            columns[word(name)] = plain
    kinds = [values.dtype for values in columns.values()]
    count = len(cloud)
    viewpoint = cloud.viewpoint or (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    lines = ["# .PCD v0.7 - Point Cloud Data file format"]
    lines += [f"# {' '.join(comment.split())}" for comment in cloud.comments]
    lines += [
        "VERSION 0.7",
        f"FIELDS {' '.join(columns)}",
        f"SIZE {' '.join(str(kind.itemsize) for kind in kinds)}",
        f"TYPE {' '.join(kind.kind.upper() for kind in kinds)}",
        f"COUNT {' '.join('1' for _ in kinds)}",
        f"WIDTH {count}\nHEIGHT 1",
        f"VIEWPOINT {' '.join(f'{value:.17g}' for value in viewpoint)}",
        f"POINTS {count}\nDATA {'ascii' if text else 'binary'}",
    ]
    stream.write(("\n".join(lines) + "\n").encode("utf-8"))
    if text:
        stream.write(joined_columns(list(columns.values()), " "))
        return dropped
    rows = np.empty(count, [(name, values.dtype.newbyteorder("<")) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    stream.write(rows.tobytes())
    return dropped


def _packed_colour(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """red, green, blue bytes as PCL's `rgb`: the bits 0x00RRGGBB behind a float's name."""
    channels = [columns.get(name) for name in ("red", "green", "blue")]
    if any(channel is None or channel.dtype != np.uint8 for channel in channels):
        return columns
    red, green, blue = (channel.astype(np.uint32) for channel in channels if channel is not None)
    rest = {name: values for name, values in columns.items() if name not in ("red", "green", "blue")}
    return {"rgb": (red << 16 | green << 8 | blue).view(np.float32), **rest}
