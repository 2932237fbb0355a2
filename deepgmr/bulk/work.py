"""Some pairs answered by processes of their own: what every engine does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from deepgmr.bulk.node import Node
from deepgmr.bulk.pairs import Ask
from deepgmr.bulk.parts import row_of
from deepgmr.errors import WorkerDied
from deepgmr.pipeline.answer import Failure
from deepgmr.pipeline.batch import jobs
from deepgmr.pipeline.workers import spread

LIMIT = 300.0  # seconds after which a pair is given up


def answered(node: Node, asks: Sequence[Ask], *, workers: int, limit: float) -> Iterator[dict[str, Any]]:
    """A row a pair, as they come. One whose process died is tried once more, alone: it may have died for another's sake."""
    again = []
    for ask, row, failed in _answered(node, asks, workers, limit):
        if failed:
            again.append(ask)
        else:
            yield row
    for ask in again:
        for _, row, _ in _answered(node, [ask], 1, limit):
            yield row


def _answered(
    node: Node, asks: Sequence[Ask], workers: int, limit: float
) -> Iterator[tuple[Ask, dict[str, Any], bool]]:
    pairs = [(ask.source, ask.target, ask.options) for ask in asks]
    before = time.perf_counter()
    for number, result in spread(node, jobs(node, pairs, {}, copied=False), workers, limit=limit):
        died = isinstance(result, Failure) and isinstance(result.error, WorkerDied)
        now = time.perf_counter()
        spent = now - before if isinstance(result, Failure) else sum(result.stats.milliseconds.values()) / 1e3
        before = now
        yield asks[number], row_of(asks[number].id, result, spent), died
