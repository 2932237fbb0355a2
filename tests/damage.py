"""Fuzzing the readers: small valid files of every format, ways to damage them, and a watch over what comes of it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from deepgmr.errors import DeepGMRError, InvalidCloud, InvalidConfig
from deepgmr.io import CloudFile, checkpoint, read_cloud, read_transform, transformed, write_cloud, write_transform
from deepgmr.networks.overlap import OverlapConfig, OverlapNetwork
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.clouds import as_points
from deepgmr.pipeline.settings import Settings

SLOW = 5.0  # seconds for a file of a few kilobytes: something follows a promise in a header
NUMBERS: tuple[str, ...] = (
    "0",
    "-1",
    "1",
    "3",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "1000000000",
    "1000000000000",
)
NUMBERS += ("9223372036854775808", "9" * 30, "9" * 5000, "nan", "-inf", "1e400", "1e200", "0.5", "two", "")
WHOLE = (0, 1, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
MOTION = np.array([[0.0, -1.0, 0.0, 0.25], [1.0, 0.0, 0.0, -2.0], [0.0, 0.0, 1.0, 1 / 3], [0.0, 0.0, 0.0, 1.0]])
SEEN_BY_DEFAULT = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # all but these


@dataclass
class Report:
    """What a run of the fuzz found."""

    what: str = "files"
    files: int = 0
    refused: int = 0
    unnamed: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))  # type and place: the files
    printed: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))  # first line: the files
    output: int = 0  # bytes that came out on file descriptors 1 and 2
    slowest: float = 0.0
    slowest_name: str = ""
    slowest_file: bytes = b""

    @property
    def findings(self) -> int:
        """How many files ended otherwise than they should."""
        wrong = sum(map(len, (*self.unnamed.values(), *self.printed.values())))
        return wrong + (self.slowest > SLOW)

    def text(self) -> str:
        lines = [
            f"{self.files:,} {self.what}: {self.refused:,} refused by name, {self.files - self.refused:,} otherwise"
        ]
        for title, found in (("unnamed", self.unnamed), ("printed", self.printed)):
            lines += [f"{title}: {len(files):6,}  {what}" for what, files in sorted(found.items())]
        lines.append(f"{self.output:,} bytes on file descriptors 1 and 2")
        lines.append(f"slowest: {self.slowest:.2f} s, {self.slowest_name}; {self.findings:,} findings")
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """The first file of every finding and what it does, and the slowest file, in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, (what, files) in enumerate((self.unnamed | self.printed).items()):
            name = f"{number:03d}-{re.sub(r'[^A-Za-z0-9.]+', '-', what)[:80]}"
            (folder / name).write_bytes(files[0])
            (folder / f"{name}.txt").write_text(what + "\n")
        (folder / f"slowest-{self.slowest_name}").write_bytes(self.slowest_file)


def fuzz(files: int, seed: int, folder: Path) -> Report:
    """Damage and read so many files, written one after the other into `folder`."""
    generator = np.random.default_rng(seed)
    pools: list[tuple[Callable[[Path], None], float, dict[str, bytes]]] = [
        (_cloud, 0.84, specimens(folder)),
        (_transform, 0.06, matrices(folder)),
        (_settings, 0.05, {"settings.toml": Settings().to_toml().encode()}),
        (_network, 0.05, networks(folder)),
    ]
    report = Report()
    with watched() as printed, suppress(KeyboardInterrupt):  # what was found until then is found
        for _ in range(files):
            read, _, pool = pools[generator.choice(len(pools), p=[share for _, share, _ in pools])]
            name = str(generator.choice(list(pool)))
            content = damaged(pool[name], list(pool.values()), generator)
            if generator.random() < 0.5:
                content = mended(content, pool[name], generator)
            suffixes = [Path(other).suffix for other in pool]
            suffix = str(generator.choice(suffixes)) if generator.random() < 0.1 else Path(name).suffix
            path = folder / f"damaged{suffix}"
            path.write_bytes(content)
            judged(report, partial(read, path), name, path.read_bytes, printed, begins=f"{path}: ")
            path.unlink()
    return report


