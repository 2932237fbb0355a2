"""Clouds and motions on disk: every format against bytes made by hand or by a peer, and every way to be damaged."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import struct
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import trimesh
from damage import fuzz, watched
from scipy.spatial.transform import Rotation

from deepgmr.errors import InvalidCloud, InvalidFile, InvalidTransform, MissingDependency
from deepgmr.io import (
    CloudFile,
    caveat,
    check_output,
    read_cloud,
    read_transform,
    transformed,
    write_cloud,
    write_transform,
)

N = 50
POINTS = np.random.default_rng(7).normal(size=(N, 3)).astype(np.float32).astype(np.float64)
NORMALS = Rotation.random(N, random_state=3).as_matrix()[:, 0].astype(np.float32)
COLOURS = np.random.default_rng(8).integers(0, 256, (N, 3), dtype=np.uint8)
RING = np.arange(N, dtype=np.int16) - 9
STAMP = np.linspace(1.7e9, 1.7e9 + 1.0, N)  # float64: a float32 would round it to two minutes

MOTION = np.eye(4)
MOTION[:3, :3] = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
MOTION[:3, 3] = (0.4, -2.0, 1.5)


def rich_cloud(**changes: Any) -> CloudFile:
    """A cloud with properties of every common kind."""
    properties = {name: NORMALS[:, i] for i, name in enumerate(("nx", "ny", "nz"))}
    properties |= {name: COLOURS[:, i] for i, name in enumerate(("red", "green", "blue"))}
    properties |= {"ring": RING, "stamp": STAMP}
    fields: dict[str, Any] = {"points": POINTS, "properties": properties, "coordinate_dtype": np.dtype(np.float32)}
    return CloudFile(**(fields | changes))


def ply_bytes(encoding: str) -> bytes:
    """A PLY written by hand with struct, an unusual order of properties, and an element before and after."""
    header = (
        f"ply\nformat {encoding} 1.0\ncomment made by hand\nobj_info second remark\n"
        "element camera 1\nproperty float focal\n"
        f"element vertex {N}\nproperty uchar red\nproperty float x\nproperty float y\nproperty float z\n"
        "property short ring\nproperty double stamp\nproperty float nx\nproperty float ny\nproperty float nz\n"
        "element edge 1\nproperty int vertex1\nproperty int vertex2\nend_header\n"
    )
    rows = [
        (int(COLOURS[i, 0]), *map(float, POINTS[i]), int(RING[i]), float(STAMP[i]), *map(float, NORMALS[i]))
        for i in range(N)
    ]
    if encoding == "ascii":
        lines = ["35.5", *(" ".join(map(repr, row)) for row in rows), "0 1"]
        return (header + "\n".join(lines) + "\n").encode()
    order = "<" if "little" in encoding else ">"
    body = struct.pack(order + "f", 35.5) + b"".join(struct.pack(order + "Bfffhdfff", *row) for row in rows)
    return header.encode() + body + struct.pack(order + "ii", 0, 1)


def pcd_bytes(encoding: str) -> bytes:
    """A PCD written by hand; LZF comes from h5py, which carries the original liblzf."""
    bits = COLOURS.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    dtype = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("_", "<u1", 3), ("rgb", "<f4"), ("hist", "<u2", 2)])
    rows = np.zeros(N, dtype)
    for i, axis in enumerate("xyz"):
        rows[axis] = POINTS[:, i]
    rows["rgb"], rows["hist"] = bits.astype("<u4").view("<f4"), np.stack([RING + 9, RING + 10], axis=1)
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\n# a remark\nVERSION 0.7\nFIELDS x y z _ rgb hist\n"
        "SIZE 4 4 4 1 4 2\nTYPE F F F U F U\nCOUNT 1 1 1 3 1 2\n"
        f"WIDTH 10\nHEIGHT 5\nVIEWPOINT 1 2 3 1 0 0 0\nPOINTS {N}\nDATA {encoding}\n"
    ).encode()
    if encoding == "ascii":
        lines = [
            " ".join(map(str, [*(np.float32(v) for v in POINTS[i]), 0, 0, 0, rows["rgb"][i], *rows["hist"][i]]))
            for i in range(N)
        ]
        return header + "\n".join(lines).encode() + b"\n"
    if encoding == "binary":
        return header + rows.tobytes()
    plain = b"".join(np.ascontiguousarray(rows[name]).tobytes() for name in dtype.names or ())
    packed = liblzf(plain)
    return header + struct.pack("<II", len(packed), len(plain)) + packed


def liblzf(data: bytes) -> bytes:
    with h5py.File("unused.h5", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("d", (len(data),), "u1", chunks=(len(data),), compression="lzf")
        dataset[...] = np.frombuffer(data, "u1")
        mask, packed = dataset.id.read_direct_chunk((0,))
    assert mask == 0 and len(packed) < len(data)
    return bytes(packed)


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_ply_in_every_encoding(tmp_path: Path, encoding: str, line_end: str) -> None:
    head, _, body = ply_bytes(encoding).partition(b"end_header\n")
    head = (head + b"end_header\n").replace(b"\n", line_end.encode())
    cloud = read_cloud(written(tmp_path / "hand.ply", head + body))
    np.testing.assert_array_equal(cloud.points, POINTS)
    assert cloud.points.dtype == np.float64 and cloud.coordinate_dtype == np.float32
    assert list(cloud.properties) == ["red", "ring", "stamp", "nx", "ny", "nz"]
    assert [v.dtype.str[1:] for v in cloud.properties.values()] == ["u1", "i2", "f8", "f4", "f4", "f4"]
    np.testing.assert_array_equal(cloud.properties["stamp"], STAMP)
    np.testing.assert_array_equal(cloud.properties["ring"], RING)
    np.testing.assert_array_equal(cloud.properties["nz"], NORMALS[:, 2])
    assert cloud.comments == ("made by hand", "second remark")


def test_ply_in_double_precision_keeps_every_digit(tmp_path: Path) -> None:
    points = np.array([5e6, 5e5, 100.0]) + 0.001 * np.arange(30).reshape(10, 3)
    cloud = CloudFile(points)
    for text in (False, True):
        write_cloud(tmp_path / "survey.ply", CloudFile(points, text=text))
        np.testing.assert_array_equal(read_cloud(tmp_path / "survey.ply").points, points)
    assert cloud.coordinate_dtype == np.float64


@pytest.mark.parametrize("suffix", ["ply", "npz", "xyz"])
def test_what_register_takes_can_be_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    table = np.zeros(len(POINTS), [("ring", "u1"), ("x", "f4"), ("y", "f4"), ("z", "f4")])
    table["x"], table["y"], table["z"] = POINTS.T
    for given in (POINTS, POINTS.tolist(), torch.tensor(POINTS, requires_grad=True), trimesh.PointCloud(POINTS)):
        assert write_cloud(path, given) == ()
        np.testing.assert_array_equal(read_cloud(path).points, POINTS)
    for given in (POINTS.astype(np.float32), POINTS.astype(">f4"), table):
        write_cloud(path, given)
        np.testing.assert_array_equal(read_cloud(path).points.astype(np.float32), POINTS.astype(np.float32))
    write_cloud(tmp_path / "a.ply", POINTS.astype(np.float32))
    assert read_cloud(tmp_path / "a.ply").coordinate_dtype == np.float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (POINTS[:, :2], r"shape \(N, 3\), got \(\d+, 2\)"),
        (POINTS * 1j, "real numbers, got dtype complex128"),
        (None, "real numbers, got dtype object"),
        ("a.ply", "real numbers, got dtype <U5"),
        ([[1, 2], [3]], "cannot read points from list"),
        (np.full((4, 3), 2**53 + 1), "lose digits as floats"),
        (np.zeros(4, [("x", "f4"), ("y", "f4")]), "needs the fields x, y, z, got x, y"),
    ],
)
def test_what_holds_no_points_is_not_written(given: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidCloud, match=message):
        write_cloud(tmp_path / "a.ply", given)
    assert not list(tmp_path.iterdir())


def test_ply_as_trimesh_reads_it(tmp_path: Path) -> None:
    write_cloud(tmp_path / "ours.ply", rich_cloud())
    peer = trimesh.load(tmp_path / "ours.ply", process=False)
    np.testing.assert_array_equal(peer.vertices, POINTS)
    np.testing.assert_array_equal(peer.colors[:, :3], COLOURS)


def test_ply_with_faces_of_any_size(tmp_path: Path) -> None:
    corners = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0.5, 0.5, 1)]
    faces = [(0, 1, 2, 3), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)]
    head = "element vertex 5\nproperty double x\nproperty double y\nproperty double z\n"
    head += "element face 5\nproperty list uchar int vertex_indices\nproperty uchar tag\nend_header\n"
    text = "".join(" ".join(map(str, c)) + "\n" for c in corners)
    text += "".join(" ".join(map(str, (len(f), *f, 9))) + "\n" for f in faces)
    binary = b"".join(struct.pack(">ddd", *c) for c in corners)
    binary += b"".join(struct.pack(f">B{len(f)}iB", len(f), *f, 9) for f in faces)
    one = read_cloud(written(tmp_path / "a.ply", f"ply\nformat ascii 1.0\n{head}{text}"))
    two = read_cloud(written(tmp_path / "b.ply", f"ply\nformat binary_big_endian 1.0\n{head}".encode() + binary))
    for cloud in (one, two):
        assert cloud.triangles is not None and len(cloud.triangles.faces) == 6  # the square became two triangles
        assert len(cloud) == 20_000
        inside = np.abs(cloud.points[:, :2] - 0.5).max(axis=1) <= 0.5 * (1 - cloud.points[:, 2]) + 1e-12
        assert inside.all()
    np.testing.assert_array_equal(one.points, two.points)  # and the sample is always the same
    share = float((one.points[:, 2] == 0).mean())
    assert share == pytest.approx(1 / (1 + 4 * np.sqrt(5) / 4), abs=0.015)  # uniform by area


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    cloud = read_cloud(written(tmp_path / "hand.pcd", pcd_bytes(encoding)))
    np.testing.assert_array_equal(cloud.points, POINTS)
    assert list(cloud.properties) == ["rgb", "hist"]
    np.testing.assert_array_equal(cloud.properties["hist"], np.stack([RING + 9, RING + 10], axis=1))
    write_cloud(tmp_path / "colours.ply", cloud)  # where the packed colour has a spelling of its own
    colours = read_cloud(tmp_path / "colours.ply").properties
    np.testing.assert_array_equal(np.stack([colours[c] for c in ("red", "green", "blue")], axis=1), COLOURS)
    assert cloud.viewpoint == (1, 2, 3, 1, 0, 0, 0) and cloud.comments == ("a remark",)


def test_lzf_against_the_original(tmp_path: Path) -> None:
    from deepgmr.io.pcd import decompressed

    generator = np.random.default_rng(5)
    for repeat in (1, 2, 9, 300):  # literal runs, short and long repetitions, overlapping copies
        plain = np.repeat(generator.integers(0, 4 if repeat == 1 else 256, 9000, dtype=np.uint8), repeat).tobytes()
        assert decompressed(tmp_path, liblzf(plain), len(plain)) == plain


TABLES = {
    "blanks": ("a.xyz", "{0} {1}  {2}\n"),
    "tabs": ("a.txt", "{0}\t{1}\t{2}\n"),
    "commas": ("a.csv", "{0},{1}, {2}\n"),
    "semicolons": ("a.asc", "{0};{1};{2};\n"),
    "no suffix": ("a", "{0} {1} {2}\r\n"),
    "lying suffix": ("a.ply", "{0} {1} {2}\n"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_by_separator(tmp_path: Path, kind: str) -> None:
    name, line = TABLES[kind]
    path = written(tmp_path / name, "".join(line.format(*map(repr, row)) for row in POINTS.tolist()))
    np.testing.assert_array_equal(read_cloud(path).points, POINTS)


@pytest.mark.parametrize(
    ("name", "text", "properties"),
    [
        ("h.csv", "id,X [m],Y [m],Z [m],name with blank\n7,1,2,3,0.5\n8,4,5,6,1.5\n", {"id": [7, 8]}),
        ("h.txt", "# made today\n# x y z intensity\n1 2 3 7\n\n4 5 6 8\n", {"intensity": [7, 8]}),
        ("h.asc", "//X Y Z R\n1 2 3 7\n4 5 6 8\n", {"R": [7, 8]}),
        ("h.pts", "2\n1 2 3 -5 0 0 9\n4 5 6 -6 0 0 9\n", {"column_4": [-5, -6], "column_7": [9, 9]}),
        ("h.csv", '"Points:0";"Points:1";"Points:2";"v"\n1;2;3;7\n4;5;6;8\n', {"v": [7, 8]}),
        ("h.csv", "\ufeffz;y;x\n3;2;1\n6;5;4\n", {}),
    ],
)
def test_tables_with_headers(tmp_path: Path, name: str, text: str, properties: dict[str, list[int]]) -> None:
    cloud = read_cloud(written(tmp_path / name, text))
    np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [4, 5, 6]])
    for key, values in properties.items():
        assert cloud.properties[key].dtype == np.int64
        np.testing.assert_array_equal(cloud.properties[key], values)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_tables_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path / "a.csv", "x,y,z,Höhe\n1,2,3,4\n5,6,7,8\n".encode(encoding))
    cloud = read_cloud(path)
    np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [5, 6, 7]])
    assert list(cloud.properties) == ["Höhe"]


def test_unnamed_unit_columns_are_normals(tmp_path: Path) -> None:
    rows = np.column_stack([POINTS, NORMALS])
    buffer = io.StringIO()
    np.savetxt(buffer, rows)
    assert list(read_cloud(written(tmp_path / "a.xyz", buffer.getvalue())).properties) == ["nx", "ny", "nz"]


def test_npy_and_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(POINTS.astype(np.float32)))
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.npy").points, POINTS)
    np.save(tmp_path / "b.npy", np.column_stack([POINTS, STAMP]))
    np.testing.assert_array_equal(read_cloud(tmp_path / "b.npy").properties["column_4"], STAMP)
    table = np.zeros(N, [("intensity", "u2"), ("z", "f8"), ("y", "f8"), ("x", "f8")])
    table["x"], table["y"], table["z"], table["intensity"] = *POINTS.T, RING + 9
    np.save(tmp_path / "c.npy", table)
    np.testing.assert_array_equal(read_cloud(tmp_path / "c.npy").points, POINTS)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "d.npz", points=POINTS, normals=NORMALS, other=np.zeros(3), note=np.array("words"))
        cloud = read_cloud(tmp_path / "d.npz")
        assert list(cloud.properties) == ["normals"]
        np.testing.assert_array_equal(cloud.points, POINTS)
    np.savez(tmp_path / "e.npz", POINTS)
    np.testing.assert_array_equal(read_cloud(tmp_path / "e.npz").points, POINTS)


@pytest.mark.parametrize("kind", ["obj", "stl", "stl_ascii", "off", "glb", "gltf"])
def test_meshes_are_sampled_on_their_surface(tmp_path: Path, kind: str) -> None:
    box = trimesh.creation.box((1.0, 2.0, 3.0))
    path = tmp_path / f"box.{kind.split('_')[0]}"
    exported = box.export(file_type=kind)
    if isinstance(exported, dict):
        for name, content in exported.items():
            (tmp_path / name).write_bytes(content)
        path = tmp_path / "model.gltf"
    else:
        written(path, exported)
    cloud = read_cloud(path)
    assert cloud.triangles is not None and len(cloud.triangles.faces) == 12
    assert len(cloud) == 20_000
    on_a_side = np.abs(np.abs(cloud.points) - [0.5, 1.0, 1.5]).min(axis=1)
    assert on_a_side.max() < 1e-6
    np.testing.assert_array_equal(cloud.points, read_cloud(path, seed=0).points)
    assert not (cloud.points == read_cloud(path, seed=1).points).all(axis=1).any()
    if kind not in ("gltf",):
        lying = written(tmp_path / "box.xyz", path.read_bytes())  # the content decides
        np.testing.assert_array_equal(read_cloud(lying).points, cloud.points)


def test_mesh_far_from_the_origin(tmp_path: Path) -> None:
    box = trimesh.creation.box((0.1, 0.1, 0.1))
    lines = [f"v {x + 5e6!r} {y + 5e5!r} {z!r}" for x, y, z in box.vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (box.faces + 1).tolist()]
    cloud = read_cloud(written(tmp_path / "far.obj", "\n".join(lines)))
    local = cloud.points - [5e6, 5e5, 0.0]
    assert np.abs(np.abs(local).max(axis=1) - 0.05).max() < 1e-8
    np.testing.assert_allclose(local.mean(axis=0), 0.0, atol=2e-3)
    for suffix in (".ply", ".stl", ".glb", ".off", ".obj"):
        write_cloud(tmp_path / f"copy{suffix}", cloud)
        again = read_cloud(tmp_path / f"copy{suffix}").triangles
        assert again is not None
        assert np.abs(np.abs(again.vertices - [5e6, 5e5, 0.0]) - 0.05).max() < 1e-5, suffix


def test_mesh_file_without_faces_is_a_cloud(tmp_path: Path) -> None:
    lines = "".join(f"v {x!r} {y!r} {z!r}\n" for x, y, z in POINTS.tolist())
    cloud = read_cloud(written(tmp_path / "a.obj", "# cloud\n" + lines))
    np.testing.assert_allclose(cloud.points, POINTS, rtol=0, atol=1e-12)
    assert cloud.triangles is None


def test_las_and_laz(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    points = POINTS + np.array([5e5, 5e6, 100.0])
    header = laspy.LasHeader(version="1.2", point_format=3)
    header.offsets, header.scales = points.min(axis=0).round(), [0.001] * 3
    data = laspy.LasData(header)
    data.x, data.y, data.z = points.T
    data.intensity, data.classification = RING + 9, np.full(N, 2)
    for suffix in (".las", ".laz"):
        data.write(str(tmp_path / f"a{suffix}"))
        cloud = read_cloud(tmp_path / f"a{suffix}")
        assert np.abs(cloud.points - points).max() < 0.00051
        np.testing.assert_array_equal(cloud.properties["intensity"], RING + 9)
        moved = transformed(cloud, MOTION)
        assert write_cloud(tmp_path / f"b{suffix}", moved) == ()
        again = read_cloud(tmp_path / f"b{suffix}")
        assert np.abs(again.points - moved.points).max() < 1e-6
        np.testing.assert_array_equal(again.properties["classification"], np.full(N, 2))
        with pytest.raises(InvalidFile, match="truncated"):
            read_cloud(written(tmp_path / f"c{suffix}", (tmp_path / f"a{suffix}").read_bytes()[:-150]))
    assert write_cloud(tmp_path / "rich.las", rich_cloud()) == ()
    colours = read_cloud(tmp_path / "rich.las").properties
    np.testing.assert_array_equal(colours["red"] >> 8, COLOURS[:, 0])
    np.testing.assert_array_equal(colours["stamp"], STAMP)


def test_las_without_laspy_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "laspy", None)
    path = written(tmp_path / "a.las", b"LASF" + bytes(400))
    with pytest.raises(MissingDependency, match=r'laspy.*pip install "deepgmr\[las\]"'):
        read_cloud(path)
    with pytest.raises(MissingDependency, match="laspy"):
        check_output(tmp_path / "b.laz")


def e57_scan(image: Any, columns: dict[str, np.ndarray], pose: tuple[np.ndarray, np.ndarray] | None = None) -> None:
    """Append a scan to an E57 that is being written, with libe57's own nodes: whole numbers stay whole."""
    from pye57 import libe57

    prototype, buffers, scan = libe57.StructureNode(image), libe57.VectorSourceDestBuffer(), libe57.StructureNode(image)
    kept = {name: np.ascontiguousarray(values, dtype=np.float64) for name, values in columns.items()}
    for name, values in columns.items():
        if values.dtype.kind == "f":
            node = libe57.FloatNode(image, 0.0, libe57.E57_SINGLE if values.dtype == np.float32 else libe57.E57_DOUBLE)
        else:
            node = libe57.IntegerNode(image, int(values[0]), int(values.min()), int(values.max()))
        prototype.set(name, node)
        buffers.append(libe57.SourceDestBuffer(image, name, kept[name], len(values), True, True))
    if pose is not None:
        x, y, z, w = Rotation.from_matrix(pose[0]).as_quat()
        parts = {"rotation": {"w": w, "x": x, "y": y, "z": z}, "translation": dict(zip("xyz", pose[1], strict=True))}
        node = libe57.StructureNode(image)
        for part, values in parts.items():
            inner = libe57.StructureNode(image)
            for name, value in values.items():
                inner.set(name, libe57.FloatNode(image, float(value)))
            node.set(part, inner)
        scan.set("pose", node)
    stored = libe57.CompressedVectorNode(image, prototype, libe57.VectorNode(image, True))
    scan.set("points", stored)
    image.root()["data3D"].append(scan)
    writer = stored.writer(buffers)
    writer.write(len(next(iter(kept.values()))))
    writer.close()


