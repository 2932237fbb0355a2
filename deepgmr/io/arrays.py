"""NumPy's NPY and NPZ: one array of points, or an archive with the points and their properties under names."""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.io.cloud import CloudFile, as_points, coordinate_dtype, stored_coordinates
from deepgmr.io.disk import check_growth
from deepgmr.io.quiet import quiet_warnings

POINT_KEYS = ("points", "xyz", "pts", "pos", "positions", "vertices", "arr_0")


def read_npy(path: Path) -> CloudFile:
    """An (N, 3) array, or (N, 3 + k) whose further columns become properties, or a structured one with x, y, z."""
    with path.open("rb") as stream:
        return _as_cloud(path, "the array", checked_array(path, stream, path.stat().st_size), {}, "npy")


def read_npz(path: Path) -> CloudFile:
    """The array called as in POINT_KEYS, or the only one; others of the same length are properties."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}
            if not entries:
                raise InvalidFile(f"{path}: is a ZIP archive without NumPy arrays; unpack it and give a file from it")
            check_growth(path, sum(info.file_size for info in entries.values()))
            key = next((name for name in POINT_KEYS if name in entries), None)
            if key is None and len(entries) == 1:
                key = next(iter(entries))
            if key is None:
                raise InvalidFile(
                    f"{path}: no array is called {', '.join(POINT_KEYS[:2])} or {POINT_KEYS[-1]} "
                    f"(found: {', '.join(entries)[:100]}); save the cloud as np.savez(path, points=...)"
                )
            arrays: dict[str, np.ndarray] = {}
            for name, info in entries.items():
                with archive.open(info) as stream:
                    if name == key:
                        arrays[name] = checked_array(path, stream, info.file_size)  # type: ignore[arg-type]
                        continue
                    try:
                        arrays[name] = checked_array(path, stream, info.file_size)  # type: ignore[arg-type]
                    except InvalidFile:
                        continue  # a label or a pickled note beside the points is not ours to judge
    except (InvalidFile, OSError, MemoryError):
        raise
    except Exception as error:  # zipfile raises whatever it meets in a damaged directory
        raise InvalidFile(
            f"{path}: the NPZ is truncated, corrupt or encrypted ({' '.join(str(error).split())[:120]}); save it again"
        ) from None
    points = arrays.pop(key)
    extras = {k: v for k, v in arrays.items() if v.ndim in (1, 2) and len(v) == len(points) and v.dtype.kind in "biuf"}
    return _as_cloud(path, f"the array {key!r}", points, extras, "npz")


def read_bin(path: Path) -> CloudFile:
    """KITTI's Velodyne scans: x, y, z and intensity of each point, float32, little-endian, and nothing else."""
    size = path.stat().st_size
    if size % 16:
        raise InvalidFile(
            f"{path}: has {size:,} bytes; a KITTI scan has 16 for each point, it is cut off or another kind"
        )
    rows = np.fromfile(path, dtype="<f4").reshape(-1, 4)
    return CloudFile(
        rows[:, :3].astype(np.float64), {"intensity": rows[:, 3].copy()}, "bin", coordinate_dtype=np.dtype(np.float32)
    )