def judged(
    report: Report,
    call: Callable[[], object],
    name: str,
    content: Callable[[], bytes],
    printed: Callable[[], bytes],
    *,
    begins: str,
) -> None:
    """Make one call, and note how it ended: `begins` is what the message of a named error begins with."""
    report.files += 1
    start = time.process_time()  # of this process alone: the machine may be busy
    try:
        call()
    except DeepGMRError as error:
        report.refused += 1
        text = str(error)
        if not text.startswith(begins) or "\n" in text or len(text) > 500 + len(begins):
            report.unnamed[f"{name}: no clear line: {text[:120]!r}"].append(content())
        elif isinstance(error.__context__, MemoryError):
            report.unnamed[f"{name}: MemoryError behind {text[:80]!r}"].append(content())
    except BaseException as error:  # a panic in Rust is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        report.unnamed[f"{name}: {_place(error)}"].append(content())
    seconds = time.process_time() - start
    if seconds > report.slowest:
        report.slowest, report.slowest_name, report.slowest_file = seconds, name, content()
    said = printed()
    if said:
        report.output += len(said)
        last = re.sub(r"\d+", "N", said.decode("utf-8", "replace").strip().splitlines()[0][-150:])
        report.printed[f"{name}: {last}"].append(content())


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "deepgmr" in frame.filename.replace("\\", "/").split("/")]
    shown = [*ours[-1:], *frames[-1:]] or frames
    places = ", ".join(dict.fromkeys(f"{Path(frame.filename).name}:{frame.lineno}" for frame in shown))
    return f"{type(error).__name__} at {places}: {' '.join(str(error).split())[:80]}"


def _cloud(path: Path) -> None:
    cloud = read_cloud(path)
    assert cloud.points.dtype == np.float64 and cloud.points.ndim == 2 and cloud.points.shape[1] == 3 and len(cloud)
    for name, values in cloud.properties.items():
        assert isinstance(name, str) and values.ndim in (1, 2) and len(values) == len(cloud), name
    with suppress(InvalidCloud):  # which knows no path
        assert as_points(cloud, drop_invalid=True).dtype == np.float64
    with suppress(InvalidCloud):
        assert len(transformed(cloud, MOTION)) == len(cloud)


def _transform(path: Path) -> None:
    assert read_transform(path).shape == (4, 4)


def _settings(path: Path) -> None:
    try:
        Settings.from_toml(path.read_text(encoding="utf-8", errors="replace"))
    except InvalidConfig as error:
        raise InvalidConfig(f"{path}: {error}") from error


def _network(path: Path) -> None:
    checkpoint.load(path) if checkpoint.read(path).kind != "bundle" else Bundle.load(path)


# -- what is damaged, and how ------------------------------------------------------------------------------------


def specimens(folder: Path) -> dict[str, bytes]:
    """Small valid files of every readable format, by a name that ends in the format's suffix."""
    import trimesh

    found: dict[str, bytes] = {}
    generator = np.random.default_rng(0)
    points = generator.normal(size=(12, 3)).astype(np.float32).astype(np.float64)
    properties: dict[str, np.ndarray] = dict(zip(("nx", "ny", "nz"), points.T.astype(np.float32), strict=True))
    properties |= {name: generator.integers(0, 256, 12, dtype=np.uint8) for name in ("red", "green", "blue")}
    properties |= {"ring": np.arange(12, dtype=np.int16), "stamp": np.linspace(0.0, 1.0, 12)}
    for text in (False, True):
        for kind in ("ply", "pcd"):
            cloud = CloudFile(points, properties, kind, ("a remark",), np.dtype(np.float32), text)
            found[f"{'ascii' if text else 'binary'}.{kind}"] = _written(folder / f"a.{kind}", cloud)
    names = ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    splat = {name: generator.normal(size=12).astype("f4") for name in (*names, *(f"f_rest_{i}" for i in range(9)))}
    found["splat.ply"] = _written(folder / "a.ply", CloudFile(points, splat, coordinate_dtype=np.dtype(np.float32)))
    cloud = CloudFile(points, properties)
    suffixes = ["xyz", "pts", "csv", "npy", "npz"]
    try:
        import laspy  # noqa: F401 - only whether it is there

        suffixes += ["las", "laz"]
    except ImportError:
        pass
    found |= {f"cloud.{suffix}": _written(folder / f"a.{suffix}", cloud) for suffix in suffixes}
    with suppress(ImportError):
        found["cloud.e57"] = e57(folder / "a.e57", points)
    found["compressed.pcd"] = compressed_pcd(points)
    found["big_endian.ply"] = big_endian_ply()
    table = np.zeros(12, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("ring", "<u2"), ("rest", "<f8", (2,))])
    table["x"], table["y"], table["z"] = points.T
    for name, array in (("structured.npy", table), ("fortran.npy", np.asfortranarray(points))):
        buffer = io.BytesIO()
        np.save(buffer, array)
        found[name] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=points, normals=points, note=np.array("words"))
    found["packed.npz"] = buffer.getvalue()
    box = trimesh.creation.box((1.0, 2.0, 3.0))
    box.visual.vertex_colors = generator.integers(0, 256, (8, 4), dtype=np.uint8)
    for kind in ("obj", "stl", "stl_ascii", "off", "glb", "ply"):
        content = box.export(file_type=kind)
        found[f"mesh_{kind}.{kind.split('_')[0]}"] = content if isinstance(content, bytes) else content.encode()
    found["ascii_mesh.ply"] = box.export(file_type="ply", encoding="ascii")
    found["mesh.gltf"] = box.export(file_type="gltf", embed_buffers=True)["model.gltf"]
    found["rich.obj"] = (
        b"# made by hand\nmtllib a.mtl\no thing\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvn 0 0 1\n"
        b"usemtl red\ns off\nf 1/1/1 2/2/1 3/3/1\nf 1//1 3//1 4//1\nf 1 2 3 4\ng more\nf -4 -3 -2\nl 1 2\n"
    )
    return found


