"""Fetch the official archives: resumable, checked, and whole or not at all.

A download grows in `NAME.part`; if it breaks off, the next try asks the server for the rest (HTTP range) and only
if the file there is still the same one. What was fetched is compared with the SHA-256 it should have: one that is
given, or the one recorded in the lock file by the first download of that address. We know of no checksums published
by the authors of these archives, so the first download is trusted and the lock file makes every later one agree.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from deepgmr.errors import InvalidConfig, InvalidFile
from deepgmr.io.disk import replacing

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if the server says

_BLOCK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Archive:
    """Something to fetch, and where its files are once it is unpacked."""

    url: str
    sha256: str | None = None
    note: str = ""


ARCHIVES: dict[str, Archive] = {
    "modelnet40": Archive(
        "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip",
        note="ModelNet40 with 2,048 points a cloud (Qi et al. 2017); academic use, CAD models of their authors",
    ),
}


def fetch(
    url: str,
    folder: str | Path,
    *,
    sha256: str | None = None,
    attempts: int = 5,
    wait: float = 1.0,
    progress: Progress | None = None,
) -> Path:
    """Download `url` into `folder` and return the file.

    A file that is already there and has the expected checksum is not fetched again. The checksum and size of a
    first download are written to `downloads.lock.json` in the folder. Raises `InvalidFile` when the server does not
    deliver (what was fetched stays, for the next call to resume) or when the checksum differs (it is removed).
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InvalidConfig(f"cannot download {url}: give an http or https address")
    if sha256 is not None and (len(sha256) != 64 or not set(sha256.lower()) <= set("0123456789abcdef")):
        raise InvalidConfig(f"`{sha256}` is not a SHA-256: 64 hexadecimal digits")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name or name in (".", ".."):
        raise InvalidConfig(f"cannot tell the name of the file from {url}")
    path, lock = folder / name, folder / "downloads.lock.json"
    known = _locked(lock)
    recorded = known.get(url, {}).get("sha256")
    expected = str(sha256 or recorded).lower() if sha256 or recorded else None
    if path.is_file() and expected is not None and digest(path) == expected:
        return path
    part = _download(url, path.with_name(f"{name}.part"), attempts, wait, progress)
    found = digest(part)
    if expected is not None and found != expected:
        part.unlink()
        _memory(part).unlink(missing_ok=True)
        raise InvalidFile(
            f"{url} has SHA-256 {found}, expected {expected}; the download was removed. Try again; if it stays so, "
            f"the file on the server has changed and {lock.name} (or --sha256) no longer describes it"
        )
    size = part.stat().st_size
    part.replace(path)
    _memory(part).unlink(missing_ok=True)
    known[url] = {"file": name, "sha256": found, "bytes": size}
    with replacing(lock) as stream:
        stream.write(json.dumps(known, indent=2, sort_keys=True).encode() + b"\n")
    return path


def unpack(archive: str | Path, folder: str | Path) -> list[Path]:
    """Unpack a ZIP archive into `folder`: all of it or nothing; returns what is new at the top of the folder.

    Raises `InvalidFile` for a corrupt archive, for names that point outside the folder, and where something of the
    same name is already there.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                place = PurePosixPath(name.replace("\\", "/"))
                if place.is_absolute() or ".." in place.parts:
                    raise InvalidFile(f"{archive} holds `{name}`, which points outside; it was not unpacked")
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking.") as temporary:
                packed.extractall(temporary)  # checks the CRC of every file
                entries = sorted(path for path in Path(temporary).iterdir() if path.name != "__MACOSX")
                taken = [entry.name for entry in entries if (folder / entry.name).exists()]
                if len(taken) == len(entries):  # unpacked before, and what is unpacked is whole
                    return [folder / name for name in taken]
                if taken:
                    raise InvalidFile(f"{folder / taken[0]} is already there; move it away to unpack {archive.name}")
                return [Path(shutil.move(entry, folder / entry.name)) for entry in entries]
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InvalidFile(f"{archive} cannot be unpacked ({error}); delete it and download it again") from error


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: object) -> str:
    total = hashlib.sha256()
    while block := file.read(_BLOCK):  # type: ignore[attr-defined]
        total.update(block)
    return total.hexdigest()


# -- one download ----------------------------------------------------------------------------------------------


def _download(url: str, part: Path, attempts: int, wait: float, progress: Progress | None) -> Path:
    """Fetch into `part`, resuming what is there; up to so many attempts that bring nothing new."""
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            _attempt(url, part, progress)
            return part
        except HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise InvalidFile(f"{url}: the server answers {error.code} {error.reason}") from error
            problem: Exception = error
        except (URLError, HTTPException, OSError) as error:
            problem = error
        grown = part.is_file() and part.stat().st_size > before
        failures = 0 if grown else failures + 1
        if failures >= attempts:
            kept = part.stat().st_size if part.is_file() else 0
            raise InvalidFile(f"{url} broke off after {kept} bytes ({problem}); call again to resume") from problem
        time.sleep(wait * 2 ** max(failures - 1, 0))


def _attempt(url: str, part: Path, progress: Progress | None) -> None:
    have = part.stat().st_size if part.is_file() else 0
    validator = _memory(part).read_text() if have and _memory(part).is_file() else ""
    if not validator:
        have = 0  # without a word on which file this is the beginning of, it cannot be continued
    headers = {"User-Agent": "deepgmr", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total.isdigit() and int(total) == have:
            return  # it was complete
        part.unlink()
        raise URLError("the server has a shorter file now; starting over") from error
    with response:
        resumed = response.status == 206
        if resumed and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            part.unlink()
            raise URLError("the server sent another range than was asked for; starting over")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total_bytes = have + int(length) if length is not None else None
        if not resumed:
            # A weak ETag does not promise the same bytes; a date is the next best.
            tag = response.headers.get("ETag") or ""
            _memory(part).write_text(
                tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified") or ""
            )
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total_bytes)
    if total_bytes is not None and have < total_bytes:
        raise URLError(f"the connection closed at {have} of {total_bytes} bytes")


def _memory(part: Path) -> Path:
    """Where the validator (ETag or date) of a partial download is kept."""
    return part.with_name(f"{part.name}.validator")


def _locked(lock: Path) -> dict[str, dict[str, object]]:
    if not lock.is_file():
        return {}
    try:
        known = json.loads(lock.read_text())
        if isinstance(known, dict) and all(isinstance(entry, dict) for entry in known.values()):
            return known
    except ValueError:
        pass
    raise InvalidFile(f"{lock} is not a lock file of downloads; mend or delete it")
