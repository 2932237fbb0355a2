"""Where pairs are answered: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from deepgmr.bulk.node import Node
from deepgmr.bulk.pairs import Ask
from deepgmr.bulk.parts import Parts
from deepgmr.bulk.work import answered
from deepgmr.extras import extra

ENGINES = ("local", "ray")
_KEPT = 256  # answers that a part holds at most ...
_OFTEN, _SHARE = 2.0, 0.02  # ... and seconds that go by without one, with this share of those since the start

Told = Callable[[str], Any]  # the status of a pair that is answered and kept


def local(node: Node, asks: Sequence[Ask], parts: Parts, told: Told, *, workers: int, limit: float) -> None:
    """On this machine, in so many processes."""
    rows: list[dict[str, Any]] = []
    start = last = time.monotonic()
    try:
        for row in answered(node, asks, workers=workers, limit=limit):
            rows.append(row)
            now = time.monotonic()
            if len(rows) >= _KEPT or now - last > _OFTEN + _SHARE * (now - start):
                _keep(rows, parts, told)
                last = now
    finally:
        _keep(rows, parts, told)


def on_ray(
    node: Node,
    asks: Sequence[Ask],
    parts: Parts,
    told: Told,
    *,
    workers: int,
    limit: float,
    address: str | None,
    chunk: int,
) -> None:
    """On a Ray cluster: the one at `address` or named by RAY_ADDRESS, else one of this machine that is started for it.

    Ray Data hands chunks of pairs to actors, and again to others where an actor or its machine dies. Each keeps what it
    has answered itself, so that nothing but ids and statuses comes back.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
    ray = extra("ray", "ray", "the engine ray")
    data = extra("ray.data", "ray", "the engine ray")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        table = data.from_items([{"ask": ask.to_json()} for ask in asks], override_num_blocks=-(-len(asks) // chunk))
        found = table.map_batches(
            _Actor,
            fn_constructor_args=(node, parts, limit),
            batch_size=chunk,
            compute=data.ActorPoolStrategy(size=workers),
            num_cpus=1,
        )
        for row in found.iter_rows():
            told(row["status"])
    finally:
        if started:
            ray.shutdown()


class _Actor:
    """A worker of Ray, with one process beside it that a pair may take down."""

    def __init__(self, node: Node, parts: Parts, limit: float) -> None:
        self._node, self._parts, self._limit = node, parts, limit

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        asks, statuses = [Ask.from_json(text) for text in batch["ask"]], list[str]()
        local(self._node, asks, self._parts, statuses.append, workers=1, limit=self._limit)
        return {"status": statuses}


def _keep(rows: list[dict[str, Any]], parts: Parts, told: Told) -> None:
    parts.write(rows)
    for row in rows:
        told(row["status"])
    rows.clear()
