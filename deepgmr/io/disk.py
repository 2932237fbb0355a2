"""The disk at the boundary: what may be read, where may be written, and writing whole files or nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from deepgmr.errors import InvalidFile

PLENTY = 1 << 27  # bytes that any file may become in memory ...
EXPANSION = 40  # ... beyond which it becomes no more than so many times its size, unless it is made to do harm


def check_growth(path: Path, need: int, size: int | None = None) -> None:
    """Raise InvalidFile if what a file promises is out of all proportion to its `size`: a bomb, or damage."""
    size = path.stat().st_size if size is None else size
    if need > max(PLENTY, EXPANSION * size):
        raise InvalidFile(
            f"{path}: promises {need:,} bytes in a file of {size:,}, and no cloud packs so well; it is damaged or made to "
            "fill the memory. If it is sound, unpack it first"
        )


def check_readable(path: Path) -> int:
    """The size in bytes of a regular, non-empty, readable file; anything else raises InvalidFile."""
    try:
        if path.is_dir():
            raise InvalidFile(f"{path}: is a directory; give the path of a file")
        if not path.exists():
            hint = "" if path.parent.is_dir() else f" (there is no folder {path.parent})"
            raise InvalidFile(f"{path}: no such file{hint}; check the path")
        if not path.is_file():
            raise InvalidFile(f"{path}: is not a regular file; save the data to a file first")
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidFile):
            raise
        raise InvalidFile(f"{path}: cannot be read ({reason(error)}); check the path and its permissions") from None
    if size == 0:
        raise InvalidFile(f"{path}: is empty (0 bytes); export it again")
    return size


def check_writable(path: Path) -> None:
    """Raise InvalidFile unless a file can be created (or replaced) at `path`; leaves nothing behind."""
    try:
        place = Path(os.path.realpath(path))
        if place.is_dir():
            raise InvalidFile(f"{path}: is a directory; give the path of the file to write")
        if place.exists() and not place.is_file():
            raise InvalidFile(f"{path}: is not a regular file; give the path of a file to write")
        if not place.parent.is_dir():
            raise InvalidFile(f"{path}: cannot be written, there is no folder {place.parent}; create it first")
        if place.exists() and not os.access(place, os.W_OK):
            raise InvalidFile(f"{path}: cannot be replaced, it is write-protected; choose another path")
        trial = _beside(place)
        with trial.open("xb"):
            pass
        trial.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidFile):
            raise
        raise InvalidFile(f"{path}: cannot be written ({reason(error)}); choose another folder") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, what the system says against writing (a full disk, most often) becomes an InvalidFile that names `path`."""
    try:
        yield
    except OSError as error:
        raise InvalidFile(
            f"{path}: could not be written ({reason(error)}); make room or choose another folder"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream that becomes the file at `path` only once everything was written; on any failure nothing remains.

    The bytes go to a temporary file in the same folder, which is then renamed in one step.
    """
    check_writable(path)
    place = Path(os.path.realpath(path))  # through a link, so that the link stays one
    temporary = _beside(place)
    try:
        with writing(path):
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(place)
            _settle(place.parent)
    finally:
        with suppress(OSError):  # where the disk is gone, there is nothing to tidy and an error to report already
            temporary.unlink(missing_ok=True)


def reason(error: Exception) -> str:
    """What the system said, in a few words on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _settle(folder: Path) -> None:
    """Have the disk keep a new name, too, through a loss of power; where folders cannot be asked to, nothing is lost."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name[:80]}.{secrets.token_hex(4)}.part")
