"""Files that promise, or unpack to, more than they hold: refused by name before the memory is taken."""

from __future__ import annotations

import ast
import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from damage import e57, mended_e57

from deepgmr.errors import InvalidConfig, InvalidFile, InvalidInput
from deepgmr.io import CloudFile, read_cloud, read_transform, write_cloud
from deepgmr.plain import from_toml

HOUSE = Path(__file__).resolve().parents[2]
PROMISE = 10**12
LITTLE = 100 << 20  # bytes: what a refusal may cost


def npy(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def npz(*names: str, rows: int, shape: tuple[int, ...] | None = None) -> bytes:
    """An archive whose arrays are `rows` times three zeros each."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(name, "w") as entry:
                entry.write(npy(shape or (rows, 3)))
                for _ in range(24 * rows >> 20):
                    entry.write(bytes(1 << 20))
    return stream.getvalue()


def lzf(points: int) -> bytes:
    """A compressed PCD of zeros: 264 bytes in every three."""
    need = 12 * points
    packed, left = b"\0\0" + b"\xe0\xff\0" * ((need - 1) // 264), (need - 1) % 264
    packed += bytes([0xE0, left - 9, 0]) if left >= 9 else bytes([left - 1]) + bytes(left) if left else b""
    header = (
        f"VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {points}\nHEIGHT 1\nPOINTS {points}\n"
        "DATA binary_compressed\n"
    )
    return header.encode() + struct.pack("<II", len(packed), need) + packed


def glb(*, nodes: int = 1, parts: int = 1, count: int = 300, stored: bool = True) -> bytes:
    """A mesh of `parts` equal parts, placed by so many `nodes`; each has `count` vertices, `stored` or only promised."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(300, 3)).astype("<f4").tobytes() + rng.integers(0, 300, 3000, dtype="<u4").tobytes()
    view = {"bufferView": 0} if stored else {}
    content = json.dumps(
        {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": list(range(nodes))}],
            "nodes": [{"mesh": 0}] * nodes,
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}] * parts}],
            "accessors": [
                {**view, "componentType": 5126, "count": count, "type": "VEC3"},
                {"bufferView": 1, "componentType": 5125, "count": 3000, "type": "SCALAR"},
            ],
            "bufferViews": [
                {"buffer": 0, "byteOffset": 0, "byteLength": 3600},
                {"buffer": 0, "byteOffset": 3600, "byteLength": 12000},
            ],
            "buffers": [{"byteLength": len(data)}],
        }
    ).encode()
    content += b" " * (-len(content) % 4)
    chunks = struct.pack("<I4s", len(content), b"JSON") + content + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def ply(*lines: str) -> bytes:
    axes = "property float x\nproperty float y\nproperty float z\n"
    head = "".join(f"{line}\n" for line in lines).replace("AXES\n", axes)
    return f"ply\nformat binary_little_endian 1.0\n{head}end_header\n".encode() + bytes(36)


