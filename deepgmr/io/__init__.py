"""Clouds and motions on disk, by content where the suffix lies, whole files or none.

    cloud = read_cloud("scan.ply")                     # points (N, 3) float64, properties as stored
    write_cloud("moved.ply", transformed(cloud, target_from_source))

Readable: PLY, PCD, OBJ, STL, OFF, GLB, GLTF (meshes are sampled), XYZ/PTS/TXT/CSV/ASC, NPY, NPZ, LAS, LAZ, E57 and
KITTI's BIN. Every bad input raises one InvalidFile (or InvalidTransform) that names the path, what was found and the remedy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.io.cloud import CloudFile, Triangles, transformed
from deepgmr.io.disk import check_readable, check_writable, reason, replacing
from deepgmr.io.matrices import matrix_text, read_transform, write_transform
from deepgmr.io.objects import rows_of
from deepgmr.io.trajectories import Trajectory, read_trajectory, write_trajectory

__all__ = [
    "CloudFile",
    "Trajectory",
    "Triangles",
    "caveat",
    "check_output",
    "check_writable",
    "matrix_text",
    "read_cloud",
    "read_trajectory",
    "read_transform",
    "transformed",
    "write_cloud",
    "write_trajectory",
    "write_transform",
]

TABLES = (".xyz", ".pts", ".txt", ".csv", ".asc")
MESHES = (".obj", ".stl", ".off", ".glb")
WRITABLE = (".ply", ".pcd", *TABLES, ".npy", ".npz", ".las", ".laz", *MESHES)
FOREIGN = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"\x89HDF", "is an HDF5 file; a suite of pairs is read by `deepgmr evaluate`, export a cloud as PLY"),
    (b"\x89PNG", "is a PNG image, not a cloud"),
    (b"\xff\xd8\xff", "is a JPEG image, not a cloud"),
    (b"%PDF", "is a PDF document, not a cloud"),
)


def read_cloud(path: str | Path, *, seed: int = 0, properties: bool = True) -> CloudFile:
    """Read a cloud (or sample a mesh) from any readable format; the content decides, the suffix only breaks ties.

    Returns points (N, 3) float64, N >= 1, with NaN untouched; `seed` draws the sample of a mesh. Without `properties` a
    PLY, LAS or E57 is read for its points alone, which for ten million of them saves a second. Raises InvalidFile, or
    MissingDependency for LAS/LAZ without laspy and E57 without pye57.
    """
    path = Path(path)
    size = check_readable(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
        kind = _kind(path, head, size)
        return _read(path, kind, seed, properties)
    except MemoryError:
        raise InvalidFile(
            f"{path}: has {size:,} bytes, too many for this machine's memory; thin it out first"
        ) from None
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({reason(error)}); check the path and its permissions") from None


def _read(path: Path, kind: str, seed: int, properties: bool) -> CloudFile:
    # Each room is imported when its format is met: a PLY must not wait for trimesh.
    if kind == "ply":
        from deepgmr.io.ply import read_ply

        cloud = read_ply(path, properties=properties)
        if cloud.triangles is None:
            return cloud
        from deepgmr.io.meshes import sampled

        return sampled(path, cloud, seed)
    if kind == "pcd":
        from deepgmr.io.pcd import read_pcd

        return read_pcd(path)
    if kind in ("npy", "npz"):
        from deepgmr.io.arrays import read_npy, read_npz

        return read_npy(path) if kind == "npy" else read_npz(path)
    if kind == "bin":
        from deepgmr.io.arrays import read_bin

        return read_bin(path)
    if kind == "las":
        from deepgmr.io.las import read_las

        return read_las(path, properties=properties)
    if kind == "e57":
        from deepgmr.io.e57 import read_e57

        return read_e57(path, properties=properties)
    if kind == "table":
        from deepgmr.io.tables import read_table

        return read_table(path)
    from deepgmr.io.meshes import read_mesh

    return read_mesh(path, kind, seed)


def _kind(path: Path, head: bytes, size: int) -> str:
    """The format by its first bytes; the suffix decides only between formats that have none."""
    suffix = path.suffix.lower()
    for magic, sentence in FOREIGN:
        if head.startswith(magic):
            raise InvalidFile(f"{path}: {sentence}")
    for magic, kind in (
        (b"\x93NUMPY", "npy"),
        (b"PK\x03\x04", "npz"),
        (b"PK\x05\x06", "npz"),
        (b"LASF", "las"),
        (b"ASTM-E57", "e57"),
    ):
        if head.startswith(magic):
            return kind
    if re.match(rb"ply[ \t]*[\r\n]", head):
        return "ply"
    if head.startswith(b"glTF"):
        return "glb"
    if re.match(rb"(?:\s*#[^\n]*\n)*\s*(VERSION|FIELDS|COLUMNS)\s", head):
        return "pcd"
    if re.match(rb"\s*(ST)?C?N?OFF\b", head):
        return "off"
    if re.match(rb"\s*solid\b", head) and b"facet" in head:
        return "stl"
    if re.match(rb'\s*\{.*"asset"', head, re.DOTALL) or (suffix == ".gltf" and head.lstrip()[:1] == b"{"):
        return "gltf"
    if re.match(rb"(?:\s*(#[^\n]*|mtllib [^\n]*|[og] [^\n]*|usemtl [^\n]*|s [^\n]*)?\n)*\s*v[nt]?\s+[-+\d.]", head):
        return "obj"
    if size >= 84 and size == 84 + 50 * int.from_bytes(head[80:84], "little"):
        return "stl"
    if suffix == ".stl" and b"\0" in head:
        return "stl"  # binary with a wrong count: the reader says so
    if suffix == ".bin":
        return "bin"
    binary = re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head) and head[:2] not in (b"\xff\xfe", b"\xfe\xff")
    if suffix in (*WRITABLE, ".gltf", ".e57") and suffix not in TABLES and (binary or not _numeric(head)):
        begins = re.sub(r"[^\x20-\x7e]", ".", head[:12].decode("latin-1"))
        raise InvalidFile(
            f"{path}: is called {suffix} but its content is not (it begins with {begins!r}); "
            "it is damaged or misnamed, export it again"
        )
    return "table"


def _numeric(head: bytes) -> bool:
    """Whether some line looks like a row of a table: three numbers and no words."""
    return re.search(rb"(?m)^\s*[-+.\d][-+.\deE]*(\s*[,;\s]\s*[-+.\d][-+.\deE]*){2,}\s*$", head) is not None


def check_output(path: str | Path, cloud: CloudFile | None = None) -> None:
    """Raise InvalidFile unless `path` has a suffix that can be written and a place where it can be.

    With the `cloud` to be written, also whether the format can hold it: a mesh format needs triangles.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        found = f"the suffix {suffix}" if suffix else "no suffix"
        raise InvalidFile(f"{path}: {found} names no format that can be written; use one of {' '.join(WRITABLE)}")
    if cloud is not None and suffix in MESHES and cloud.triangles is None:
        raise InvalidFile(f"{path}: a {suffix} file holds triangles, but the source has only points; write a .ply")
    if suffix in (".las", ".laz"):
        from deepgmr.io.las import require_laspy

        require_laspy(path, compressed=suffix == ".laz")
    check_writable(path)


