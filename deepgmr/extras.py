"""Libraries that not everyone needs: imported where they are used, or a `MissingDependency` that says how to get them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from deepgmr.errors import MissingDependency


def extra(library: str, name: str, purpose: str) -> Any:
    """The library that comes with the extra `deepgmr[name]`; `purpose` begins the message where it is missing."""
    try:
        return import_module(library)
    except ImportError as error:
        raise MissingDependency(f'{purpose} needs {library}; install it with: pip install "deepgmr[{name}]"') from error
