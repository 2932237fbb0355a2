"""The disk at the boundary: what may be read, where may be written, and writing whole files or nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from deepgmr.errors import InvalidFile

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PLENTY = 1 << 27  # bytes that any file may become in memory ...
WRITERS = 20  # of one path at a time whose temporary files are found again, should they die
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
        with _claimed(place):
            pass
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

    The bytes go to a temporary file in the same folder, which is then renamed in one step. Of a writer that was killed
    it stays, until the path is written again.
    """
    check_writable(path)
    place = Path(os.path.realpath(path))  # through a link, so that the link stays one
    with writing(path), _claimed(place) as temporary:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(place)
        _settle(place.parent)


@contextmanager
def _claimed(place: Path) -> Iterator[Path]:
    """A new file beside `place`, renamed within or gone afterwards, that no other writer takes or tidies away.

    Each of several writers holds a lock on its own, which the system lets go when they die; what is not locked is
    litter. Where there are no locks the name is one that nobody else draws, and litter stays.
    """
    names = [_beside(place, str(number)) for number in range(WRITERS if fcntl else 0)]
    for name in names:
        _tidy(name)
    for temporary in names:
        handle = _taken(temporary)
        if handle is not None:
            break
    else:
        temporary, handle = _beside(place), None
        with temporary.open("xb"):
            pass
    try:
        yield temporary
    finally:
        with suppress(OSError):  # where the disk is gone, there is nothing to tidy and an error to report already
            if handle is None or os.path.samestat(os.fstat(handle), temporary.lstat()):  # renamed, it may be another's
                temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _taken(temporary: Path) -> int | None:
    """A handle of a new file that is locked; None where another writer has it, or nothing can be locked."""
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None
    try:
        if _locked(handle, temporary):  # else one who tidies was faster
            return handle
    except OSError:
        temporary.unlink(missing_ok=True)
    os.close(handle)
    return None


def _tidy(temporary: Path) -> None:
    """Remove what a writer left that is no more."""
    with suppress(OSError):
        handle = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if _locked(handle, temporary):
                temporary.unlink()
        finally:
            os.close(handle)


def _locked(handle: int, path: Path) -> bool:
    """Whether an open file could be locked, and is still the one at `path`; OSError where nothing can be locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


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


def _beside(place: Path, name: str = "") -> Path:
    return place.with_name(f".{place.name[:80]}.{name or secrets.token_hex(4)}.part")
