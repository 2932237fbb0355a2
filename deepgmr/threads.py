"""One thread for the small tensors of a registration, whatever the machine has, and the caller's number back after.

Threads of OpenMP wait for one another by spinning. On tensors of a thousand rows a second thread gains nothing, and
where another process wants its core, every wait lasts as long as that process may run: milliseconds become seconds.
A process forked after such threads were started waits for them for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_mine = threading.local()
_holders = 0
_given = 1  # threads that the first of the holders had


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
