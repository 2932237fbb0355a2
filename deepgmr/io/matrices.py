"""Motions on disk: 4 rows of 4 numbers as text, or the same in NPY or JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.io.arrays import checked_array
from deepgmr.io.disk import check_readable, reason, replacing

KEYS = ("target_from_source", "transform", "transformation", "matrix", "T")


def read_transform(path: str | Path, *, similar: bool = False) -> np.ndarray:
    """A (4, 4) float64 rigid motion from text (as numpy.savetxt writes it), NPY or JSON (as `register --json` prints).

    If `similar` it may scale as well.

    Raises InvalidFile where there are no numbers to read, InvalidTransform where they are no rigid motion.
    """
    path = Path(path)
    size = check_readable(path)
    try:
        with path.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                stream.seek(0)
                values: Any = checked_array(path, stream, size)
            else:
                if size > 1 << 20:
                    raise InvalidFile(f"{path}: has {size:,} bytes, too many for a 4x4 matrix; give the motion's file")
                stream.seek(0)
                values = _parsed(path, stream.read().decode("utf-8-sig"))
        matrix = np.array(values, dtype=np.float64)
    except UnicodeDecodeError:
        raise InvalidFile(f"{path}: is not text; a motion is 4 lines of 4 numbers") from None
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, InvalidFile):
            raise
        raise InvalidFile(f"{path}: cannot be read as 4 rows of 4 numbers ({reason(error)[:100]})") from None
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({reason(error)}); check the path and its permissions") from None
    # here: torch takes long to import, and most files are clouds
    from deepgmr.geometry.transform import rigid_matrix, similarity_matrix

    return (similarity_matrix if similar else rigid_matrix)(matrix, str(path))


def _parsed(path: Path, text: str) -> Any:
    if text.lstrip()[:1] in ("{", "["):
        try:
            content = json.loads(text)
            if isinstance(content, dict):
                key = next((name for name in KEYS if name in content), None)
                if key is None:
                    raise InvalidFile(
                        f"{path}: the JSON has no key {' or '.join(KEYS[:3])}; store the matrix under one"
                    )
                content = content[key]
            return content
        except (json.JSONDecodeError, RecursionError):
            pass  # numpy.array2string begins with a bracket too
    rows = [re.sub(r"[\[\],;]", " ", line).split() for line in re.sub(r"(?m)#.*$", "", text).splitlines()]
    numbers = [[float(token) for token in row] for row in rows if row]
    flat = [number for row in numbers for number in row]
    # numpy.array2string may break a row over two lines; its brackets say that the 16 numbers are one matrix
    return [flat[i : i + 4] for i in range(0, 16, 4)] if text.count("]") == 5 and len(flat) == 16 else numbers


def write_transform(path: str | Path, target_from_source: np.ndarray) -> None:
    """Write a (4, 4) motion or similarity with every digit, by suffix: .npy, .json, else as text. Whole or not at all."""
    from deepgmr.geometry.transform import similarity_matrix  # here, as above

    path = Path(path)
    matrix = similarity_matrix(target_from_source, str(path))
    with replacing(path) as stream:
        if path.suffix.lower() == ".npy":
            np.save(stream, matrix, allow_pickle=False)
        elif path.suffix.lower() == ".json":
            stream.write((json.dumps({"target_from_source": matrix.tolist()}, indent=2) + "\n").encode())
        else:
            stream.write(matrix_text(matrix).encode())


def matrix_text(matrix: np.ndarray) -> str:
    """Four lines of four numbers that numpy.loadtxt gives back bit for bit."""
    return "".join(" ".join(f"{value:.18e}" for value in row) + "\n" for row in matrix.tolist())
