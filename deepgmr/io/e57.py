"""E57 (ASTM E2807), the exchange format of terrestrial scanners; needs the extra `deepgmr[e57]` (pye57). Read only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.extras import extra
from deepgmr.io.cloud import CloudFile
from deepgmr.io.disk import check_growth

BLOCK = 1 << 18  # points read together
PACKED = 8  # no point takes less than a bit; a scan that promises more than the file has is corrupt
CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")  # metres
SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")  # metres, radians
INVALID = ("cartesianInvalidState", "sphericalInvalidState")  # 1: a direction without a distance, 2: nothing at all
NAMES = {"colorRed": "red", "colorGreen": "green", "colorBlue": "blue"} | {
    f"nor:normal{axis}": f"n{axis.lower()}" for axis in "XYZ"
}


def read_e57(path: Path, *, properties: bool = True) -> CloudFile:
    """Every scan of an E57 where its pose puts it, in metres: the points that were measured, and what each carries.

    Colours and normals get the names they have in a PLY; where there are several scans, `scan` is the number of each
    point's. A property that a scan lacks, or stores as text, is left out. Raises InvalidFile or MissingDependency.
    """
    library = extra("pye57", "e57", f"{path}: reading E57").libe57
    size = path.stat().st_size
    try:
        image = library.ImageFile(str(path), "r")
        try:
            scans = image.root()["data3D"]
            check_growth(path, 24 * sum(scans[number]["points"].childCount() for number in range(len(scans))))
            parts = [_scan(library, image, scans[number], size, properties) for number in range(len(scans))]
        finally:
            image.close()
    except (InvalidFile, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # libe57 raises its own types on damaged files
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise InvalidFile(f"{path}: the E57 file is truncated or corrupt ({said}); export it again") from None
    if not sum(len(points) for points, _ in parts):
        raise InvalidFile(
            f"{path}: holds no measured point in {len(parts):,} scan{'s' * (len(parts) != 1)}; export it again"
        )
    kept = [columns for points, columns in parts if len(points)]
    shared = [name for name in kept[0] if all(name in columns for columns in kept)]
    found = {name: np.concatenate([columns[name] for columns in kept]) for name in shared}
    if len(parts) > 1 and properties:
        found["scan"] = np.repeat(np.arange(len(parts), dtype=np.int32), [len(points) for points, _ in parts])
    return CloudFile(np.concatenate([points for points, _ in parts]), found, "e57")


def _scan(library: Any, image: Any, scan: Any, size: int, others: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The points (N, 3) of one scan in the frame of the file, and its properties if wanted. Raises ValueError or libe57's."""
    stored = scan["points"]
    prototype = library.StructureNode(stored.prototype())
    kinds = {node.elementName(): node for node in (prototype.get(number) for number in range(prototype.childCount()))}
    numbers = {name: node for name, node in kinds.items() if node.type() in _dtypes(library)}
    axes = next((names for names in (CARTESIAN, SPHERICAL) if all(name in numbers for name in names)), None)
    if axes is None:
        raise ValueError(f"a scan without coordinates, it has {', '.join(kinds) or 'nothing'}")
    if stored.childCount() > size * PACKED:
        raise ValueError(f"a scan of {stored.childCount():,} points in {size:,} bytes")
    if stored.childCount() == 0:
        return np.empty((0, 3)), {}
    needed = {name: node for name, node in numbers.items() if others or name in (*axes, *INVALID)}
    columns = _columns(library, image, stored, needed)
    measured = np.ones(len(columns[axes[0]]), dtype=bool)
    for name in INVALID:
        if name in columns and name.startswith(axes[0][:5]):
            measured = columns[name] == 0
    points = np.column_stack([columns[name][measured] for name in axes]).astype(np.float64)  # (N, 3)
    if axes is SPHERICAL:
        reach, azimuth, elevation = points.T
        flat = reach * np.cos(elevation)
        points = np.column_stack([flat * np.cos(azimuth), flat * np.sin(azimuth), reach * np.sin(elevation)])
    rotation, translation = _pose(scan)
    properties = {
        NAMES.get(name, name): values[measured].astype(_dtype(library, numbers[name]))
        for name, values in columns.items()
        if name not in (*CARTESIAN, *SPHERICAL, *INVALID)
    }
    normals = [name for name in ("nx", "ny", "nz") if name in properties]
    if len(normals) == 3:
        turned = np.column_stack([properties[name] for name in normals]) @ rotation.T
        properties |= {name: turned[:, axis].astype(np.float32) for axis, name in enumerate(normals)}
    return points @ rotation.T + translation, properties


def _columns(library: Any, image: Any, stored: Any, numbers: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every column of numbers in float64, a block at a time: what a header promises is allocated once it is there."""
    blocks = {name: np.empty(min(BLOCK, stored.childCount())) for name in numbers}
    buffers = library.VectorSourceDestBuffer()
    for name, block in blocks.items():
        buffers.append(library.SourceDestBuffer(image, name, block, len(block), True, True))
    found: dict[str, list[np.ndarray]] = {name: [] for name in numbers}
    reader, total = stored.reader(buffers), 0
    while count := reader.read():
        total += count
        for name, block in blocks.items():
            found[name].append(block[:count].copy())
    reader.close()
    if total != stored.childCount():
        raise ValueError(f"{stored.childCount():,} points promised, {total:,} found")
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _pose(scan: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rotation (3, 3) and the place (3,) of a scan in the file; none is none."""
    from scipy.spatial.transform import Rotation

    rotation, translation = np.eye(3), np.zeros(3)
    if scan.isDefined("pose"):
        pose = scan["pose"]
        if pose.isDefined("rotation"):
            w, x, y, z = (pose["rotation"][name].value() for name in "wxyz")
            rotation = Rotation.from_quat([x, y, z, w]).as_matrix()
        if pose.isDefined("translation"):
            translation = np.array([pose["translation"][name].value() for name in "xyz"])
    return rotation, translation


def _dtypes(library: Any) -> tuple[Any, ...]:
    """The kinds of node that hold numbers."""
    kinds = library.NodeType
    return kinds.E57_INTEGER, kinds.E57_SCALED_INTEGER, kinds.E57_FLOAT


def _dtype(library: Any, node: Any) -> np.dtype:
    """The smallest type that holds every value a column may have: colours become bytes where they are."""
    if node.type() != library.NodeType.E57_INTEGER:
        single = node.type() == library.NodeType.E57_FLOAT and library.FloatNode(node).precision() == library.E57_SINGLE
        return np.dtype(np.float32 if single else np.float64)
    whole = library.IntegerNode(node)
    return np.result_type(np.min_scalar_type(whole.minimum()), np.min_scalar_type(whole.maximum()))
