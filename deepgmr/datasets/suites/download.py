"""Fetch the official archives: resumable, checked, and whole or not at all.

pooch fetches and checks; what it cannot do is go on where a download broke off, so it is given a downloader that can.
A download grows in `NAME.part`, and the next try asks the server for the rest (HTTP range), if the file there is still
the same one. What was fetched must have the SHA-256 that is given, or the one recorded in the lock file by the first
download of that address. We know of no checksums published by the authors of these archives, so the first download is
trusted and the lock file makes every later one agree.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from deepgmr.errors import InvalidConfig, InvalidFile
from deepgmr.extras import extra
from deepgmr.io.disk import reason, replacing, writing

if TYPE_CHECKING:
    import requests

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if the server says

_BLOCK = 1 << 16  # bytes; those of the last block are lost when a connection breaks
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
    deliver (what was fetched stays, for the next call to resume), when the checksum differs (it is removed), or for a
    file of that name without a known checksum; `MissingDependency` without pooch.
    """
    pooch = extra("pooch", "download", f"fetching {url}")
    pooch.get_logger().setLevel("WARNING")
    if urlsplit(url).scheme not in ("http", "https"):
        raise InvalidConfig(f"cannot download {url}: give an http or https address")
    if sha256 is not None and (len(sha256) != 64 or not set(sha256.lower()) <= set("0123456789abcdef")):
        raise InvalidConfig(f"`{sha256}` is not a SHA-256: 64 hexadecimal digits")
    folder = Path(folder)
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name or name in (".", ".."):
        raise InvalidConfig(f"cannot tell the name of the file from {url}")
    path, lock = folder / name, folder / "downloads.lock.json"
    known = _locked(lock)
    expected = sha256 or known.get(url, {}).get("sha256")
    if expected is None and path.exists():
        raise InvalidFile(
            f"{path} is already there, and nothing says what it should hold; move it away or give its SHA-256"
        )

    def download(url: str, place: str, _: object) -> None:
        _download(url, path.with_name(f"{name}.part"), attempts, wait, progress).replace(place)

    digest = expected and f"sha256:{expected}".lower()
    try:
        with writing(path):
            pooch.retrieve(url, digest, fname=name, path=folder, downloader=download)
    except ValueError as error:
        if isinstance(error, InvalidFile):
            raise
        raise InvalidFile(
            f"{url}: {error} Try again; if it stays so, the file on the server has changed and {lock.name} "
            "(or --sha256) no longer describes it"
        ) from error
    if url not in known or known[url]["sha256"] != expected:
        known[url] = {"file": name, "sha256": pooch.file_hash(str(path)), "bytes": path.stat().st_size}
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


# -- one download ----------------------------------------------------------------------------------------------


def _download(url: str, part: Path, attempts: int, wait: float, progress: Progress | None) -> Path:
    """Fetch into `part`, resuming what is there; up to so many attempts that bring nothing new."""
    from requests import RequestException

    failures = 0
    while True:
        before = _size(part)
        try:
            _attempt(url, part, progress)
            _memory(part).unlink(missing_ok=True)
            return part
        except (RequestException, OSError) as error:
            response: requests.Response | None = getattr(error, "response", None)
            if response is not None and response.status_code < 500 and response.status_code not in (408, 416, 429):
                raise InvalidFile(f"{url}: the server answers {response.status_code} {response.reason}") from error
            problem = error
        failures = 0 if _size(part) > before else failures + 1
        if failures >= attempts:
            raise InvalidFile(
                f"{url} broke off after {_size(part)} bytes ({reason(problem)}); call again to resume"
            ) from problem
        time.sleep(wait * 2 ** max(failures - 1, 0))


def _attempt(url: str, part: Path, progress: Progress | None) -> None:
    import requests

    # Without a word on which file this is the beginning of, it cannot be continued.
    validator = _memory(part).read_text() if part.is_file() and _memory(part).is_file() else ""
    have = _size(part) if validator else 0
    headers = {"User-Agent": "deepgmr", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        sent = response.headers.get("Content-Range") or ""
        if response.status_code == 416 and sent.rpartition("/")[2] == str(have):
            return  # it was complete
        resumed = response.status_code == 206
        if response.status_code == 416 or (resumed and not sent.startswith(f"bytes {have}-")):
            part.unlink()
            raise requests.RequestException("the server has another file or range now; starting over")
        response.raise_for_status()
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        if not resumed:
            # A weak ETag does not promise the same bytes; a date is the next best.
            tag = response.headers.get("ETag") or ""
            _memory(part).write_text(
                tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified") or ""
            )
        with part.open("ab" if resumed else "wb") as file:
            for block in response.iter_content(_BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


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