def test_e57_puts_every_scan_in_its_place(tmp_path: Path) -> None:
    pye57 = pytest.importorskip("pye57")
    rotation, translation = MOTION[:3, :3], MOTION[:3, 3] + (4e5, 5e6, 0.0)
    xyz = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), POINTS.T, strict=True))
    colours = dict(zip(("colorRed", "colorGreen", "colorBlue"), COLOURS.T, strict=True))
    unmeasured = np.arange(N) % 10 == 3
    reach = np.linalg.norm(POINTS, axis=1)
    around = {
        "sphericalRange": reach,
        "sphericalAzimuth": np.arctan2(POINTS[:, 1], POINTS[:, 0]),
        "sphericalElevation": np.arcsin(POINTS[:, 2] / reach),
    }
    with pye57.E57(str(tmp_path / "a.e57"), "w") as file:
        image = file.image_file
        image.extensionsAdd("nor", "http://www.libe57.org/E57_NOR_surface_normals.txt")
        normals = dict(zip(("nor:normalX", "nor:normalY", "nor:normalZ"), NORMALS.T, strict=True))
        state = {"cartesianInvalidState": 2 * unmeasured.astype(np.int8), "intensity": STAMP, "rowIndex": RING}
        e57_scan(image, xyz | state | colours | normals, (rotation, translation))
        e57_scan(image, around | colours | normals)
    cloud = read_cloud(tmp_path / "a.e57")
    expected = np.concatenate([POINTS[~unmeasured] @ rotation.T + translation, POINTS])
    np.testing.assert_allclose(cloud.points, expected, rtol=0, atol=2e-9)
    assert cloud.format == "e57" and set(cloud.properties) == {"red", "green", "blue", "nx", "ny", "nz", "scan"}
    assert cloud.properties["red"].dtype == np.uint8
    np.testing.assert_array_equal(cloud.properties["red"], np.concatenate([COLOURS[~unmeasured, 0], COLOURS[:, 0]]))
    turned = np.column_stack([cloud.properties[name] for name in ("nx", "ny", "nz")])
    np.testing.assert_allclose(turned, np.concatenate([NORMALS[~unmeasured] @ rotation.T, NORMALS]), atol=1e-6)
    np.testing.assert_array_equal(cloud.properties["scan"], np.repeat([0, 1], [N - unmeasured.sum(), N]))
    alone = read_cloud(tmp_path / "a.e57", properties=False)
    np.testing.assert_array_equal(alone.points, cloud.points)
    assert not alone.properties
    assert write_cloud(tmp_path / "moved.ply", transformed(cloud, MOTION)) == ()
    with pytest.raises(InvalidFile, match=r"suffix \.e57 names no format that can be written"):
        check_output(tmp_path / "b.e57")


