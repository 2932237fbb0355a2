"""One thread for the small tensors of a registration, whatever the machine has, and the caller's number back after.

Its searches of neighbours may be given more.

Threads of OpenMP wait for one another by spinning. On tensors of a thousand rows a second thread gains nothing, and
where another process wants its core, every wait lasts as long as that process may run: milliseconds become seconds.
A process forked after such threads were started waits for them for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deepgmr.errors import InvalidConfig

_lock = threading.Lock()
_mine = threading.local()
_holders = 0
_given = 1  # threads that the first of the holders had
_searching = 1


def set_threads(count: int) -> None:
    """Let every registration of this process search for neighbours with so many threads; one, unless told otherwise.

    The answers are the same to the last bit. Threads that were started make a process slower to share a machine with,
    and a forked child has to do without them: there it is one again. Raises `InvalidConfig` for less than one.
    """
    global _searching
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidConfig(f"the number of threads must be a whole number from 1, got {count!r}")
    _searching = count


def searching() -> int:
    """How many threads search for neighbours."""
    return _searching


if hasattr(os, "register_at_fork"):  # the child has none of its parent's threads, and OpenMP would wait for them
    os.register_at_fork(after_in_child=lambda: set_threads(1))


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch to one thread in this Python thread; usable as a decorator, and within itself.

    torch keeps the number per Python thread, and tells threads that start the one that was set last: a thread that
    finds one while others are inside is given back what the first of them had.
    """
    global _holders, _given
    if getattr(_mine, "inside", False):
        yield
        return
    with _lock:
        before = torch.get_num_threads()
        if _holders == 0:
            _given = before
        elif before == 1:
            before = _given
        _holders += 1
        torch.set_num_threads(1)
    _mine.inside = True
    try:
        yield
    finally:
        _mine.inside = False
        with _lock:
            _holders -= 1
            torch.set_num_threads(before)