def checked_array(path: Path, stream: BinaryIO, size: int) -> np.ndarray:
    """Read one NPY stream of `size` bytes; the header is checked against the size before anything is allocated."""
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with quiet_warnings():
            shape, fortran, dtype = read_header(stream)
    except (zipfile.BadZipFile, zlib.error, OSError):
        raise  # the trouble of the archive around it
    except Exception as error:  # NumPy reads the header as Python source, and raises whatever that ends in
        raise InvalidFile(
            f"{path}: the NPY header is damaged ({' '.join(str(error).split())[:80]}); save it again"
        ) from None
    if dtype.hasobject:
        raise InvalidFile(f"{path}: holds pickled Python objects, which are not loaded; save a plain array of floats")
    need = math.prod(shape) * dtype.itemsize
    largest = math.prod(abs(n) or 1 for n in shape) * dtype.itemsize  # NumPy counts no dimension as zero here
    if not dtype.itemsize or dtype.subdtype is not None or largest >= 2**63:
        raise InvalidFile(
            f"{path}: the NPY header is damaged (shape {str(shape)[:40]} of {str(dtype)[:40]}); save it again"
        )
    left = size - stream.tell()
    if need > left or min(shape, default=0) < 0:
        raise InvalidFile(
            f"{path}: the NPY header promises shape {shape} ({need:,} bytes) but {max(left, 0):,} bytes follow; "
            "the file is truncated or corrupt, save it again"
        )
    flat = np.frombuffer(stream.read(need), dtype, math.prod(shape))
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def _as_cloud(path: Path, what: str, array: np.ndarray, extras: dict[str, np.ndarray], kind: str) -> CloudFile:
    if array.dtype.names is not None:
        missing = [axis for axis in "xyz" if axis not in array.dtype.names]
        if missing or array.ndim != 1:
            raise InvalidFile(
                f"{path}: {what} is structured, shape {array.shape} with fields {', '.join(array.dtype.names)[:80]}; "
                "a cloud needs one dimension and the fields x, y and z"
            )
        columns = {name: np.ascontiguousarray(array[name]) for name in array.dtype.names}
        coordinates = [columns.pop(axis) for axis in "xyz"]
        extras = {**columns, **extras}
    else:
        if array.dtype.kind not in "fiu":
            raise InvalidFile(f"{path}: {what} holds {array.dtype}, not numbers; save coordinates as floats")
        if array.ndim != 2 or array.shape[1] < 3:
            hint = "a cloud is (N, 3): x, y, z in a row"
            hint = "flatten it with .reshape(-1, 3)" if array.ndim == 3 and array.shape[-1] == 3 else hint
            raise InvalidFile(f"{path}: {what} has shape {array.shape}; {hint}")
        if (
            array.shape[0] == 3 and array.shape[1] > 16
        ):  # three points with that many properties: no, three rows x, y, z
            raise InvalidFile(f"{path}: {what} has shape {array.shape}; transpose it, a cloud is (N, 3)")
        coordinates = [array[:, i] for i in range(3)]
        further = {f"column_{i + 1}": array[:, i].copy() for i in range(3, array.shape[1])}
        extras = {**further, **extras}
    if not len(array):
        raise InvalidFile(f"{path}: {what} holds zero points (shape {array.shape}); save it again")
    stored = coordinate_dtype(*(column.dtype for column in coordinates))
    return CloudFile(as_points(path, coordinates), extras, kind, coordinate_dtype=stored)


def write_npy(stream: BinaryIO, cloud: CloudFile) -> list[str]:
    """Write (N, 3), or (N, 3 + k) where the further columns have no names; returns the properties left out."""
    coordinates = stored_coordinates(cloud.points, cloud.coordinate_dtype)
    unnamed = [name for name in cloud.properties if re.fullmatch(r"column_\d+", name)]
    if unnamed:
        coordinates = np.column_stack([coordinates, *(cloud.properties[name] for name in unnamed)])
    buffer = io.BytesIO()  # into a file NumPy writes by itself, and does not say why it could not
    np.save(buffer, coordinates, allow_pickle=False)
    stream.write(buffer.getbuffer())
    return [name for name in cloud.properties if name not in unnamed]


def write_npz(stream: BinaryIO, cloud: CloudFile) -> list[str]:
    """Write the points under `points` and each property under its own name."""
    held = {k: v for k, v in cloud.properties.items() if v.dtype.kind in "biuf" and k not in ("points", "file")}
    points = stored_coordinates(cloud.points, cloud.coordinate_dtype)
    np.savez(stream, allow_pickle=False, points=points, **held)
    return [name for name in cloud.properties if name not in held]
