"""Large files: in blocks, here small ones, with the same content as in one piece, and no memory beside the cloud."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from deepgmr.errors import InvalidFile
from deepgmr.io import CloudFile, cloud, las, ply, ply_rows, read_cloud, write_cloud

N = 1000
RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(N, 3)).astype(np.float32).astype(np.float64)
PROPERTIES = {
    "red": RNG.integers(0, 256, N, dtype=np.uint8),
    "intensity": RNG.integers(0, 60_000, N, dtype=np.uint16),
    "stamp": np.linspace(1.7e9, 1.7e9 + 1, N),
}


def small_blocks(patch: pytest.MonkeyPatch, rows: int) -> None:
    for room in (cloud, las, ply, ply_rows):
        patch.setattr(room, "BLOCK", rows)


def hand_made(order: str, kind: str) -> bytes:
    """A PLY whose coordinates stand between other columns, written by NumPy."""
    name = {"<": "little", ">": "big"}[order]
    columns = [("red", "u1"), ("z", kind), ("x", kind), ("intensity", "u2"), ("y", kind), ("stamp", "f8")]
    rows = np.empty(N, [(column, order + each) for column, each in columns])
    for axis, values in zip("xyz", POINTS.T, strict=True):
        rows[axis] = 100 * values if kind[0] == "i" else values
    for key, values in PROPERTIES.items():
        rows[key] = values
    types = {"u1": "uchar", "u2": "ushort", "i4": "int", "i8": "int64", "f4": "float", "f8": "double"}
    header = ["ply", f"format binary_{name}_endian 1.0", f"element vertex {N}"]
    header += [f"property {types[each]} {column}" for column, each in columns]
    return "\n".join([*header, "end_header", ""]).encode() + rows.tobytes()


@pytest.mark.parametrize("rows", [1 << 16, 64, 999, 1])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["f4", "f8", "i4", "i8"])
def test_ply_of_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, kind: str, rows: int) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(hand_made(order, kind))
    small_blocks(monkeypatch, rows)
    found = read_cloud(path)
    expected = np.trunc(100 * POINTS) if kind[0] == "i" else POINTS
    np.testing.assert_array_equal(found.points, expected)
    assert found.points.dtype == np.float64 and found.points.flags.c_contiguous
    assert found.coordinate_dtype == (np.float32 if kind == "f4" else np.float64)
    assert list(found.properties) == ["red", "intensity", "stamp"]
    for name, values in PROPERTIES.items():
        np.testing.assert_array_equal(found.properties[name], values)
        assert found.properties[name].dtype == values.dtype


@pytest.mark.parametrize("suffix", [".ply", ".las", ".laz"])
def test_the_size_of_blocks_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    given = CloudFile(POINTS, PROPERTIES, coordinate_dtype=np.dtype(np.float32))
    written = []
    for rows in (1 << 16, 64, 999):
        small_blocks(monkeypatch, rows)
        path = tmp_path / f"{rows}{suffix}"
        assert write_cloud(path, given) == ()
        written.append(path.read_bytes())
        again = read_cloud(path)
        np.testing.assert_allclose(again.points, POINTS, atol=0 if suffix == ".ply" else 1e-6)
        for name in ("intensity", "stamp"):
            np.testing.assert_array_equal(again.properties[name], PROPERTIES[name])
    assert len(written[0]) == len(written[1]) == len(written[2])
    if suffix != ".laz":  # which is packed as it comes; laspy leaves gaps in the head of a LAS as they were in memory
        behind = 0 if suffix == ".ply" else -36 * N
        assert written[0][behind:] == written[1][behind:] == written[2][behind:]


def test_a_mesh_behind_many_blocks_of_vertices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, 64)
    faces = np.array([[0, 1, 2], [2, 3, 999]])
    rows = np.empty(2, [("n", "u1"), ("at", "<i4", (3,))])
    rows["n"], rows["at"] = 3, faces
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {N}\n"
    head += "".join(f"property double {axis}\n" for axis in "xyz")
    head += "element face 2\nproperty list uchar int vertex_indices\nelement tag 1\nproperty int id\nend_header\n"
    path = tmp_path / "a.ply"
    path.write_bytes(head.encode() + POINTS.tobytes() + rows.tobytes() + b"\1\0\0\0")
    surface = read_cloud(path).triangles
    assert surface is not None
    np.testing.assert_array_equal(surface.vertices, POINTS)
    np.testing.assert_array_equal(surface.faces, faces)


@pytest.mark.parametrize("suffix", [".ply", ".las", ".laz"])
@pytest.mark.parametrize("text", [False, True])
def test_points_alone(tmp_path: Path, suffix: str, text: bool) -> None:
    write_cloud(tmp_path / f"a{suffix}", CloudFile(POINTS, PROPERTIES, text=text))
    whole, alone = (read_cloud(tmp_path / f"a{suffix}", properties=properties) for properties in (True, False))
    assert set(PROPERTIES) <= set(whole.properties) and not alone.properties
    np.testing.assert_array_equal(alone.points, whole.points)
    assert alone.coordinate_dtype == whole.coordinate_dtype


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(hand_made("<", "f4"))
    header = ply.parse_header(path, path.read_bytes())
    with path.open("rb") as stream:
        stream.seek(header.size + 100)
        rows = ply_rows.BinaryRows(path, stream, path.stat().st_size - header.size, "<")
        with pytest.raises(InvalidFile, match=r"a.ply: became shorter while it was read"):
            rows.read(header.elements[0])


@pytest.mark.parametrize("suffix", [".ply", ".las"])
def test_no_memory_beside_the_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    small_blocks(monkeypatch, 4096)
    points = np.tile(POINTS, (300, 1))
    path = tmp_path / f"a{suffix}"
    write_cloud(path, CloudFile(points[:10]))  # imports
    read_cloud(path)
    tracemalloc.start()
    write_cloud(path, CloudFile(points))
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    found = read_cloud(path)
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = found.points.nbytes + sum(values.nbytes for values in found.properties.values())
    assert written < 2.5e6 and read < held + 2.5e6 < 30e6


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_las_holds_no_point_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: float) -> None:
    small_blocks(monkeypatch, 64)
    points = POINTS.copy()
    points[[3, 500, 501], [0, 1, 2]] = spoilt
    with pytest.raises(InvalidFile, match="cannot hold the 3 points that are not finite"):
        write_cloud(tmp_path / "a.las", CloudFile(points))