def test_e57_keeps_what_one_scan_carries(tmp_path: Path) -> None:
    pye57 = pytest.importorskip("pye57")
    xyz = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), POINTS.astype(np.float32).T, strict=True))
    with pye57.E57(str(tmp_path / "a.e57"), "w") as file:
        e57_scan(file.image_file, xyz | {"intensity": STAMP, "rowIndex": RING.astype(np.int64) * 1000})
    cloud = read_cloud(tmp_path / "a.e57")
    np.testing.assert_array_equal(cloud.points, POINTS)
    np.testing.assert_array_equal(cloud.properties["intensity"], STAMP)
    np.testing.assert_array_equal(cloud.properties["rowIndex"], RING.astype(np.int64) * 1000)
    assert set(cloud.properties) == {"intensity", "rowIndex"}


def test_e57_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pye57 = pytest.importorskip("pye57")
    xyz = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), POINTS.T, strict=True))
    for name, columns in (
        ("flat", {"cartesianX": POINTS[:, 0], "intensity": STAMP}),
        ("none", xyz | {"cartesianInvalidState": np.full(N, 2)}),
        ("good", xyz),
    ):
        with pye57.E57(str(tmp_path / f"{name}.e57"), "w") as file:
            e57_scan(file.image_file, columns)
    with pye57.E57(str(tmp_path / "empty.e57"), "w"):
        pass
    good = (tmp_path / "good.e57").read_bytes()
    for name, content, said in (
        ("flat", None, "a scan without coordinates, it has cartesianX, intensity"),
        ("none", None, "holds no measured point in 1 scan"),
        ("empty", None, "holds no measured point in 0 scans"),
        ("short", good[:-1024], "truncated or corrupt"),
        ("spoilt", good[:1100] + b"damage" + good[1106:], "truncated or corrupt"),
        ("head", good[:60], "truncated or corrupt"),
        ("misnamed", b"x y z\nno numbers\n", r"is called \.e57 but its content is not"),
    ):
        path = tmp_path / f"{name}.e57"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InvalidFile, match=said) as caught:
            read_cloud(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
        assert path.exists()
    monkeypatch.setitem(sys.modules, "pye57", None)
    with pytest.raises(MissingDependency, match=r'pye57.*pip install "deepgmr\[e57\]"'):
        read_cloud(tmp_path / "good.e57")


def test_real_scans(shared: Path) -> None:
    for path in sorted((shared / "scans" / "ply").glob("*.ply")):
        cloud, peer = read_cloud(path), trimesh.load(path, process=False)
        np.testing.assert_array_equal(cloud.points, peer.vertices)
        assert len(cloud) == 40_000


def test_not_finite_points_pass_through(tmp_path: Path) -> None:
    points = POINTS.copy()
    points[3, 1], points[5] = np.nan, np.inf
    for name in ("a.ply", "a.pcd", "a.xyz", "a.csv", "a.npy", "a.npz"):
        write_cloud(tmp_path / name, CloudFile(points))
        np.testing.assert_array_equal(read_cloud(tmp_path / name).points, points)
    with pytest.raises(InvalidFile, match="2 points that are not finite"):
        write_cloud(tmp_path / "a.las", CloudFile(points))


# -- moving and writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".csv", ".xyz", ".npz"])
@pytest.mark.parametrize("text", [False, True])
def test_a_moved_cloud_keeps_everything(tmp_path: Path, suffix: str, text: bool) -> None:
    cloud = rich_cloud(text=text, format=suffix[1:], comments=("remark one", "remark two"))
    assert write_cloud(tmp_path / f"a{suffix}", transformed(cloud, MOTION)) == ()
    again = read_cloud(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(again.points, POINTS @ MOTION[:3, :3].T + MOTION[:3, 3], rtol=0, atol=1e-6)
    names = ("normal_x", "normal_y", "normal_z") if suffix == ".pcd" else ("nx", "ny", "nz")
    normals = np.stack([again.properties[name] for name in names], axis=1)
    np.testing.assert_allclose(normals, NORMALS @ MOTION[:3, :3].T, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(again.properties["ring"], RING)
    np.testing.assert_array_equal(again.properties["stamp"], STAMP)
    if suffix == ".pcd":
        bits = again.properties["rgb"].view(np.uint32)
        np.testing.assert_array_equal(np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], axis=1), COLOURS)
    else:
        np.testing.assert_array_equal([again.properties[c] for c in ("red", "green", "blue")], COLOURS.T)
    if suffix in (".ply", ".pcd", ".xyz"):
        assert again.comments == ("remark one", "remark two")
    if suffix in (".ply", ".pcd"):
        assert again.properties["ring"].dtype == np.int16 and again.coordinate_dtype == np.float32
        assert again.text == text


def test_moving_there_and_back(tmp_path: Path) -> None:
    normals = (NORMALS * 127).round().astype(np.int8)
    cloud = rich_cloud(properties={"normals": NORMALS, "NormalX": normals[:, 0]}, viewpoint=(1.0, 2, 3, 1, 0, 0, 0))
    back = transformed(transformed(cloud, MOTION), np.linalg.inv(MOTION))
    np.testing.assert_allclose(back.points, POINTS, atol=1e-14)
    np.testing.assert_allclose(back.properties["normals"], NORMALS, atol=1e-6)
    np.testing.assert_array_equal(back.properties["NormalX"], normals[:, 0])  # one of three is no vector
    np.testing.assert_allclose(np.array(back.viewpoint), (1, 2, 3, 1, 0, 0, 0), atol=1e-14)
    moved = transformed(cloud, MOTION).viewpoint
    assert moved is not None
    np.testing.assert_allclose(moved[:3], MOTION[:3, :3] @ [1, 2, 3] + MOTION[:3, 3])
    w, x, y, z = moved[3:]
    np.testing.assert_allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), MOTION[:3, :3], atol=1e-14)


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".xyz", ".csv", ".npy", ".npz", ".las"])
def test_large_coordinates_survive(tmp_path: Path, suffix: str) -> None:
    if suffix == ".las":
        pytest.importorskip("laspy")
    far = np.eye(4)
    far[:3, 3] = (5e6, 5e5, 2000.0)
    cloud = rich_cloud(points=POINTS * 0.001, coordinate_dtype=np.dtype(np.float32))  # a small scan in float32
    write_cloud(tmp_path / f"far{suffix}", transformed(cloud, far))
    again = read_cloud(tmp_path / f"far{suffix}").points
    assert np.abs((again - far[:3, 3]) - cloud.points).max() < 1e-4 / 2


