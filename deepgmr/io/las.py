"""LAS and LAZ, the exchange format of laser scanning; needs the extra `deepgmr[las]` (laspy with lazrs)."""

from __future__ import annotations

import copy
import io
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from deepgmr.errors import InvalidFile, MissingDependency
from deepgmr.extras import extra
from deepgmr.io.cloud import CloudFile, flat_columns, unpacked_colour, word
from deepgmr.io.disk import check_growth
from deepgmr.io.quiet import quiet, quiet_descriptor

COLOURS = ("red", "green", "blue")
BLOCK = 1 << 18  # points read together: five chunks of a LAZ
MOST_COMPRESSED = 2000  # no LAZ is smaller than this fraction of its points; a header that promises more is corrupt
LARGEST_CHUNK = 1 << 28  # bytes of a chunk's points that are there even for a few: 50,000 points is usual
LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}  # of a LASzip item: point, RGB, RGB and infrared, wave packet; else one a byte
RECORD, EXTENDED_RECORD = 54, 60  # bytes of a user record that holds nothing


def require_laspy(path: Path, *, compressed: bool) -> Any:
    """laspy (with lazrs for compressed points), or a MissingDependency that says how to install it."""
    laspy = extra("laspy", "las", f"{path}: reading and writing LAS/LAZ")
    if compressed and not laspy.LazBackend.detect_available():
        raise MissingDependency(f'{path}: LAZ needs lazrs beside laspy; install it with: pip install "deepgmr[las]"')
    return laspy


