"""ModelNet40 in its official HDF5 layout: `ply_data_{train,test}*.h5` with their lists and category names.

Each file holds `data` (n, points, 3) float32, mean-centred and inside the unit sphere, and `label` (n, 1). The
official archive has 2,048 points a cloud; smaller copies have 1,024. The number is read from the files.

91 of the 2,468 official test clouds are byte-identical to a training cloud. `drop_duplicates` leaves them out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepgmr.datasets.suites.hdf5 import open_hdf5, read_dataset
from deepgmr.errors import InvalidConfig, InvalidFile

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class ModelNet:
    """Clouds of one split with their categories."""

    points: np.ndarray  # (n, N, 3) float32
    labels: np.ndarray  # (n,) int64
    categories: tuple[str, ...]  # name of each label
    split: str
    duplicates: int | None = None  # test clouds left out because they are training clouds; None if not looked for

    def __len__(self) -> int:
        return len(self.points)


def read_modelnet(
    root: str | Path,
    split: str = "train",
    *,
    points: int | None = None,
    categories: int | Sequence[str] | None = None,
    drop_duplicates: bool = False,
) -> ModelNet:
    """Read one split.

    `root` is the folder with the files, or the one above it. `points` keeps the first so many of each cloud (they
    are stored in random order). `categories` keeps the first so many, as in the unseen-category protocol, or the
    named ones. `drop_duplicates` removes the test clouds that are byte-identical to any training cloud (compared
    over all their stored points) and counts them.

    Raises `InvalidFile` for a folder or file that is not in the official layout, `InvalidConfig` for an unknown
    split or category, or for more points than are stored.
    """
    if split not in SPLITS:
        raise InvalidConfig(f"unknown split `{split}`; ModelNet40 has {' and '.join(SPLITS)}")
    folder = find_modelnet(root)
    names = _category_names(folder)
    chosen = _chosen(names, categories)
    clouds, labels = _read_split(folder, split, len(names))
    if points is not None and not 1 <= points <= clouds.shape[1]:
        raise InvalidConfig(f"asked for {points} points a cloud, but {folder} stores {clouds.shape[1]}")
    keep = np.isin(labels, chosen)
    duplicates = None
    if drop_duplicates and split == "test":
        known = {digest for file in _files(folder, "train") for digest in _digests(_read_file(file, len(names))[0])}
        same = np.array([digest in known for digest in _digests(clouds)])
        duplicates = int((same & keep).sum())
        keep &= ~same
    return ModelNet(
        points=np.ascontiguousarray(clouds[keep, :points]),
        labels=labels[keep],
        categories=names,
        split=split,
        duplicates=duplicates,
    )


def is_modelnet(root: str | Path) -> bool:
    """Whether a folder holds ModelNet40's files, itself or in a folder inside it."""
    root = Path(root)
    return root.is_dir() and (any(root.glob("ply_data_test*.h5")) or any(root.glob("*/ply_data_test*.h5")))


def find_modelnet(root: str | Path) -> Path:
    """The folder with the official files: `root`, or the one folder inside it that has them."""
    root = Path(root)
    if not root.is_dir():
        raise InvalidFile(f"no such folder: {root}; it should hold ModelNet40's ply_data_train*.h5 files")
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    for folder in candidates:
        if any(folder.glob("ply_data_*.h5")):
            return folder
    raise InvalidFile(f"{root} holds no ply_data_*.h5; give the folder of ModelNet40 in its HDF5 layout")


def _category_names(folder: Path) -> tuple[str, ...]:
    listing = folder / "shape_names.txt"
    if not listing.is_file():
        raise InvalidFile(f"{folder} has no shape_names.txt with the names of the categories")
    names = tuple(line.strip() for line in listing.read_text().splitlines() if line.strip())
    if not names or len(set(names)) != len(names):
        raise InvalidFile(f"{listing} must name each category once, one a line")
    return names


def _chosen(names: tuple[str, ...], categories: int | Sequence[str] | None) -> np.ndarray:
    if categories is None:
        return np.arange(len(names))
    if isinstance(categories, int):
        if not 1 <= categories <= len(names):
            raise InvalidConfig(f"cannot keep the first {categories} of {len(names)} categories")
        return np.arange(categories)
    unknown = [name for name in categories if name not in names]
    if unknown or not categories:
        raise InvalidConfig(f"unknown categories {unknown}; ModelNet40 has {', '.join(names)}")
    return np.array([names.index(name) for name in categories])


def _files(folder: Path, split: str) -> list[Path]:
    """The files of a split: as listed in `train_files.txt` (only their names count), or else by pattern."""
    listing = folder / f"{split}_files.txt"
    if listing.is_file():
        lines = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
        files = [folder / line.replace("\\", "/").rsplit("/", 1)[-1] for line in lines]
    else:
        files = sorted(folder.glob(f"ply_data_{split}*.h5"))
    if not files:
        raise InvalidFile(f"{folder} has no {split} files (ply_data_{split}*.h5)")
    return files


def _read_split(folder: Path, split: str, categories: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [_read_file(file, categories) for file in _files(folder, split)]
    sizes = {clouds.shape[1] for clouds, _ in parts}
    if len(sizes) != 1:
        raise InvalidFile(f"the {split} files in {folder} store different numbers of points: {sorted(sizes)}")
    return np.concatenate([clouds for clouds, _ in parts]), np.concatenate([labels for _, labels in parts])


def _read_file(path: Path, categories: int) -> tuple[np.ndarray, np.ndarray]:
    with open_hdf5(path) as file:
        clouds, labels = read_dataset(file, "data", path), read_dataset(file, "label", path)
    if clouds.ndim != 3 or clouds.shape[-1] != 3 or clouds.dtype.kind != "f" or 0 in clouds.shape:
        raise InvalidFile(f"{path}: `data` must be float (clouds, points, 3), got {clouds.dtype} {clouds.shape}")
    if labels.size != len(clouds) or labels.dtype.kind not in "iu":
        raise InvalidFile(f"{path}: `label` must hold {len(clouds)} integers, got {labels.dtype} {labels.shape}")
    labels = labels.reshape(-1).astype(np.int64)
    if labels.min() < 0 or labels.max() >= categories:
        raise InvalidFile(f"{path}: labels reach {labels.max()}, but shape_names.txt names {categories} categories")
    if not np.isfinite(clouds).all():
        raise InvalidFile(f"{path}: `data` holds NaN or infinite coordinates")
    return clouds.astype(np.float32, copy=False), labels


def _digests(clouds: np.ndarray) -> Iterable[bytes]:
    for cloud in clouds:
        yield hashlib.blake2b(np.ascontiguousarray(cloud).tobytes(), digest_size=16).digest()
