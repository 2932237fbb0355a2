"""Paths and URLs alike: what lies at an address as a file of this machine, and bytes written there whole or not at all.

URLs are those that fsspec knows (s3://, gs://, https://, ...); a path needs no fsspec.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from deepgmr.errors import InvalidFile
from deepgmr.extras import extra
from deepgmr.io.disk import reason, replacing, writing


def is_url(address: str) -> bool:
    """Whether an address is not simply a path."""
    return "://" in address and not address.startswith("file://")


def local_path(address: str) -> Path:
    """The path that an address is, `file://` or not."""
    return Path(address.removeprefix("file://"))


def beneath(address: str, name: str) -> str:
    """What has this name in the folder at an address."""
    return f"{address.rstrip('/')}/{name}" if is_url(address) else str(local_path(address) / name)


def local_copy(address: str, folder: str | Path, *, fresh: bool = False) -> Path:
    """A path as it is, or the copy in `folder` of what a URL names, fetched unless it is there. Raises `InvalidFile`.

    Several processes may fetch the same at once: each writes its own, and the last one stays. `fresh` fetches it anew.
    """
    if not is_url(address):
        return local_path(address)
    named = hashlib.sha256(address.encode()).hexdigest()[:32]
    kept = Path(folder) / f"{named}{Path(address.partition('?')[0]).suffix}"
    if fresh or not kept.is_file():
        try:
            with writing(kept):
                kept.parent.mkdir(parents=True, exist_ok=True)
            with extra("fsspec", "bulk", "fetching files").open(address, "rb") as stream, replacing(kept) as copy:
                shutil.copyfileobj(stream, copy)
        except (OSError, ValueError, ImportError) as error:
            if isinstance(error, InvalidFile):
                raise
            raise InvalidFile(f"{address}: cannot be fetched ({reason(error)[:200]}); check the address") from None
    return kept


def cache_folder() -> Path:
    """Where this machine keeps what it fetched for good: $XDG_CACHE_HOME/deepgmr, by default ~/.cache/deepgmr."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "deepgmr")


def names_in(address: str) -> list[str]:
    """The names of the files of a folder, sorted. Raises `InvalidFile`."""
    try:
        if not is_url(address):
            return sorted(path.name for path in local_path(address).iterdir() if path.is_file())
        fs, place = extra("fsspec", "bulk", "listing folders").core.url_to_fs(address)
        found = fs.ls(place, detail=True)
        return sorted(item["name"].rstrip("/").rpartition("/")[2] for item in found if item["type"] == "file")
    except (OSError, ValueError, ImportError) as error:
        raise InvalidFile(f"{address}: is no folder that can be listed ({reason(error)[:200]})") from None


def exists(address: str) -> bool:
    """Whether there is a file at an address. Raises `InvalidFile` where that cannot be found out."""
    if not is_url(address):
        return local_path(address).exists()
    try:
        fs, place = extra("fsspec", "bulk", "looking for files").core.url_to_fs(address)
        return bool(fs.exists(place))
    except (OSError, ValueError, ImportError) as error:
        raise InvalidFile(f"{address}: cannot be looked at ({reason(error)[:200]}); check the address") from None


def write_bytes(address: str, content: bytes) -> None:
    """Write a file whole or not at all: by a rename, or by an object store's own rule. Raises `InvalidFile`."""
    if not is_url(address):
        path = local_path(address)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            stream.write(content)
        return
    try:
        fs, place = extra("fsspec", "bulk", "writing files").core.url_to_fs(address)
        fs.makedirs(fs._parent(place), exist_ok=True)
        fs.pipe_file(place, content)
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        raise InvalidFile(f"{address}: could not be written ({reason(error)[:200]})") from None
