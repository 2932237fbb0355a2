"""Register point clouds by matching Gaussian mixtures. The public list is `__init__.pyi`; loaded when first used."""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# The lines of the stub are `from HOME import NAME as NAME`; the loader finds it in an archive too.
_STUB = __spec__.loader.get_data(f"{__path__[0]}/__init__.pyi").decode()
_HOME = {words[3]: words[1] for words in map(str.split, _STUB.splitlines()) if words[:1] == ["from"]}

__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'deepgmr' has no attribute {name!r}")
    if _HOME[name] == ".":
        return import_module(f".{name}", __name__)
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
