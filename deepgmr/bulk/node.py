"""A machine that registers: what it fetches, and the maps that all of its workers share."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepgmr.errors import InvalidCheckpoint
from deepgmr.io.addresses import local_copy
from deepgmr.pipeline.answer import Registration
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.scan import Scan, fingerprint


@dataclass(frozen=True)
class Node:
    """A registrar by name, made where it is asked; clouds that many pairs share are prepared once a machine.

    What is fetched and prepared lies in `folder`, by content of name, size, time and settings; one that is damaged is made
    again. The workers of a machine may write the same file at once: each writes its own and the last one stays.
    """

    bundle: str
    preset: str
    folder: str
    shared: frozenset[str]  # the clouds of several pairs

    @property
    def register(self) -> Callable[..., Registration]:
        return self.registrar.register

    @property
    def registrar(self) -> Registrar:
        return Registrar.load(self.bundle, preset=self.preset)

    def prepare(self, cloud: Any, *, role: str, drop_invalid: bool = False, seed: int = 0) -> Scan:
        """Raises `InvalidCloud` or `InvalidFile`."""
        path = self.local(str(cloud))
        make = functools.partial(self.registrar.prepare, path, role=role, drop_invalid=drop_invalid, seed=seed)
        if str(cloud) not in self.shared or not path.is_file():
            return make()
        about, front_end = path.stat(), fingerprint(self.registrar.settings.scan)
        known = f"{path} {about.st_size} {about.st_mtime_ns} {drop_invalid} {seed} {front_end}"
        kept = self._folder / f"{_name(known)}.scan.safetensors"
        if kept.is_file():
            try:
                return Scan.load(kept)
            except InvalidCheckpoint:
                pass  # it is made again
        scan = make()
        scan.save(kept)
        return scan

    @property
    def _folder(self) -> Path:
        place = Path(self.folder)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def local(self, cloud: str) -> Path:
        """A path as it is, or the copy on this machine of what a URL names. Raises `InvalidFile`."""
        return local_copy(cloud, self._folder)


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