def e57(path: Path, points: np.ndarray) -> bytes:
    """Two scans in one file, one with a pose. Raises ImportError without pye57."""
    import pye57

    columns = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), points.T, strict=True))
    columns["intensity"] = np.linspace(0.0, 1.0, len(points))
    with pye57.E57(str(path), "w") as file:
        file.write_scan_raw(columns, rotation=np.array([0.8, 0.0, 0.6, 0.0]), translation=np.array([1.0, 2.0, 3.0]))
        file.write_scan_raw(columns)
    content = path.read_bytes()
    path.unlink()
    return content


def matrices(folder: Path) -> dict[str, bytes]:
    """A motion in every form it is read in."""
    found = {}
    for suffix in ("txt", "npy", "json"):
        write_transform(folder / f"a.{suffix}", MOTION)
        found[f"motion.{suffix}"] = (folder / f"a.{suffix}").read_bytes()
    return found | {"array.txt": str(MOTION).encode(), "list.json": str(MOTION.tolist()).encode()}


def networks(folder: Path) -> dict[str, bytes]:
    """A small network and a small bundle."""
    path, config = folder / "a.safetensors", OverlapConfig(width=8, heads=2, blocks=1)
    checkpoint.save(path, OverlapNetwork(config), provenance={"version": "0", "steps": 3})
    found = {"network.safetensors": path.read_bytes()}
    replace(Bundle.load(), network=OverlapNetwork(config)).save(path)
    return found | {"bundle.safetensors": path.read_bytes()}


def _written(path: Path, cloud: CloudFile) -> bytes:
    write_cloud(path, cloud)
    return path.read_bytes()


def compressed_pcd(points: np.ndarray) -> bytes:
    """A PCD whose compressed part is literal runs and one repetition."""
    plain = points.astype("<f4").T.tobytes() + bytes(12 * 40)  # a field of 40 zeros a point follows x, y and z
    packed = b"".join(bytes([len(run) - 1]) + run for run in _runs(plain[:145], 32))
    left = len(plain) - 145
    while left:
        length = min(left, 264)
        packed += bytes([0xE0, length - 9, 0]) if length >= 9 else bytes([length - 1]) + bytes(length)
        left -= length
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z hist\nSIZE 4 4 4 1\nTYPE F F F U\n"
        "COUNT 1 1 1 40\nWIDTH 12\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 12\nDATA binary_compressed\n"
    )
    sizes = np.array([len(packed), len(plain)], "<u4").tobytes()
    return header.encode() + sizes + packed


def _runs(data: bytes, length: int) -> Iterator[bytes]:
    yield from (data[at : at + length] for at in range(0, len(data), length))


def big_endian_ply() -> bytes:
    """A triangle and a square, so that the rows differ in length, and an element that nobody reads."""
    header = (
        "ply\nformat binary_big_endian 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty double z\n"
        "element face 2\nproperty list uchar int vertex_indices\nproperty uchar tag\nelement edge 1\n"
        "property list ushort uint8 ends\nend_header\n"
    )
    corners = np.zeros(5, [("xy", ">f4", (2,)), ("z", ">f8")])
    corners["xy"], corners["z"][4] = [(0, 0), (1, 0), (1, 1), (0, 1), (0.5, 0.5)], 1.0
    faces = b"\3" + np.array([0, 1, 4], ">i4").tobytes() + b"\7\4" + np.array([0, 1, 2, 3], ">i4").tobytes() + b"\7"
    return header.encode() + corners.tobytes() + faces + b"\0\2\0\1"


