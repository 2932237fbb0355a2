"""A pair of a batch: clouds that come again are prepared once, and one that cannot be answered costs itself alone."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deepgmr.pipeline.answer import Failure, Registration
from deepgmr.pipeline.clouds import as_points
from deepgmr.pipeline.scan import Scan

Result = Registration | Failure

_SHELVED = 8  # prepared clouds that a process holds on to
_OF_CLOUDS = ("seed", "drop_invalid")  # options that what is prepared depends on


class Registering(Protocol):
    """What a batch asks of a `Registrar`."""

    def prepare(self, cloud: Any, *, role: str, drop_invalid: bool = False, seed: int = 0) -> Scan: ...

    @property
    def register(self) -> Callable[..., Registration]: ...


@dataclass(frozen=True, eq=False)
class Given:
    """A cloud of a pair, and the key that tells it from others: by its content, since a caller may use arrays again."""

    role: str
    key: str
    cloud: Any  # checked points (N, 3) of its own, a path or a `Scan`

    @classmethod
    def of(cls, role: str, cloud: Any, options: Mapping[str, Any], *, copied: bool) -> Given:
        """Raises `InvalidCloud`. With `copied` the caller may change the cloud afterwards."""
        how = {name: options[name] for name in _OF_CLOUDS if name in options}
        if isinstance(cloud, Scan):
            numbers = cloud.settings, cloud.size, cloud.radius, cloud.total, cloud.far, cloud.coarse, cloud.heaps.step
            content = _digest(cloud.origin, cloud.heaps.sums, cloud.heaps.counts)
            return cls(role, f"scan {content} {numbers}", cloud)
        if isinstance(cloud, str | Path):
            path = Path(cloud).absolute()
            about = path.stat() if path.exists() else None
            when = (about.st_mtime_ns, about.st_size) if about else None
            return cls(role, f"file {path} {when} {sorted(how.items())}", cloud)
        points = as_points(cloud, name=role, **how)
        if copied:
            points = np.array(points)
        return cls(role, f"points {points.dtype} {points.shape} {_digest(points)}", points)


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Job:
    """A pair to be registered."""

    number: int
    clouds: tuple[Given, ...]  # the source and the target
    options: Mapping[str, Any]

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(given.key for given in self.clouds)


class Shelf:
    """The clouds that were prepared last."""

    def __init__(self, registrar: Registering) -> None:
        self.registrar = registrar
        self._scans: OrderedDict[str, Scan] = OrderedDict()

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self._scans)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those that are not on the shelf; those that are stay there for the next pair."""
        for key in self.keys.intersection(keys):
            self._scans.move_to_end(key)
        return [key for key in keys if key not in self._scans]

    def scan(self, given: Given, options: Mapping[str, Any]) -> Scan:
        """Raises `InvalidCloud` or `InvalidFile`."""
        how = {name: options[name] for name in _OF_CLOUDS if name in options}
        if given.key not in self._scans:
            self._scans[given.key] = self.registrar.prepare(given.cloud, role=given.role, **how)
        self._scans.move_to_end(given.key)
        while len(self._scans) > _SHELVED:
            self._scans.popitem(last=False)
        return self._scans[given.key]

    def answer(self, job: Job) -> Result:
        """What `register` answers; whatever it raises is the answer, too."""
        try:
            source, target = (self.scan(given, job.options) for given in job.clouds)
            return self.registrar.register(source, target, **job.options)
        except Exception as error:  # whatever it is, it is this pair's alone
            return Failure(error.with_traceback(None))
