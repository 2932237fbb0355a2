"""Silence around the libraries that read files: what is wrong with a file is said once, by the error."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_PROCESS = threading.Lock()  # of what belongs to the whole process: two threads would put each other's silence back


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Within, a library's log reaches only handlers the program has set up, and absurd numbers raise no warning.

    A log without any handler is printed on stderr, so it gets one that does nothing, for as long as the call lasts.
    """
    logger, handler = logging.getLogger(library), logging.NullHandler()
    logger.addHandler(handler)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Within, no warning is shown: for what Python says about source that a damaged file makes it read."""
    with _PROCESS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def quiet_descriptor() -> Iterator[None]:
    """Within, nothing written on file descriptor 2 is seen: a panic in Rust prints there whoever catches it."""
    with _PROCESS:
        try:
            saved = os.dup(2)
        except OSError:  # closed: there is nobody to spare
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