def test_a_wide_cloud_keeps_its_detail(tmp_path: Path) -> None:
    points = np.random.default_rng(2).uniform(0.0, 5e6, (100, 3))  # as wide as it is far: steps of float32 are 0.5
    write_cloud(tmp_path / "a.ply", CloudFile(points, coordinate_dtype=np.dtype(np.float32)))
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.ply").points, points)


@pytest.mark.parametrize(
    ("offset", "wide", "words"),
    [(0.0, 1.0, b"SIZE 4 4 4\n"), (100.0, 200.0, b"SIZE 4 4 4\n"), (5e6, 1.0, b"SIZE 8 8 8\n")],
)
def test_pcd_from_double_is_float_wherever_that_holds_it(
    tmp_path: Path, offset: float, wide: float, words: bytes
) -> None:
    path, cloud = tmp_path / "a.pcd", CloudFile(wide * np.random.default_rng(5).normal(size=(N, 3)) + offset)
    write_cloud(path, cloud)
    assert words in path.read_bytes()
    assert bool(caveat(path, cloud)) == (b"8" in words)
    assert caveat(path.with_suffix(".ply"), cloud) == ""
    step = 4e-5 if b"4" in words else 0.0
    np.testing.assert_allclose(read_cloud(path).points, cloud.points, rtol=0, atol=step)
    if step:
        open3d = pytest.importorskip("open3d")
        peer = np.asarray(open3d.io.read_point_cloud(str(path)).points)
        np.testing.assert_array_equal(peer, read_cloud(path).points)