def damaged(content: bytes, others: list[bytes], generator: np.random.Generator) -> bytes:
    """The content after one to three mutations."""
    data = bytearray(content)
    for _ in range(generator.integers(1, 4)):
        at = int(generator.integers(len(data) + 1))
        length = min(int(generator.geometric(0.08)), len(data))
        match generator.integers(9):
            case 0:  # bits
                for spot in generator.integers(0, max(len(data), 1), 4) if data else ():
                    data[spot] ^= 1 << generator.integers(8)
            case 1:  # a run of other bytes, in the header as often as anywhere
                at = at % 300 if generator.random() < 0.5 else at
                data[at : at + length] = generator.integers(0, 256, length, dtype=np.uint8).tobytes()
            case 2:
                del data[at:]
            case 3:  # a run repeated
                data[at:at] = data[at : at + length] * int(generator.integers(1, 4))
            case 4:
                del data[at : at + length]
            case 5:  # a number of four bytes
                whole = int(generator.choice(WHOLE))
                data[at : at + 4] = whole.to_bytes(4, "little" if generator.random() < 0.7 else "big")
            case 6 | 7:
                _change_word(data, generator)
            case 8:
                other = others[generator.integers(len(others))]
                data = data[:at] + bytearray(other[generator.integers(len(other)) :])
        if not data:
            data = bytearray(b"\n")
    return bytes(data)


def mended(content: bytes, whole: bytes, generator: np.random.Generator) -> bytes:
    """What guards a format against chance, put right again, so that what is behind it meets the damage."""
    if whole.startswith(b"ASTM-E57"):
        return mended_e57(content)
    if b'"deepgmr"' in whole[:40_000]:
        return mended_network(whole, generator)
    return content


def mended_e57(content: bytes) -> bytes:
    """The checksums of its pages of 1024 bytes, CRC-32C, made good."""
    pages = (content[at : at + 1020].ljust(1020, b"\0") for at in range(0, len(content), 1024))
    return b"".join(page + crc32c(page).to_bytes(4, "big") for page in pages)


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli's polynomial."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CASTAGNOLI[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


def _row(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CASTAGNOLI = [_row(value) for value in range(256)]


def mended_network(content: bytes, generator: np.random.Generator) -> bytes:
    """A network whose header says something else, under a digest that agrees."""
    tensors = load_tensors(content)
    size = int.from_bytes(content[:8], "little")
    text = bytearray(json.loads(content[8 : 8 + size])["__metadata__"]["deepgmr"].encode())
    for _ in range(generator.integers(1, 4)):
        _change_word(text, generator, reach=len(text))
    try:
        header = json.loads(text)
        header.pop("digest", None)
        header["digest"] = checkpoint._digest(header, tensors)
        text = bytearray(json.dumps(header).encode())
    except (ValueError, AttributeError, TypeError):
        pass
    return save_tensors(tensors, metadata={"deepgmr": text.decode("utf-8", "replace")})


def _change_word(data: bytearray, generator: np.random.Generator, *, reach: int = 3000) -> None:
    """One number of the first lines becomes another, or one of their words another word or line."""
    head = bytes(data[:reach])
    if generator.random() < 0.7:
        found = list(re.finditer(rb"[-+]?\d+(?:\.\d+)?", head))
        new = str(generator.choice(NUMBERS)).encode()
    else:
        pattern = rb"[^\s]+" if generator.random() < 0.7 else rb"[^\n]*\n"
        found = list(re.finditer(pattern, head))
        new = found[generator.integers(len(found))].group() if found else b""
    if found:
        old = found[generator.integers(len(found))]
        data[old.start() : old.end()] = new


# -- what is printed ---------------------------------------------------------------------------------------------


def _shown(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    sys.stderr.write(f"{category.__name__}: {message}\n")


@contextmanager
def watched() -> Iterator[Callable[[], bytes]]:
    """Within, the function that is given tells what was printed since it was last asked, by anything in the process.

    That is file descriptors 1 and 2, sys.stdout and sys.stderr, warnings, and logs as a program shows them that has
    not set up logging.
    """
    root = logging.getLogger()
    before: dict[str, Any] = {"out": sys.stdout, "err": sys.stderr, "handlers": root.handlers[:]}
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("always")
        for category in SEEN_BY_DEFAULT:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = _shown
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        sys.stdout = sys.stderr = io.TextIOWrapper(os.fdopen(os.dup(sink.fileno()), "wb", 0), write_through=True)
        root.handlers[:] = []
        try:
            yield lambda: _taken(sink)
        finally:
            sys.stdout, sys.stderr, root.handlers[:] = before["out"], before["err"], before["handlers"]
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)


def _taken(sink: BinaryIO) -> bytes:
    sys.stderr.flush()
    said = os.pread(sink.fileno(), 1 << 20, 0)
    os.ftruncate(sink.fileno(), 0)
    os.lseek(sink.fileno(), 0, os.SEEK_SET)
    return said