def read_las(path: Path, *, properties: bool = True) -> CloudFile:
    """Read a LAS or LAZ: coordinates unscaled in float64, every other dimension under its name if it is wanted."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        compressed = stream.read(105)[104:] >= b"\x80"  # the high bit of the point format: LAZ, whatever its suffix
    laspy = require_laspy(path, compressed=compressed)
    try:
        _check_records(path, size)
        with quiet("laspy"), laspy.open(path) as reader:
            header = reader.header
            need = header.point_count * header.point_format.size
            if need > (size * MOST_COMPRESSED if header.are_points_compressed else size - header.offset_to_point_data):
                raise InvalidFile(
                    f"{path}: the LAS header promises {header.point_count:,} points ({need:,} bytes) but the file has "
                    f"{size:,} bytes; it is truncated or its count is wrong, export it again"
                )
            if header.point_count == 0:
                raise InvalidFile(f"{path}: holds zero points; export it again")
            if header.are_points_compressed:
                check_growth(path, need)
                _check_chunks(path, header, size)
            with quiet_descriptor():
                points, columns, found = _columns(reader, properties)
    except (InvalidFile, MissingDependency):
        raise
    except BaseException as error:  # laspy and lazrs raise their own, unrelated types on damaged files
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise InvalidFile(f"{path}: the LAS file is truncated or corrupt ({said}); export it again") from None
    if found != header.point_count:
        raise InvalidFile(
            f"{path}: the LAS header promises {header.point_count:,} points but {found:,} could be read; "
            "the file is truncated, export it again"
        )
    return CloudFile(points, columns, "las", las_header=header)


def _columns(reader: Any, others: bool) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """The points (N, 3), the other dimensions, and how many points there were, read a block at a time."""
    count, found = reader.header.point_count, 0
    points, properties = np.empty((count, 3)), {}
    names = [name for name in reader.header.point_format.dimension_names if others and name not in ("X", "Y", "Z")]
    for part in reader.chunk_iterator(BLOCK):
        rows = slice(found, found + len(part))
        for i, axis in enumerate("xyz"):
            points[rows, i] = part[axis]
        for name in names:
            values = np.asarray(part[name])
            if name not in properties:
                properties[name] = np.empty((count, *values.shape[1:]), values.dtype)
            properties[name][rows] = values
        found += len(part)
    return points, properties, found


def _check_records(path: Path, size: int) -> None:
    """Raise ValueError unless the user records a LAS promises fit into the file: laspy reads on past its end."""
    with path.open("rb") as stream:
        head = stream.read(247)
        start, points, count = struct.unpack_from("<HII", head, 94)
        if start + count * RECORD > points or points > size:
            raise ValueError(f"{count:,} records before the points at byte {points:,}")
        start, count = struct.unpack_from("<QI", head, 235) if head[25] >= 4 else (0, 0)
        for _ in range(count):
            if start + EXTENDED_RECORD > size:
                raise ValueError(f"{count:,} records up to byte {start:,}")
            stream.seek(start + 20)
            (length,) = struct.unpack("<Q", stream.read(8))
            start += EXTENDED_RECORD + length
        if start > size:
            raise ValueError(f"{count:,} records up to byte {start:,}")


def _check_chunks(path: Path, header: Any, size: int) -> None:
    """Raise ValueError unless the chunks of a LAZ fit into the file: lazrs ends the process where memory fails it."""
    try:
        import lazrs
    except ImportError:
        return  # another backend reads the chunks
    layout = lazrs.LazVlr(header.vlrs[header.vlrs.index("LasZipVlr")].record_data)
    width = header.point_format.size
    with path.open("rb") as stream:
        stream.seek(header.offset_to_point_data)
        (table,) = struct.unpack("<q", stream.read(8))
        if table == -1:  # a writer that could not go back left the offset at the end
            stream.seek(-8, io.SEEK_END)
            (table,) = struct.unpack("<q", stream.read(8))
        stream.seek(table)
        _, count = struct.unpack("<II", stream.read(8))
        if layout.item_size() != width or count * width > size:  # the first point of a chunk is not compressed
            raise ValueError(f"{count:,} chunks of {layout.item_size()} bytes a point")
        stream.seek(header.offset_to_point_data)
        chunks = lazrs.read_chunk_table(stream, layout)
        points, packed = (sum(column) for column in zip(*chunks, strict=True))
        largest = max(points for points, _ in chunks) * width
        if points < header.point_count or packed > size or largest > size * MOST_COMPRESSED + LARGEST_CHUNK:
            raise ValueError(f"chunks of {points:,} points in {packed:,} bytes")
        layers = _layers(layout.record_data())
        start = header.offset_to_point_data + 8
        for _, length in chunks if layers else ():
            stream.seek(start + width + 4)  # behind the first point and the number of points
            sizes = struct.unpack(f"<{layers}I", stream.read(4 * layers))
            if sum(sizes) > length:
                raise ValueError(f"layers of {sum(sizes):,} bytes in a chunk of {length:,}")
            start += length


def _layers(record: bytes) -> int:
    """In how many layers each chunk of a LAZ is stored, from its LASzip record: none before LAS 1.4."""
    compressor, items = struct.unpack_from("<H", record)[0], struct.unpack_from("<H", record, 32)[0]
    kinds = [struct.unpack_from("<HH", record, 34 + 6 * i) for i in range(items)]
    return sum(LAYERS.get(kind, size) for kind, size in kinds) if compressor == 3 else 0


def write_las(stream: BinaryIO, cloud: CloudFile, path: Path) -> list[str]:
    """Write LAS (or LAZ by the suffix) on the finest decimal grid that spans the cloud; returns properties left out."""
    compress = path.suffix.lower() == ".laz"
    laspy = require_laspy(path, compressed=compress)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    lost = 0
    for start in range(0, len(cloud), BLOCK):
        block = cloud.points[start : start + BLOCK].T.copy()  # (3, B): long rows are searched faster
        low, high = np.minimum(low, block.min(axis=1)), np.maximum(high, block.max(axis=1))
        lost += len(block[0]) - int(np.isfinite(block).all(axis=0).sum())
    if lost:
        raise InvalidFile(
            f"{path}: LAS stores whole numbers and cannot hold the {lost:,} points that are not "
            "finite; write a PLY instead"
        )
    if cloud.las_header is not None:
        header = copy.deepcopy(cloud.las_header)
    else:
        header = laspy.LasHeader(version="1.4", point_format=7)
    extent = float((high - low).max())
    # Whole 32-bit steps from the corner: a micrometre up to 2 km across, 0.1 mm up to 200 km.
    header.offsets = np.floor(low)
    header.scales = np.full(3, 10.0 ** max(math.ceil(math.log10(max(extent + 1.0, 1.0) / 2.0e9)), -6))
    columns = unpacked_colour(flat_columns(cloud.properties))
    known = set(header.point_format.dimension_names)
    dropped = [name for name, values in columns.items() if values.dtype.kind not in "biuf" or len(word(name)) > 32]
    for name, values in columns.items():
        if name not in known and name not in dropped:
            kind = np.uint8 if values.dtype == bool else np.float32 if values.dtype == np.float16 else values.dtype
            header.add_extra_dim(laspy.ExtraBytesParams(name=word(name), type=np.dtype(kind)))
    packed = io.BytesIO()  # lazrs does not say why a file could not be written
    with laspy.LasWriter(packed if compress else stream, header, do_compress=compress, closefd=False) as writer:
        for start in range(0, len(cloud), BLOCK):
            rows = slice(start, start + BLOCK)
            record = laspy.ScaleAwarePointRecord.zeros(len(cloud.points[rows]), header=header)
            record.x, record.y, record.z = cloud.points[rows].T
            for name, values in columns.items():
                if name not in dropped:
                    record[name if name in known else word(name)] = _as_stored(name, values[rows])
            writer.write_points(record)
        if header.version.minor >= 4 and header.evlrs is not None:
            writer.write_evlrs(header.evlrs)
    if compress:
        stream.write(packed.getbuffer())
    return dropped


def _as_stored(name: str, values: np.ndarray) -> np.ndarray:
    """LAS colours have 16 bits."""
    return values.astype(np.uint16) * 257 if name in COLOURS and values.dtype == np.uint8 else values