def caveat(path: str | Path, cloud: CloudFile) -> str:
    """What readers of this cloud, written to `path`, should know; mostly nothing."""
    if Path(path).suffix.lower() == ".pcd":
        from deepgmr.io.pcd import holds_doubles

        if holds_doubles(cloud):
            return (
                f"{path} holds double coordinates, which Open3D's legacy reader takes for zeros; "
                "a .ply is read by everything"
            )
    return ""


def write_cloud(path: str | Path, cloud: Any) -> tuple[str, ...]:
    """Write the cloud, or the mesh it was sampled from, in the format the suffix names; whole or not at all.

    Takes what `read_cloud` returns, or the points of anything that `register` takes for a cloud but a path. Coordinates
    keep their stored precision, and become double where float32 would lose detail (a binary PCD has float32 wherever that
    loses none). Returns what the format could not hold (names of properties), so that nothing is dropped in silence.
    Raises InvalidFile, or InvalidCloud for what holds no points.
    """
    path = Path(path)
    if not isinstance(cloud, CloudFile):
        points = rows_of(cloud)
        stored = np.dtype(np.float32) if points.dtype == np.float32 else np.dtype(np.float64)
        cloud = CloudFile(points.astype(np.float64), coordinate_dtype=stored)
    check_output(path, cloud)
    suffix = path.suffix.lower()
    with replacing(path) as stream:
        if suffix == ".ply":
            from deepgmr.io.ply import write_ply

            lost = write_ply(stream, cloud)
        elif suffix == ".pcd":
            from deepgmr.io.pcd import write_pcd

            lost = write_pcd(stream, cloud)
        elif suffix in TABLES:
            from deepgmr.io.tables import write_table

            lost = write_table(stream, cloud, suffix)
        elif suffix in (".npy", ".npz"):
            from deepgmr.io.arrays import write_npy, write_npz

            lost = (write_npy if suffix == ".npy" else write_npz)(stream, cloud)
        elif suffix in MESHES:
            from deepgmr.io.meshes import write_mesh

            lost = write_mesh(stream, cloud, suffix)
        else:
            from deepgmr.io.las import write_las

            lost = write_las(stream, cloud, path)
    return tuple(lost)
