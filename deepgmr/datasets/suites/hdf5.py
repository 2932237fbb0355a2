"""Reading HDF5 files with errors that name the file, the key and what is there instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.extras import extra

if TYPE_CHECKING:
    import h5py


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; `InvalidFile` when it is missing, truncated, or something else."""
    if not path.is_file():
        raise InvalidFile(f"no such file: {path}")
    h5py = extra("h5py", "evaluate", f"{path}: reading HDF5")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InvalidFile(f"{path} is not a readable HDF5 file ({error}); is the download complete?") from error
    with file:
        yield file


def read_dataset(file: h5py.File, key: str, path: Path) -> np.ndarray:
    """One dataset in full; `InvalidFile` names the key and what the file has instead."""
    if key not in file or not hasattr(file[key], "shape"):
        raise InvalidFile(f"{path} has no dataset `{key}`; it holds {sorted(file)}")
    try:
        return np.asarray(file[key][...])
    except (OSError, ValueError) as error:
        raise InvalidFile(f"{path}: dataset `{key}` cannot be read ({error}); is the download complete?") from error


def decoded(column: np.ndarray) -> list[str]:
    """The strings of a dataset, whatever their shape and kind."""

    def text(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    return [text(value) for value in column.reshape(-1)]
