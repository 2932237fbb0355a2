"""LAS and LAZ, the exchange format of laser scanning; needs the extra `deepgmr[las]` (laspy with lazrs)."""

from __future__ import annotations

import copy
import io
import logging
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from deepgmr.errors import InvalidFile, MissingDependency
from deepgmr.io.cloud import CloudFile, flat_columns, unpacked_colour, word

COLOURS = ("red", "green", "blue")
MOST_COMPRESSED = 2000  # no LAZ is smaller than this fraction of its points; a header that promises more is corrupt


def require_laspy(path: Path, *, compressed: bool) -> Any:
    """laspy (with lazrs for compressed points), or a MissingDependency that says how to install it."""
    try:
        import laspy
    except ImportError:
        raise MissingDependency(
            f'{path}: reading and writing LAS/LAZ needs laspy; install it with: pip install "deepgmr[las]"'
        ) from None
    if compressed and not laspy.LazBackend.detect_available():
        raise MissingDependency(f'{path}: LAZ needs lazrs beside laspy; install it with: pip install "deepgmr[las]"')
    logger = logging.getLogger("laspy")
    if not logger.handlers:  # laspy logs what it also raises: without a handler that is a second line on stderr
        logger.addHandler(logging.NullHandler())
    return laspy


def read_las(path: Path) -> CloudFile:
    """Read a LAS or LAZ: coordinates unscaled in float64, every other dimension under its name."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        compressed = bool(
            stream.read(105)[104:] >= b"\x80"
        )  # the high bit of the point format: LAZ, whatever its suffix
    laspy = require_laspy(path, compressed=compressed)
    try:
        with laspy.open(path) as reader:
            header = reader.header
            need = header.point_count * header.point_format.size
            if need > (size * MOST_COMPRESSED if header.are_points_compressed else size - header.offset_to_point_data):
                raise InvalidFile(
                    f"{path}: the LAS header promises {header.point_count:,} points ({need:,} bytes) but the file has "
                    f"{size:,} bytes; it is truncated or its count is wrong, export it again"
                )
            if header.point_count == 0:
                raise InvalidFile(f"{path}: holds zero points; export it again")
            data = reader.read()
    except (InvalidFile, MissingDependency):
        raise
    except Exception as error:  # laspy and lazrs raise their own, unrelated types on damaged files
        said = " ".join(str(error).split())[:120]
        raise InvalidFile(f"{path}: the LAS file is truncated or corrupt ({said}); export it again") from None
    if len(data.points) != header.point_count:
        raise InvalidFile(
            f"{path}: the LAS header promises {header.point_count:,} points but {len(data.points):,} could be read; "
            "the file is truncated, export it again"
        )
    properties = {
        name: np.array(data[name]) for name in data.point_format.dimension_names if name not in ("X", "Y", "Z")
    }
    points = np.column_stack([np.asarray(data[axis], dtype=np.float64) for axis in "xyz"])
    return CloudFile(points, properties, "las", las_header=header)


def write_las(stream: BinaryIO, cloud: CloudFile, path: Path) -> list[str]:
    """Write LAS (or LAZ by the suffix) on the finest decimal grid that spans the cloud; returns properties left out."""
    compress = path.suffix.lower() == ".laz"
    laspy = require_laspy(path, compressed=compress)
    finite = cloud.points[np.isfinite(cloud.points).all(axis=1)]
    if len(finite) < len(cloud):
        raise InvalidFile(
            f"{path}: LAS stores whole numbers and cannot hold the {len(cloud) - len(finite):,} points that are not "
            "finite; write a PLY instead"
        )
    if cloud.las_header is not None:
        header = copy.deepcopy(cloud.las_header)
    else:
        header = laspy.LasHeader(version="1.4", point_format=7)
    low, extent = finite.min(axis=0), float(np.ptp(finite, axis=0).max())
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
    data = laspy.LasData(header, laspy.ScaleAwarePointRecord.zeros(len(cloud), header=header))
    data.x, data.y, data.z = cloud.points.T
    for name, values in columns.items():
        if name not in dropped:
            if name in COLOURS and values.dtype == np.uint8:
                values = values.astype(np.uint16) * 257  # LAS colours have 16 bits
            data[word(name) if name not in known else name] = values
    buffer = io.BytesIO()
    data.write(buffer, do_compress=compress)
    stream.write(buffer.getvalue())
    return dropped
