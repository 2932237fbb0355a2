"""Meshes: OBJ, STL, OFF, GLB and GLTF through trimesh, and the sample of its surface that stands for a mesh."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.extras import extra
from deepgmr.io.cloud import CloudFile, Triangles, flat_columns, stored_coordinates
from deepgmr.io.disk import check_growth
from deepgmr.io.quiet import quiet

SAMPLES = 20_000  # points drawn from a surface: enough for any stage of a registration


def read_mesh(path: Path, kind: str, seed: int) -> CloudFile:
    """Read a mesh of the format `kind`; its points are a sample of the surface, or its vertices without faces."""
    trimesh = extra("trimesh", "meshes", f"{path}: reading {kind.upper()}")

    data = path.read_bytes()
    if kind == "stl" and data.lstrip()[:5].lower() != b"solid":
        promised = int.from_bytes(data[80:84], "little")
        if len(data) < 84 or 84 + 50 * promised > len(data):
            raise InvalidFile(
                f"{path}: the STL header promises {promised:,} triangles ({84 + 50 * promised:,} bytes) but the file "
                f"has {len(data):,} bytes; it is truncated or corrupt, export it again"
            )
    try:
        if kind in ("glb", "gltf"):
            _check_gltf(path, data)
        # GLTF may refer to files beside it; everything else is read from memory
        source: Any = str(path) if kind == "gltf" else io.BytesIO(data)
        with quiet("trimesh"):
            scene = trimesh.load_scene(source, file_type=kind, process=False)
            mesh = scene.to_mesh()
            vertices, faces = _rows(mesh.vertices, np.float64), _rows(mesh.faces, np.int64)
            clouds = [
                _rows(g.vertices, np.float64) for g in scene.geometry.values() if isinstance(g, trimesh.PointCloud)
            ]
            colours = _vertex_colours(mesh) if len(faces) else {}
    except InvalidFile:
        raise
    except Exception as error:  # trimesh raises whatever its parsers meet in a damaged file
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise InvalidFile(
            f"{path}: cannot be read as {kind.upper()} ({said}); it is damaged, export it again"
        ) from None
    if not len(faces):
        points = clouds[0] if clouds and not len(vertices) else vertices
        if not len(points):
            raise InvalidFile(f"{path}: the {kind.upper()} holds zero points and no triangles; export it again")
        return CloudFile(points, format=kind)
    stored = np.dtype(np.float32 if kind in ("stl", "glb", "gltf") else np.float64)
    surface = Triangles(vertices, faces, colours, scene)
    return sampled(path, CloudFile(vertices, {}, kind, coordinate_dtype=stored, triangles=surface), seed)


def _check_gltf(path: Path, data: bytes) -> None:
    """Raise InvalidFile unless the meshes, each as often as it is placed, fit the file, and refer to none elsewhere."""
    if data[:4] == b"glTF":
        data = data[20 : 20 + int.from_bytes(data[12:16], "little")]
    content = json.loads(data)
    size = path.stat().st_size
    for buffer in (*content.get("buffers", ()), *content.get("images", ())):
        name = unquote(str(buffer.get("uri", "data:")))
        if not name.startswith("data:"):
            if Path(name).name != name and (Path(name).is_absolute() or ".." in Path(name).parts or ":" in name):
                raise InvalidFile(f"{path}: refers to {name[:80]!r}, outside its own folder; put its files beside it")
            beside = path.parent / name
            size += beside.stat().st_size if beside.is_file() else 0
    accessors, meshes = content.get("accessors", ()), content.get("meshes", ())
    sizes = [
        sum(
            24 * accessors[part["attributes"]["POSITION"]]["count"]
            + 8 * (accessors[part["indices"]]["count"] if "indices" in part else 0)
            for part in mesh["primitives"]
        )
        for mesh in meshes
    ]
    placed = Counter(node["mesh"] for node in content.get("nodes", ()) if "mesh" in node)
    check_growth(path, sum(sizes[number] * placed.get(number, 1) for number in range(len(sizes))), size)


def _rows(values: Any, dtype: type) -> np.ndarray:
    """(N, 3), or a ValueError: from a damaged file trimesh may make rows of any length."""
    rows: np.ndarray = np.array(values, dtype)
    if rows.size and (rows.ndim != 2 or rows.shape[1] != 3):
        raise ValueError(f"vertices or faces of shape {rows.shape}")
    return rows.reshape(-1, 3)


def _vertex_colours(mesh: Any) -> dict[str, np.ndarray]:
    if mesh.visual.kind != "vertex":
        return {}
    colours = np.asarray(mesh.visual.vertex_colors, np.uint8).reshape(len(mesh.vertices), -1)
    return {name: colours[:, i].copy() for i, name in enumerate(("red", "green", "blue", "alpha"))}


def sampled(path: Path, cloud: CloudFile, seed: int) -> CloudFile:
    """The cloud of a mesh: SAMPLES points drawn uniformly by area, the same ones for the same mesh and seed."""
    surface = cloud.triangles
    if surface is None:
        return cloud
    extra("trimesh", "meshes", f"{path}: drawing points on a mesh")
    try:
        return replace(cloud, points=drawn(surface.vertices, surface.faces, seed), properties={})
    except ValueError as error:
        raise InvalidFile(f"{path}: {error}") from None


def drawn(vertices: np.ndarray, faces: np.ndarray, seed: int) -> np.ndarray:
    """SAMPLES points (S, 3) float64 on triangles (F, 3) between vertices (V, 3). Raises ValueError where there are none."""
    if faces.size and (faces.min() < 0 or faces.max() >= len(vertices)):
        wrong = int(faces.max() if faces.max() >= len(vertices) else faces.min())
        raise ValueError(
            f"a face refers to vertex {wrong:,} but there are {len(vertices):,}; it is damaged, export it again"
        )
    used = vertices[faces].astype(np.float64)  # (F, 3, 3)
    if not np.isfinite(used).all():
        count = int((~np.isfinite(vertices).all(axis=1)).sum())
        raise ValueError(f"{count:,} of the mesh's {len(vertices):,} vertices are not finite; repair the mesh")
    trimesh = extra("trimesh", "meshes", "drawing points on a mesh")
    with quiet("trimesh"):
        # Areas are products of coordinates, so far from the origin they are taken from the mesh's middle.
        middle = used.reshape(-1, 3).mean(axis=0) if faces.size else np.zeros(3)
        mesh = trimesh.Trimesh(vertices=vertices - middle, faces=faces, process=False)
        area = float(mesh.area) if faces.size else 0.0
        if not 0.0 < area < np.inf:
            size = "no area" if not area > 0.0 else "an area beyond float64"
            raise ValueError(f"the mesh's {len(faces):,} triangles have {size}; give its points as a cloud")
        points, _ = trimesh.sample.sample_surface(mesh, SAMPLES, seed=seed)
    return np.asarray(points, np.float64) + middle


def write_mesh(stream: BinaryIO, cloud: CloudFile, suffix: str) -> list[str]:
    """Write the mesh a cloud came from as .obj, .stl, .off or .glb; returns what the format cannot hold."""
    surface = cloud.triangles
    if surface is None:  # check_output has refused this before anything was computed
        raise InvalidFile(f"a {suffix} file holds triangles, but the cloud has only points; write a .ply")
    trimesh = extra("trimesh", "meshes", f"writing {suffix}")
    if suffix == ".glb" and surface.scene is not None and cloud.format in ("glb", "gltf"):
        stream.write(surface.scene.export(file_type="glb"))
        return []
    columns = flat_columns(surface.properties)
    names = [name for name in ("red", "green", "blue", "alpha") if name in columns]
    colours = np.column_stack([columns[name] for name in names]) if len(names) >= 3 and suffix != ".stl" else None
    lost = [name for name in columns if colours is None or name not in names]
    if surface.scene is not None and any(g.visual.kind == "texture" for g in surface.scene.geometry.values()):
        lost.append("texture")
    middle = surface.vertices.mean(axis=0) if suffix == ".glb" else np.zeros(3)
    mesh = trimesh.Trimesh(surface.vertices - middle, surface.faces, vertex_colors=colours, process=False)
    content: Any
    if suffix == ".glb":  # GLB vertices are float32: the offset goes into the node's matrix, which keeps every digit
        scene = trimesh.Scene()
        scene.add_geometry(mesh, transform=trimesh.transformations.translation_matrix(middle))
        content = scene.export(file_type="glb")
    elif suffix == ".stl":  # binary STL is float32; as text it keeps every digit
        fits = stored_coordinates(surface.vertices, np.dtype(np.float32)).dtype == np.float32
        content = mesh.export(file_type="stl" if fits else "stl_ascii")
    else:
        content = mesh.export(file_type=suffix[1:], digits=12)
    stream.write(content if isinstance(content, bytes) else content.encode("utf-8"))
    return lost