def test_text_pcd_keeps_every_digit(tmp_path: Path) -> None:
    cloud = CloudFile(np.random.default_rng(5).normal(size=(N, 3)) + 5e6, format="pcd", text=True)
    write_cloud(tmp_path / "a.pcd", cloud)
    assert caveat(tmp_path / "a.pcd", cloud) == ""
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.pcd").points, cloud.points)
    open3d = pytest.importorskip("open3d")
    peer = np.asarray(open3d.io.read_point_cloud(str(tmp_path / "a.pcd")).points)
    np.testing.assert_array_equal(peer, cloud.points)


@pytest.mark.parametrize("source", [".ply", ".obj", ".glb", ".stl"])
@pytest.mark.parametrize("target", [".ply", ".obj", ".glb", ".stl", ".off"])
def test_a_moved_mesh_keeps_its_faces(tmp_path: Path, source: str, target: str) -> None:
    box = trimesh.creation.box((1.0, 2.0, 3.0))
    box.export(tmp_path / f"box{source}")
    cloud = transformed(read_cloud(tmp_path / f"box{source}"), MOTION)
    write_cloud(tmp_path / f"moved{target}", cloud)
    peer = trimesh.load_mesh(tmp_path / f"moved{target}")
    assert len(peer.faces) == 12
    assert peer.volume == pytest.approx(6.0, rel=1e-5)  # signed: the orientation of the faces survives too
    np.testing.assert_allclose(peer.center_mass, MOTION[:3, 3], atol=1e-5)


def test_a_moved_mesh_as_a_cloud_is_its_sample(tmp_path: Path) -> None:
    trimesh.creation.icosphere().export(tmp_path / "ball.ply")
    cloud = read_cloud(tmp_path / "ball.ply")
    write_cloud(tmp_path / "ball.npy", cloud)
    np.testing.assert_allclose(np.load(tmp_path / "ball.npy"), cloud.points, atol=1e-6)


