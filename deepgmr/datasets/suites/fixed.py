"""Fixed-pair suites: the same pairs, with the same true motions, for every method.

Two layouts are read. An HDF5 file holds stacked pairs under the keys of the 2020 release (`source`, `target`,
`transform`), with optional rows that describe them. A folder of scans holds one NPZ a pair, each with its own
numbers of points and its own tolerances, and a MANIFEST.csv that fixes the order.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.datasets.suites.hdf5 import decoded, open_hdf5, read_dataset
from deepgmr.errors import InvalidConfig, InvalidFile
from deepgmr.extras import extra
from deepgmr.geometry.transform import is_rigid
from deepgmr.io.disk import replacing

_ROWS: dict[str, Any] = {"label": np.int64, "axisymmetric": np.bool_, "unseen": np.bool_}
_GROUPS = {"rooms": ("3dmatch", "room"), "lidar": ("kitti", "lidar")}


class LazyClouds(Sequence[np.ndarray]):
    """Clouds that are read when they are asked for."""

    def __init__(self, read: Callable[[int], np.ndarray], rows: np.ndarray) -> None:
        self._read, self._rows = read, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            return self._read(int(self._rows[index]))
        return LazyClouds(self._read, self._rows[index])

    def cut(self, points: int) -> LazyClouds:
        """The first so many points of each."""
        return LazyClouds(lambda row: self._read(row)[:points], self._rows)


@dataclass(frozen=True, eq=False)
class PairSuite:
    """n pairs of clouds with the motion that takes each source onto its target."""

    name: str
    kind: str  # "modelnet" (stacked HDF5), "scans" (folder of NPZ) or "fragments" (3DMatch)
    sources: Sequence[np.ndarray]  # n of (N, 3)
    targets: Sequence[np.ndarray]  # n of (M, 3)
    transforms: np.ndarray  # (n, 4, 4) float64, target_from_source
    names: tuple[str, ...]  # n
    shapes: list[np.ndarray] | None = None  # n of (K, 3): the whole clean shape in the source frame
    labels: np.ndarray | None = None  # (n,) int64
    categories: tuple[str, ...] | None = None  # name of each label
    axisymmetric: np.ndarray | None = None  # (n,) bool
    unseen: np.ndarray | None = None  # (n,) bool: the category is none of the first twenty
    tolerance_degrees: np.ndarray | None = None  # (n,)
    tolerance_translation: np.ndarray | None = None  # (n,)
    scenes: tuple[str, ...] | None = None  # n
    information: np.ndarray | None = None  # (n, 6, 6) of the true correspondences

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def groups(self) -> tuple[str, ...]:
        """The scene of each pair, or "objects", "rooms" or "lidar" by the prefix of its name."""
        return self.scenes or tuple(_group(name) for name in self.names)

    def subset(self, rows: np.ndarray, *, name: str | None = None) -> PairSuite:
        """The pairs at `rows` (indices, or a mask of length n)."""
        index = np.flatnonzero(rows) if np.asarray(rows).dtype == np.bool_ else np.asarray(rows, dtype=np.int64)

        def take(column: np.ndarray | None) -> np.ndarray | None:
            return None if column is None else column[index]

        def chosen(clouds: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
            return clouds[index] if isinstance(clouds, LazyClouds) else [clouds[i] for i in index]

        return replace(
            self,
            name=name or self.name,
            sources=chosen(self.sources),
            targets=chosen(self.targets),
            transforms=self.transforms[index],
            names=tuple(self.names[i] for i in index),
            shapes=None if self.shapes is None else [self.shapes[i] for i in index],
            labels=take(self.labels),
            axisymmetric=take(self.axisymmetric),
            unseen=take(self.unseen),
            tolerance_degrees=take(self.tolerance_degrees),
            tolerance_translation=take(self.tolerance_translation),
            scenes=None if self.scenes is None else tuple(self.scenes[i] for i in index),
            information=take(self.information),
        )

    def thinned(self, limit: int | None) -> PairSuite:
        """At most so many pairs, spread evenly."""
        if limit is None or limit >= len(self):
            return self
        return self.subset(np.linspace(0, len(self) - 1, limit).round().astype(np.int64))

    def cut(self, points: int | None) -> PairSuite:
        """The first so many points of each cloud."""
        if points is None:
            return self
        if points < 1:
            raise InvalidFile(f"cannot keep {points} points a cloud; give a positive number")

        def first(clouds: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
            return clouds.cut(points) if isinstance(clouds, LazyClouds) else [cloud[:points] for cloud in clouds]

        return replace(self, sources=first(self.sources), targets=first(self.targets))


def read_suite(path: str | Path, *, points: int | None = None) -> PairSuite:
    """Read a fixed-pair HDF5 file or a folder of scans.

    `points` keeps only the first so many points of each cloud, which is how the 2020 evaluation cut its files of
    2,048 points to 1,024. Raises `InvalidFile` for a missing path, a file that is not HDF5, missing keys, shapes
    that do not agree, coordinates that are not finite, or matrices that are not rigid motions.
    """
    path = Path(path)
    if path.is_dir():
        suite = _read_scans(path)
    elif path.is_file():
        suite = _read_hdf5(path)
    else:
        raise InvalidFile(
            f"no such suite: {path}; give a fixed-pair .h5 file or a folder of scans, or none: procedural#noisy needs no file"
        )
    _check(suite, path)
    return suite.cut(points)


def write_suite(path: str | Path, suite: PairSuite) -> None:
    """Write the layout that `read_suite` reads: an .h5 file where the path says so, else a folder of scans.

    Files appear whole or not at all. Stacking needs equal numbers of points over the pairs; a suite without them
    belongs in a folder.
    """
    path = Path(path)
    _check(suite, path)
    if path.suffix in (".h5", ".hdf5"):
        _write_hdf5(path, suite)
    else:
        _write_scans(path, suite)


def suite_of(
    pairs: PairBatch,
    name: str,
    *,
    parents: Tensor | None = None,
    tolerance_degrees: float | None = None,
    tolerance_translation: np.ndarray | None = None,
) -> PairSuite:
    """Synthetic pairs as a suite, to validate on and to write.

    `parents` (B, K, 3) are the clouds the pairs were made of; with them the whole shape comes along, in the frame of
    the source, and answers are judged up to its symmetry. With tolerances (one angle, a length (B,) each) the pairs
    are judged as scans are.
    """
    shapes = None
    if parents is not None:
        if pairs.source_from_parent is None:
            raise InvalidConfig("these pairs were not made from parent clouds; leave `parents` out")
        shapes = list(pairs.source_from_parent.apply(parents).cpu().numpy())
    scans = tolerance_degrees is not None and tolerance_translation is not None
    return PairSuite(
        name=name,
        kind="scans" if scans else "modelnet",
        sources=list(pairs.source.cpu().numpy()),
        targets=list(pairs.target.cpu().numpy()),
        transforms=nearest_rigid(pairs.target_from_source.matrix.cpu().double().numpy()),
        names=tuple(f"{name}_{i:04d}" for i in range(len(pairs))),
        shapes=shapes,
        tolerance_degrees=np.full(len(pairs), tolerance_degrees) if scans else None,
        tolerance_translation=tolerance_translation if scans else None,
    )


def nearest_rigid(matrices: np.ndarray) -> np.ndarray:
    """Rotations (n, 4, 4) made in float32, or written with few digits, orthonormal to the last digit of float64."""
    u, _, v = np.linalg.svd(matrices[:, :3, :3])
    matrices = matrices.copy()
    matrices[:, :3, :3] = u @ v
    return matrices


# -- HDF5 ------------------------------------------------------------------------------------------------------


def _read_hdf5(path: Path) -> PairSuite:
    with open_hdf5(path) as file:
        clouds = {key: read_dataset(file, key, path) for key in ("source", "target")}
        if "shape" in file:
            clouds["shape"] = read_dataset(file, "shape", path)
        transforms = read_dataset(file, "transform", path)
        rows = {key: read_dataset(file, key, path) for key in _ROWS if key in file}
        text = {key: read_dataset(file, key, path) for key in ("name", "category") if key in file}
    for key, stack in clouds.items():
        if stack.ndim != 3 or stack.shape[-1] != 3 or stack.dtype.kind != "f":
            raise InvalidFile(
                f"{path}: `{key}` must be floating point (pairs, points, 3), got {stack.dtype} {stack.shape}"
            )
    count = len(clouds["source"])
    columns = {**clouds, "transform": transforms, **rows}
    columns.update({"name": text["name"]} if "name" in text else {})
    lengths = {key: len(column) for key, column in columns.items()}
    if set(lengths.values()) != {count}:
        raise InvalidFile(f"{path}: the keys disagree about the number of pairs: {lengths}")
    table = {key: rows[key].reshape(count).astype(kind) for key, kind in _ROWS.items() if key in rows}
    return PairSuite(
        name=path.stem,
        kind="modelnet",
        sources=list(clouds["source"]),
        targets=list(clouds["target"]),
        transforms=_double(transforms),
        names=tuple(decoded(text["name"])) if "name" in text else tuple(f"{i:04d}" for i in range(count)),
        shapes=list(clouds["shape"]) if "shape" in clouds else None,
        labels=table.get("label"),
        categories=tuple(decoded(text["category"])) if "category" in text else None,
        axisymmetric=table.get("axisymmetric"),
        unseen=table.get("unseen"),
    )


def _write_hdf5(path: Path, suite: PairSuite) -> None:
    h5py = extra("h5py", "evaluate", f"{path}: writing HDF5")
    stacks = {"source": suite.sources, "target": suite.targets, "shape": suite.shapes}
    for key, clouds in stacks.items():
        if clouds is not None and len({len(cloud) for cloud in clouds}) > 1:
            raise InvalidFile(
                f"cannot stack `{key}` into {path}: the clouds differ in their number of points; write a folder"
            )
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for key, clouds in stacks.items():
            if clouds is not None:
                file.create_dataset(key, data=np.stack(clouds), compression="gzip", shuffle=True)
        file["transform"] = suite.transforms
        file["name"] = np.array([name.encode() for name in suite.names])
        if suite.categories is not None:
            file["category"] = np.array([name.encode() for name in suite.categories])
        for key, column in (
            ("label", suite.labels),
            ("axisymmetric", suite.axisymmetric),
            ("unseen", suite.unseen),
        ):
            if column is not None:
                file[key] = column
        file.attrs["frame"] = "transform maps source onto target, column vectors; shape is in the source frame"
    with replacing(path) as stream:
        stream.write(memory.getvalue())


# -- folders of scans ------------------------------------------------------------------------------------------


def _read_scans(folder: Path) -> PairSuite:
    files = sorted(folder.glob("*.npz"))
    manifest = folder / "MANIFEST.csv"
    if manifest.is_file():
        with manifest.open(newline="") as file:
            listed = [row.get("pair") for row in csv.DictReader(file)]
        if None in listed:
            raise InvalidFile(f"{manifest} has no column `pair`")
        files = [folder / f"{name}.npz" for name in listed]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise InvalidFile(f"{manifest} lists {len(missing)} pairs that are not there, such as {missing[0]}")
    if not files:
        raise InvalidFile(f"{folder} holds no scans: neither a MANIFEST.csv nor any .npz file")
    pairs = [_read_npz(file) for file in files]
    return PairSuite(
        name=folder.resolve().name,
        kind="scans",
        sources=[pair["source"] for pair in pairs],
        targets=[pair["target"] for pair in pairs],
        transforms=np.stack([_double(pair["transform"]) for pair in pairs]),
        names=tuple(file.stem for file in files),
        tolerance_degrees=np.array([float(pair["tolerance_degrees"]) for pair in pairs]),
        tolerance_translation=np.array([float(pair["tolerance_translation"]) for pair in pairs]),
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    keys = ("source", "target", "transform", "tolerance_degrees", "tolerance_translation")
    pair = read_archive(path, keys)
    if any(pair[key].shape != () for key in keys[3:]) or pair["transform"].shape != (4, 4):
        raise InvalidFile(f"{path}: `transform` must be (4, 4) and each tolerance a single number")
    return pair


def read_archive(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Some arrays of an NPZ archive. Raises `InvalidFile`, naming the path and the key."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive]
            if missing:
                raise InvalidFile(f"{path} has no {missing}; it must hold {list(keys)}")
            return {key: archive[key] for key in keys}
    except InvalidFile:
        raise
    except Exception as error:  # zip, zlib, header and pickle errors have no common base
        raise InvalidFile(f"{path} is not a readable NPZ archive ({error})") from error


def _write_scans(folder: Path, suite: PairSuite) -> None:
    if suite.tolerance_degrees is None or suite.tolerance_translation is None:
        raise InvalidFile(f"cannot write {folder}: a folder of scans needs a tolerance for every pair")
    if len(set(suite.names)) != len(suite):
        raise InvalidFile(f"cannot write {folder}: two pairs share a name")
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(suite.names):
        with replacing(folder / f"{name}.npz") as file:
            np.savez_compressed(
                file,
                source=suite.sources[i],
                target=suite.targets[i],
                transform=suite.transforms[i],
                tolerance_degrees=suite.tolerance_degrees[i],
                tolerance_translation=suite.tolerance_translation[i],
            )
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(["pair", "n_source", "n_target"])
    rows.writerows(zip(suite.names, map(len, suite.sources), map(len, suite.targets), strict=True))
    with replacing(folder / "MANIFEST.csv") as stream:
        stream.write(table.getvalue().encode())


# -- both ------------------------------------------------------------------------------------------------------


def _check(suite: PairSuite, path: Path) -> None:
    count = len(suite.sources)
    if count == 0 or len(suite.targets) != count or len(suite.names) != count:
        raise InvalidFile(f"{path}: {count} sources, {len(suite.targets)} targets, {len(suite.names)} names")
    if suite.transforms.shape != (count, 4, 4) or suite.transforms.dtype != np.float64:
        got = f"{suite.transforms.dtype} {suite.transforms.shape}"
        raise InvalidFile(f"{path}: `transform` must be float64 ({count}, 4, 4), got {got}")
    for key, clouds in (("source", suite.sources), ("target", suite.targets), ("shape", suite.shapes or [])):
        for name, cloud in zip(suite.names, clouds, strict=False):
            if cloud.ndim != 2 or cloud.shape[1] != 3 or len(cloud) == 0 or cloud.dtype.kind != "f":
                raise InvalidFile(
                    f"{path}: `{key}` of pair {name} must be floating point (points, 3), got {cloud.shape}"
                )
            if not np.isfinite(cloud).all():
                raise InvalidFile(f"{path}: `{key}` of pair {name} holds NaN or infinite coordinates")
    rigid = is_rigid(suite.transforms)
    if not rigid.all():
        first = suite.names[int(np.flatnonzero(~rigid)[0])]
        raise InvalidFile(f"{path}: {int((~rigid).sum())} transforms are not rigid motions, the first is pair {first}")


def _group(name: str) -> str:
    for group, prefixes in _GROUPS.items():
        if name.lower().startswith(prefixes):
            return group
    return "objects"


def _double(matrices: np.ndarray) -> np.ndarray:
    return matrices.astype(np.float64) if matrices.dtype.kind in "fiu" else matrices