PCD = (
    f"VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {PROMISE}\nHEIGHT 1\nPOINTS {PROMISE}\n"
    "DATA {}\n"
)
PROPORTION = "no cloud packs so well"
BOMBS = {
    "zip": ("a.npz", lambda: npz("points.npy", rows=10**7), PROPORTION),
    "zip of many": ("a.npz", lambda: npz("points.npy", *(f"{i}.npy" for i in range(9)), rows=10**6), PROPORTION),
    "npy header": ("a.npy", lambda: npy((PROMISE, 3)) + bytes(72), "promises shape"),
    "npz header": ("a.npz", lambda: npz("points.npy", rows=1, shape=(PROMISE, 3)), "promises shape"),
    "ply header": ("a.ply", lambda: ply(f"element vertex {PROMISE}", "AXES"), "promises 1,000,000,000,000 points"),
    "ply rows of nothing": ("a.ply", lambda: ply("element vertex 3", "AXES", f"element face {PROMISE}"), "without any"),
    "ply rows of nothing first": (
        "a.ply",
        lambda: ply(f"element a {PROMISE}", "element vertex 3", "AXES"),
        "without any",
    ),
    "ply faces": (
        "a.ply",
        lambda: ply("element vertex 3", "AXES", f"element face {PROMISE}", "property list uchar int vertex_indices"),
        "promises 1,000,000,000,000 face rows",
    ),
    "ply list": (
        "a.ply",
        lambda: (
            ply("element vertex 3", "AXES", "element face 1", "property list uint int vertex_indices") + b"\xff" * 4
        ),
        "runs past the end",
    ),
    "pcd header": ("a.pcd", lambda: PCD.format("binary").encode() + bytes(36), "promises 1,000,000,000,000 points"),
    "pcd text header": (
        "a.pcd",
        lambda: PCD.format("ascii").encode() + b"0 0 0\n",
        "promises 1,000,000,000,000 points",
    ),
    "pcd compressed header": (
        "a.pcd",
        lambda: PCD.format("binary_compressed").encode() + bytes(36),
        "but 28 bytes follow",
    ),
    "lzf": ("a.pcd", lambda: lzf(12_000_000), PROPORTION),
    "pts": ("a.pts", lambda: f"{PROMISE}\n0 0 0\n".encode(), "promises 1,000,000,000,000 points"),
    "stl": ("a.stl", lambda: bytes(80) + b"\xff" * 4 + bytes(50), "promises 4,294,967,295 triangles"),
    "off": ("a.off", lambda: f"OFF\n{PROMISE} {PROMISE} 0\n0 0 0\n".encode(), "cannot be read as OFF"),
    "glb of many nodes": ("a.glb", lambda: glb(nodes=20_000), PROPORTION),
    "glb of many parts": ("a.glb", lambda: glb(parts=20_000), PROPORTION),
    "glb accessor": ("a.glb", lambda: glb(count=PROMISE), PROPORTION),
    "glb of zeros": ("a.glb", lambda: glb(count=10**8, stored=False), PROPORTION),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_costs_anything(name: str, tmp_path: Path) -> None:
    file, make, words = BOMBS[name]
    path = tmp_path / file
    path.write_bytes(make())
    assert path.stat().st_size < 4 << 20
    _refused(path, words)


def test_a_laz_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    path = tmp_path / "a.laz"
    write_cloud(path, CloudFile(np.zeros((100_000, 3)), las_header=laspy.LasHeader(version="1.2", point_format=0)))
    data = bytearray(path.read_bytes())
    data[107:111] = struct.pack("<I", 10_000_000)  # number of point records, LAS 1.2
    path.write_bytes(data)
    _refused(path, f"{PROPORTION}|promises 10,000,000 points")


def test_an_e57_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pye57")
    path = tmp_path / "a.e57"
    data = e57(path, np.zeros((12, 3)))
    assert mended_e57(data) == data
    logical = b"".join(data[at : at + 1020] for at in range(0, len(data), 1024))  # without the checksums of the pages
    changed = logical.replace(b'recordCount="12"', b'recordCount="12000000000"', 1)
    changed = changed.replace(b"\n         xmlns", b"\nxmlns", 1)  # as many spaces fewer as there are digits more
    assert len(changed) == len(logical)
    path.write_bytes(mended_e57(b"".join(changed[at : at + 1020] + bytes(4) for at in range(0, len(changed), 1020))))
    _refused(path, PROPORTION)


def test_ordinary_files_that_pack_well_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(npz("points.npy", rows=1 << 18))  # six megabytes in six thousand: small enough to be let in
    with pytest.raises(InvalidFile, match="promises shape"):
        path.write_bytes(npz("points.npy", rows=1 << 18, shape=(1 << 19, 3)))
        read_cloud(path)
    grid = np.stack(np.meshgrid(*[np.arange(100.0)] * 3), axis=-1).reshape(-1, 3)
    np.savez_compressed(path, points=grid, label=np.zeros(len(grid), np.int64))
    assert len(read_cloud(path)) == len(grid)


@pytest.mark.parametrize(
    "name", ["/dev/zero", "../secret.bin", "a/../../secret.bin", "file:///etc/passwd", "%2e%2e/secret.bin"]
)
def test_a_gltf_refers_to_nothing_outside_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(72))
    content = {
        "asset": {"version": "2.0"},
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 6, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 72}],
        "buffers": [{"uri": name, "byteLength": 72}],
    }
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "a.gltf"
    path.write_text(json.dumps(content))
    _refused(path, "outside its own folder")


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000, '{"T": ' * 100_000])
def test_motions_nested_without_end(text: str, tmp_path: Path) -> None:
    path = tmp_path / "T.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"T\.json: "):
        read_transform(path)


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "a = " + "{b=" * 100_000, "a = " + "9" * 10_000, "[" + "a." * 50_000 + "b]"]
)
def test_settings_nested_without_end(text: str) -> None:
    try:
        from_toml(text, where="settings.toml")
    except InvalidConfig as error:
        assert str(error).startswith("settings.toml is no TOML") and len(str(error)) < 300


UNPICKLERS = ("pickle", "dill", "cloudpickle", "marshal", "shelve")
OWN_PIPES = ("pipeline/workers.py", "pipeline/jobs.py")  # between processes that one of them started; never a file


def test_nothing_is_unpickled_or_evaluated() -> None:
    """In the source of everything that runs: no pickle, no eval, and NumPy and torch told not to unpickle either."""
    for path in sorted((HOUSE / "deepgmr").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                found = {name.split(".")[0] for name in names} & set(UNPICKLERS)
                assert not found or path.relative_to(HOUSE / "deepgmr").as_posix() in OWN_PIPES, path
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "builtins.eval", "yaml.load"), f"{path}: {called}"
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in ("torch.load", "torch.jit.load"):
                assert said.get("weights_only") == "True", f"{path}: {called}"
            if called in ("np.load", "numpy.load"):
                assert said.get("allow_pickle", "False") == "False", f"{path}: {called}"


def _refused(path: Path, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidFile, match=words) as caught:
            read_cloud(path)
        assert tracemalloc.get_traced_memory()[1] < LITTLE
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