def test_what_a_format_cannot_hold_is_named(tmp_path: Path) -> None:
    assert write_cloud(tmp_path / "a.npy", rich_cloud()) == (
        *("nx", "ny", "nz", "red", "green", "blue", "ring", "stamp"),
    )
    big = CloudFile(POINTS, {"id": np.full(N, 2**60), "ok": np.full(N, 2**40), "flag": np.ones(N, bool)})
    assert write_cloud(tmp_path / "a.ply", big) == ("id",)
    again = read_cloud(tmp_path / "a.ply").properties
    np.testing.assert_array_equal(again["ok"], big.properties["ok"])
    np.testing.assert_array_equal(again["flag"], np.ones(N, np.uint8))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/a.ply", "there is no folder"),
        ("folder.ply", "is a directory"),
        ("a.docx", "the suffix .docx names no format"),
        ("a", "no suffix names no format"),
        ("a.stl", "holds triangles"),
        ("file.ply/a.ply", "there is no folder"),
        (f"{'n' * 300}.ply", "cannot be written"),
    ],
)
def test_unwritable_outputs(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.ply").mkdir()
    (tmp_path / "file.ply").touch()
    before = sorted(tmp_path.rglob("*"))
    for action in (lambda p: check_output(p, rich_cloud()), lambda p: write_cloud(p, rich_cloud())):
        with pytest.raises(InvalidFile, match=words) as caught:
            action(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_write_protected_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = written(tmp_path / "kept.ply", b"old")
    with monkeypatch.context() as patch:  # as the system answers to anyone but root
        patch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(InvalidFile, match="write-protected"):
            write_cloud(kept, rich_cloud())

    def locked(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", locked)
        patch.setattr(os, "open", locked)
        with pytest.raises(InvalidFile, match=r"cannot be written \(Permission denied\); choose another folder"):
            write_cloud(tmp_path / "new.ply", rich_cloud())
        with pytest.raises(InvalidFile, match=r"cannot be read \(Permission denied\)"):
            read_cloud(kept)
    assert kept.read_bytes() == b"old" and list(tmp_path.iterdir()) == [kept]


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.ply", b"the old content")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidFile, match="No space left on device"):
        write_cloud(path, rich_cloud())
    assert path.read_bytes() == b"the old content"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_through_a_link(tmp_path: Path) -> None:
    real = written(tmp_path / "real.ply", b"old")
    link = tmp_path / "link.ply"
    link.symlink_to(real)
    write_cloud(link, rich_cloud())
    assert link.is_symlink() and len(read_cloud(real)) == N


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    link = tmp_path / "null.ply"
    link.symlink_to(os.devnull)
    with pytest.raises(InvalidFile, match="not a regular file"):
        write_cloud(link, rich_cloud())


# -- bad input ---------------------------------------------------------------------------------------------------

PLY = ply_bytes("binary_little_endian")
TEXT_PLY = ply_bytes("ascii")
SHORT = "ply\nformat ascii 1.0\nelement vertex {}\nproperty {} x\nproperty float y\nproperty float z\nend_header\n{}"


def npy_bytes(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz_bytes(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zip_bytes(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


PROMISE = 10**12
HUGE_NPY = npy_bytes(POINTS).replace(f"({N}, 3)".encode(), b"(1000000000000, 3)").replace(b" " * 11 + b"\n", b"\n")
TRIANGLE = trimesh.creation.box().export(file_type="stl")

BAD: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.ply", b"", "is empty"),
    "ply truncated": ("a.ply", PLY[:-200], r"promises 50 points .* the file holds|promises 1 edge"),
    "ply header only half": ("a.ply", PLY[:90], "no end_header"),
    "ply header unfinished": ("a.ply", b"ply\nformat ascii 1.0\n", "no end_header"),
    "ply corrupt header": ("a.ply", PLY.replace(b"property short", b"property shirt"), "line 12 .*shirt"),
    "ply no format": ("a.ply", PLY.replace(b"format binary_little_endian 1.0\n", b""), "no format line"),
    "ply unknown format": ("a.ply", PLY.replace(b"little", b"middle"), "line 2 cannot be understood"),
    "ply property twice": ("a.ply", PLY.replace(b"float y", b"float x"), "line 10"),
    "ply count too high": ("a.ply", PLY.replace(b"vertex 50", b"vertex 60"), "promises 60 points"),
    "ply count too low": ("a.ply", SHORT.format(1, "float", "1 2 3\n4 5 6\n").encode(), "1 lines follow the 1 vertex"),
    "binary count too low": (
        "a.ply",
        SHORT.format(1, "float", "").replace("ascii", "binary_little_endian").encode() + bytes(24),
        "12 bytes follow",
    ),
    "ply 10^12": ("a.ply", PLY.replace(b"vertex 50", b"vertex 1000000000000"), "promises 1,000,000,000,000 points"),
    "ply text 10^12": ("a.ply", TEXT_PLY.replace(b"vertex 50", b"vertex 1000000000000"), "holds 51 lines"),
    "ply 10^12 faces": (
        "a.ply",
        SHORT.format(1, "float", "")
        .replace("ascii", "binary_little_endian")
        .replace("end_", "element face 1000000000000\nproperty list int int vertex_indices\nend_")
        .encode()
        + bytes(40),
        "promises 1,000,000,000,000 face rows",
    ),
    "ply list of 2^31": (
        "a.ply",
        SHORT.format(1, "float", "")
        .replace("ascii", "binary_little_endian")
        .replace("end_", "element face 1\nproperty list int int vertex_indices\nend_")
        .encode()
        + bytes(12)
        + struct.pack("<iiii", 2**31 - 1, 0, 0, 0),
        "runs past the end",
    ),
    "ply negative list": (
        "a.ply",
        SHORT.format(1, "float", "")
        .replace("ascii", "binary_little_endian")
        .replace("end_", "element face 1\nproperty list int int vertex_indices\nend_")
        .encode()
        + bytes(12)
        + struct.pack("<iiii", -1, 0, 0, 0),
        "runs past the end",
    ),
    "ply count beyond 64 bits": ("a.ply", PLY.replace(b"vertex 50", b"vertex " + b"9" * 30), "promises 999,999"),
    "ply count of 4300 digits": ("a.ply", PLY.replace(b"vertex 50", b"vertex " + b"9" * 4300), "line 7 .*999"),
    "ply element twice": (
        "a.ply",
        SHORT.format(1, "float", "1 2 3\n4\n").replace("end_", "element vertex 1\nproperty int a\nend_").encode(),
        "line 7 .*vertex",
    ),
    "ply value of 5000 digits": (
        "a.ply",
        SHORT.format(1, "int", "9" * 5000 + " 2 3\n").encode(),
        "does not fit.*int32",
    ),
    "ply row unfinished": (
        "a.ply",
        SHORT.format(1, "float", "")
        .replace("ascii", "binary_little_endian")
        .replace("end_", "element face 2\nproperty list uchar int vertex_indices\nproperty double tag\nend_")
        .encode()
        + bytes(12)
        + struct.pack("<BiiidB", 3, 0, 0, 0, 0.0, 1)
        + bytes(11),
        "runs past the end",
    ),
    "ply negative count": ("a.ply", PLY.replace(b"vertex 50", b"vertex -5"), "line 7 .*-5"),
    "ply zero points": ("a.ply", SHORT.format(0, "float", "").encode(), "zero points"),
    "ply no z": ("a.ply", PLY.replace(b"float z", b"float w"), "no z"),
    "ply no vertices": ("a.ply", PLY.replace(b"element vertex", b"element corner"), "no vertex element"),
    "ply string": ("a.ply", SHORT.format(2, "float", "1 2 3\n4 five 6\n").encode(), "line 9 has 'five'"),
    "ply missing value": ("a.ply", SHORT.format(2, "float", "1 2 3\n4 5\n").encode(), "line 9 has 2 values"),
    "ply integer overflow": ("a.ply", SHORT.format(1, "int", "3000000000 2 3\n").encode(), "'3000000000'.*int32"),
    "ply coordinate beyond 2^53": (
        "a.ply",
        SHORT.format(1, "int64", f"{2**53 + 1} 2 3\n").encode(),
        "9,007,199,254,740,993, too large",
    ),
    "ply face index": (
        "a.ply",
        SHORT.format(3, "float", "0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")
        .replace("end_", "element face 1\nproperty list uchar int vertex_index\nend_")
        .encode(),
        "face refers to vertex 7",
    ),
    "ply flat face": (
        "a.ply",
        SHORT.format(3, "float", "0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n")
        .replace("end_", "element face 1\nproperty list uchar int vertex_index\nend_")
        .encode(),
        "no area",
    ),
    "ply with nan corner": (
        "a.ply",
        SHORT.format(3, "float", "0 0 0\n1 0 nan\n2 0 0\n3 0 1 2\n")
        .replace("end_", "element face 1\nproperty list uchar int vertex_index\nend_")
        .encode(),
        "1 of the mesh's 3 vertices",
    ),
    "not a ply": ("a.ply", b"hello world\n", "called .ply but its content is not.*hello"),
    "pcd truncated": ("a.pcd", pcd_bytes("binary")[:-30], "promises 50 points"),
    "pcd text truncated": ("a.pcd", pcd_bytes("ascii")[: len(pcd_bytes("ascii")) // 2], "promises 50 points"),
    "pcd compressed truncated": ("a.pcd", pcd_bytes("binary_compressed")[:-30], "truncated or corrupt"),
    "pcd compressed corrupt": ("a.pcd", pcd_bytes("binary_compressed")[:-9] + b"\xff" * 9, "corrupt"),
    "pcd 10^12": (
        "a.pcd",
        pcd_bytes("binary").replace(b"POINTS 50", b"POINTS 1000000000000").replace(b"WIDTH 10", b"WIDTH 200000000000"),
        "promises 1,000,000,000,000",
    ),
    "pcd compressed 10^12": (
        "a.pcd",
        pcd_bytes("binary_compressed").replace(b"POINTS 50", b"POINTS 1000000000000").replace(b"HEIGHT 5\n", b""),
        "promises 1,000,000,000,000",
    ),
    "pcd counts differ": ("a.pcd", pcd_bytes("binary").replace(b"WIDTH 10", b"WIDTH 11"), "contradicts itself"),
    "pcd negative": ("a.pcd", pcd_bytes("binary").replace(b"POINTS 50", b"POINTS -1"), "entry POINTS"),
    "pcd type": ("a.pcd", pcd_bytes("binary").replace(b"SIZE 4", b"SIZE 5"), "SIZE or TYPE"),
    "pcd count 0": ("a.pcd", pcd_bytes("binary").replace(b"COUNT 1 1 1 3", b"COUNT 1 1 1 0"), "entry FIELDS or COUNT"),
    "pcd count 10^12": (
        "a.pcd",
        pcd_bytes("binary").replace(b"COUNT 1 1 1 3", b"COUNT 1 1 1 1000000000000"),
        "entry FIELDS or COUNT",
    ),
    "pcd count 10^8": (
        "a.pcd",
        pcd_bytes("binary").replace(b"COUNT 1 1 1 3", b"COUNT 1 1 1 100000000"),
        "promises 50 points",
    ),
    "pcd text count 10^8": (
        "a.pcd",
        pcd_bytes("ascii").replace(b"COUNT 1 1 1 3", b"COUNT 1 1 1 100000000"),
        "line 13 has 9 values where .* promise 100,000,006",
    ),
    "pcd width of 4300 digits": (
        "a.pcd",
        pcd_bytes("binary").replace(b"WIDTH 10", b"WIDTH " + b"9" * 4300),
        "entry WIDTH or HEIGHT",
    ),
    "pcd no data": ("a.pcd", pcd_bytes("ascii")[:120], "no DATA line"),
    "pcd zero": ("a.pcd", b"VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 0\nDATA ascii\n", "zero points"),
    "pcd no z": ("a.pcd", pcd_bytes("binary").replace(b"FIELDS x y z", b"FIELDS x y w"), "no field z"),
    "pcd string": (
        "a.pcd",
        b"VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 1\nDATA ascii\n1 two 3\n",
        "line 7 has 'two'",
    ),
    "two columns": ("a.xyz", b"1 2\n3 4\n", "2 columns, a point needs three"),
    "ragged": ("a.xyz", b"1 2 3\n4 5 6\n\n7 8\n", "line 4 has 2 values where 3 belong"),
    "string": ("a.csv", b"x,y,z\n1,2,3\n4,five,6\n", "line 3 has 'five'.*column 2"),
    "decimal comma": ("a.txt", b"1,5;2,5;3,5\n4,5;5,5;6,5\n", "decimal comma"),
    "header only": ("a.csv", b"x,y,z\n", "zero points"),
    "comments only": ("a.txt", b"# nothing\n# here\n", "zero points"),
    "no xyz named": ("a.csv", b"a,b,c\n1,2,3\n", "no columns named x, y and z among a, b, c"),
    "header too short": ("a.csv", b"x,y,z\n1,2,3,4\n", "names 3 columns but the rows have 4"),
    "pts count": ("a.pts", b"3\n1 2 3\n4 5 6\n", "promises 3 points but 2 lines"),
    "pts 10^12": ("a.pts", b"1000000000000\n1 2 3\n", "promises 1,000,000,000,000 points"),
    "pts count of 5000 digits": ("a.pts", b"9" * 5000 + b"\n1 2 3\n", "1 column"),
    "binary as text": ("a.txt", bytes(range(256)), "binary bytes"),
    "half utf-16": ("a.csv", "1 2 3\n".encode("utf-16")[:-1], "UTF-16"),
    "npy two columns": ("a.npy", npy_bytes(POINTS[:, :2]), r"shape \(50, 2\)"),
    "npy transposed": ("a.npy", npy_bytes(POINTS.T), "transpose"),
    "npy grid": ("a.npy", npy_bytes(POINTS.reshape(5, 10, 3)), "reshape"),
    "npy scalar": ("a.npy", npy_bytes(np.array(3.0)), r"shape \(\)"),
    "npy no points": ("a.npy", npy_bytes(POINTS[:0]), "zero points"),
    "npy strings": ("a.npy", npy_bytes(POINTS.astype(str)), "not numbers"),
    "npy complex": ("a.npy", npy_bytes(POINTS.astype(complex)), "complex128, not numbers"),
    "npy pickled": ("a.npy", npy_bytes(np.array([[1, "a", None]], object), allow_pickle=True), "pickled"),
    "npy truncated": ("a.npy", npy_bytes(POINTS)[:-8], "truncated"),
    "npy 10^12": ("a.npy", HUGE_NPY, r"promises shape \(1000000000000, 3\)"),
    "npy header": ("a.npy", npy_bytes(POINTS).replace(b"'shape'", b"'shapo'"), "header is damaged"),
    "npy header unfinished": ("a.npy", npy_bytes(POINTS).replace(b"}", b"("), "header is damaged"),
    "npy of no columns": ("a.npy", npy_bytes(POINTS).replace(b"(50, 3)", b"(%d, 0)" % 10**30), "header is damaged"),
    "npy of nothing": ("a.npy", npy_bytes(POINTS).replace(b"<f8", b"|V0"), "header is damaged"),
    "npy of blocks": ("a.npy", npy_bytes(POINTS).replace(b"'<f8'", b"'3<f8'"), "header is damaged"),
    "npy integers": ("a.npy", npy_bytes(np.full((3, 3), 2**60)), "too large to be exact"),
    "npz keys": ("a.npz", npz_bytes(source=POINTS, target=POINTS), "found: source, target"),
    "npz truncated": ("a.npz", npz_bytes(points=POINTS)[:-60], "truncated, corrupt"),
    "npz name": (
        "a.npz",
        re.sub(rb"(PK\x01\x02....)..", rb"\1\000\010", npz_bytes(points=POINTS), flags=re.DOTALL).replace(
            b"poi", b"\xdboi"
        ),
        "truncated, corrupt or encrypted .*utf-8",
    ),
    "npz corrupt": ("a.npz", npz_bytes(points=POINTS).replace(POINTS.tobytes()[:8], b"\xff" * 8), "corrupt"),
    "npz 10^12": ("a.npz", zip_bytes("points.npy", HUGE_NPY), "promises shape"),
    "zip": ("a.zip", zip_bytes("a.txt", b"1 2 3"), "without NumPy arrays"),
    "stl truncated": ("a.stl", TRIANGLE[:-10], "promises 12 triangles"),
    "stl 2^32": ("a.stl", TRIANGLE[:80] + b"\xff\xff\xff\xff" + TRIANGLE[84:], "promises 4,294,967,295 triangles"),
    "stl text truncated": ("a.stl", b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n", "zero points|damaged"),
    "obj face index": ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "cannot be read as OBJ|refers to vertex"),
    "obj flat": ("a.obj", b"v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n", "cannot be read as OBJ .*shape"),
    "obj huge": ("a.obj", b"v 0 0 0\nv 1e200 0 0\nv 0 1e200 0\nf 1 2 3\n", "area beyond float64"),
    "obj string": ("a.obj", b"v 0 0 0\nv 1 0 zero\nv 0 1 0\nf 1 2 3\n", "cannot be read as OBJ"),
    "off 10^12": ("a.off", b"OFF\n1000000000000 1 0\n0 0 0\n", "cannot be read as OFF"),
    "glb": ("a.glb", trimesh.creation.box().export(file_type="glb")[:300], "cannot be read as GLB"),
    "glb not one": ("a.glb", b"nothing of the kind", "called .glb but its content is not"),
    "gzip": ("a.ply.gz", b"\x1f\x8b" + bytes(30), "unpack it first"),
    "hdf5": ("a.h5", b"\x89HDF\r\n" + bytes(30), "HDF5"),
    "image": ("a.ply", b"\x89PNG" + bytes(30), "PNG image"),
    "words": ("notes.txt", b"Dear reader,\nthis is no cloud.\n", "where a number belongs|column"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_end_in_one_clear_line(tmp_path: Path, case: str) -> None:
    name, content, words = BAD[case]
    path = written(tmp_path / name, content)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidFile, match=words) as caught:
            read_cloud(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 400 + len(str(path))
    assert peak < 50e6  # a promise in a header allocates nothing


def test_missing_directory_and_pipe(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "no.ply", "no such file; check"),
        (tmp_path / "no" / "no.ply", "there is no folder"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(InvalidFile, match=words):
            read_cloud(path)
    pipe = tmp_path / "pipe.ply"
    os.mkfifo(pipe)
    with pytest.raises(InvalidFile, match="not a regular file"):  # opening it would wait for ever
        read_cloud(pipe)


def test_bad_las_headers(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    path = tmp_path / "a.las"
    write_cloud(path, rich_cloud())
    data = path.read_bytes()
    with laspy.open(path) as reader:
        assert reader.header.version.minor == 4
    huge = data[:247] + struct.pack("<Q", PROMISE) + data[255:]  # number of point records, LAS 1.4
    for content, words in ((huge, "promises 1,000,000,000,000"), (data[:100], "corrupt"), (data[:-70], "promises 50")):
        with pytest.raises(InvalidFile, match=words):
            read_cloud(written(tmp_path / "b.las", content))


def test_damaged_laz_is_refused_before_lazrs_sees_it(tmp_path: Path) -> None:
    pytest.importorskip("laspy")
    path = tmp_path / "a.laz"
    write_cloud(path, CloudFile(POINTS))
    data = path.read_bytes()
    (start,) = struct.unpack_from("<I", data, 96)  # of the points
    (table,) = struct.unpack_from("<q", data, start)
    (width,) = struct.unpack_from("<H", data, 105)
    record = data.index(b"laszip encoded") + 52

    def changed(at: int, kind: str, value: int) -> bytes:
        return data[:at] + struct.pack(kind, value) + data[at + struct.calcsize(kind) :]

    for content in (  # each of these ended the process: lazrs aborts where it cannot have the memory
        changed(table + 4, "<I", 2**31),  # chunks
        changed(start + 8 + width + 4, "<I", 2**32 - 1),  # bytes in the first layer of the first chunk
        changed(record + 12, "<I", 2**31 - 1),  # points in a chunk
        changed(100, "<I", 2**31),  # user records
        changed(243, "<I", 2**31),  # extended user records
        changed(start, "<q", -1),
    ):
        with pytest.raises(InvalidFile, match=r"the LAS file is truncated or corrupt \(.+\)"):
            read_cloud(written(tmp_path / "b.laz", content))


@pytest.mark.parametrize("version", ["1.2", "1.4"])
def test_laz_in_several_chunks(tmp_path: Path, version: str) -> None:
    laspy = pytest.importorskip("laspy")
    points = np.random.default_rng(4).integers(-9999, 9999, (110_000, 3)) / 100.0
    header = laspy.LasHeader(version=version, point_format=3 if version == "1.2" else 8)
    header.add_extra_dim(laspy.ExtraBytesParams(name="height", type=np.float64))
    data = laspy.LasData(header)
    data.x, data.y, data.z = points.T
    data.write(str(tmp_path / "a.laz"))
    np.testing.assert_allclose(read_cloud(tmp_path / "a.laz").points, points, atol=0.006)


def test_damaged_files_end_in_a_cloud_or_one_named_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = fuzz(600, 3, tmp_path)
    assert report.findings == 0, report.text()
    assert report.files == 600 and 300 < report.refused < 600
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("length", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_a_sensor_pose_of_any_length_is_moved(length: float) -> None:
    """A run of the fuzz: a quaternion whose square is zero."""
    turn = Rotation.from_rotvec([0.2, 0.1, -0.5])
    x, y, z, w = length * turn.as_quat()
    moved = transformed(CloudFile(POINTS, viewpoint=(1.0, 2.0, 3.0, w, x, y, z)), MOTION)
    assert moved.viewpoint is not None
    w, x, y, z = moved.viewpoint[3:]
    np.testing.assert_allclose(
        Rotation.from_quat([x, y, z, w]).as_matrix(), MOTION[:3, :3] @ turn.as_matrix(), atol=1e-12
    )


def test_what_is_not_finite_is_moved_in_silence() -> None:
    """A run of the fuzz: NaN and infinities in a cloud warned from within a product of matrices."""
    points = np.array([[np.nan, 0, 0], [1e308, np.inf, -np.inf], [1, 2, 3]])
    moved = transformed(
        CloudFile(points, {"normals": points, "nx": points[:, 0], "ny": points[:, 1], "nz": points[:, 2]}), MOTION
    )
    assert np.isfinite(moved.points[2]).all() and not np.isfinite(moved.points[:2]).all(axis=1).any()


def test_what_libraries_print_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:]
    with watched() as printed:
        assert printed() == b""
        os.write(1, b"one ")
        os.write(2, b"two ")
        sys.stdout.write("three ")
        logging.getLogger("trimesh.anything").warning("four")
        warnings.warn("five", RuntimeWarning, stacklevel=1)
        assert printed() == b"one two three four\nRuntimeWarning: five\n"
        assert printed() == b""
    assert capfd.readouterr() == ("", "") and root.handlers == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.obj", b"mtllib missing.mtl\nusemtl red\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
        ("a.stl", b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1e300 0 0\nvertex 0 1 0\nendloop\n"),
        ("a.npy", npy_bytes(POINTS).replace(b"(50, 3)", b"(1or 3)")),
        ("a.npy", npy_bytes(POINTS).replace(b"(50, 3)", b"(50L, 3)").replace(b" \n", b"\n")),  # as Python 2 wrote it
        ("a.xyz", b"1 2 3 1e200 0 0\n4 5 6 1e200 0 0\n"),
        ("a.ply", SHORT.format(2, "float", "").replace("ascii", "binary_little_endian").encode() + b"\1\0\xa0\x7f" * 6),
    ],
)
def test_absurd_files_print_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    path = written(tmp_path / name, content)
    handlers = logging.getLogger("trimesh").handlers[:]
    with watched() as printed:
        with contextlib.suppress(InvalidFile):
            read_cloud(path)
        assert printed() == b""
    assert logging.getLogger("trimesh").handlers == handlers


# -- motions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["T.txt", "T.npy", "T.json", "T"])
def test_motions_survive_bit_for_bit(tmp_path: Path, name: str) -> None:
    write_transform(tmp_path / name, MOTION)
    np.testing.assert_array_equal(read_transform(tmp_path / name), MOTION)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(",".join(map(repr, row)) for row in MOTION.tolist()),
        str(MOTION.tolist()),
        "# from a log\n" + np.array2string(MOTION, precision=17, separator=" "),
        json.dumps({"confidence": 1.0, "target_from_source": MOTION.tolist()}),
        json.dumps({"transformation": MOTION.tolist()}, indent=1),
    ],
)
def test_motions_in_other_spellings(tmp_path: Path, text: str) -> None:
    np.testing.assert_allclose(read_transform(written(tmp_path / "T.txt", text)), MOTION, atol=1e-15)


def _matrix(**entries: Any) -> np.ndarray:
    matrix = MOTION.copy()
    for key, value in entries.items():
        matrix[int(key[1]), int(key[2])] = value
    return matrix


def test_similarities_are_written_and_read_where_they_are_asked_for(tmp_path: Path) -> None:
    similarity = MOTION @ np.diag([0.0254, 0.0254, 0.0254, 1.0])
    for name in ("T.txt", "T.npy", "T.json"):
        write_transform(tmp_path / name, similarity)
        np.testing.assert_array_equal(read_transform(tmp_path / name, similar=True), similarity)
        with pytest.raises(InvalidTransform, match=r"scale 0\.0254"):
            read_transform(tmp_path / name)
    write_transform(tmp_path / "T.txt", MOTION)
    np.testing.assert_array_equal(read_transform(tmp_path / "T.txt", similar=True), MOTION)
    np.savetxt(tmp_path / "flat.txt", np.diag([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(InvalidTransform):
        read_transform(tmp_path / "flat.txt", similar=True)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (MOTION[:3], r"shape \(3, 4\)"),
        (MOTION.ravel()[None], r"shape \(1, 16\)"),
        (np.diag([2.0, 2.0, 2.0, 1.0]), "scale 2"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), "reflection"),
        (MOTION.T, "transposed"),
        (_matrix(_33=2.0), "last row"),
        (_matrix(_00=np.nan), "1 entries are NaN or infinite"),
        (_matrix(_01=MOTION[0, 1] + 0.01), "not a rotation"),
        (_matrix(_00=1e200, _01=1e200, _10=-1e200), "not a rotation"),
    ],
)
def test_matrices_that_are_no_motion(tmp_path: Path, matrix: np.ndarray, words: str) -> None:
    np.savetxt(tmp_path / "T.txt", matrix)
    np.save(tmp_path / "T.npy", matrix)
    for name in ("T.txt", "T.npy"):
        with pytest.raises(InvalidTransform, match=words) as caught:
            read_transform(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    if matrix.shape == (4, 4) and words != "scale 2":
        with pytest.raises(InvalidTransform, match=words):
            write_transform(tmp_path / "out.txt", matrix)
        assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"one two three", "cannot be read as 4 rows"),
        (b"1 2 3\n4 5\n", "cannot be read as 4 rows"),
        (b'{"pose": 3}', "no key target_from_source"),
        (bytes(range(128, 256)), "not text"),
        (npy_bytes(MOTION)[:-3], "truncated"),
        (npy_bytes(np.array([None]), allow_pickle=True), "pickled"),
    ],
)
def test_files_that_hold_no_matrix(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(InvalidFile, match=words):
        read_transform(written(tmp_path / "T.txt", content))
