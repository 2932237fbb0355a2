"""Frozen dataclasses as plain values, as JSON and TOML hold them, and back; a wrong key or type is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from deepgmr.errors import InvalidConfig

Config = TypeVar("Config")


def to_plain(config: Any) -> dict[str, Any]:
    """A dataclass (of dataclasses) as JSON and TOML can hold it."""
    return json.loads(json.dumps(asdict(config)))


def from_plain(config_class: type[Config], values: Mapping[str, Any], *, where: str = "") -> Config:
    """A frozen dataclass from plain values; keys left out keep their defaults.

    Raises `InvalidConfig`, naming the key, for a key the class does not have or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise InvalidConfig(f"`{where.rstrip('.')}` must be a table, got {values!r}")
    hints = get_type_hints(config_class)
    names = [item.name for item in fields(config_class)]  # type: ignore[arg-type]
    unknown = [key for key in values if key not in names]
    if unknown:
        raise InvalidConfig(f"unknown key `{where}{unknown[0]}`; the keys are {', '.join(names)}")
    converted = {key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()}
    return config_class(**converted)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, where=f"{where}.")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise InvalidConfig(
                f"`{where}` must be a number that a float holds, got one of {value.bit_length()} bits"
            ) from None
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    if type(None) in arguments and (
        value is None or any(isinstance(value, a) for a in arguments if isinstance(a, type))
    ):
        return value
    raise InvalidConfig(f"`{where}` must be {getattr(hint, '__name__', hint)}, got {value!r}")


# -- TOML --------------------------------------------------------------------------------------------------------


def to_toml(values: Mapping[str, Any], table: str = "") -> str:
    """Plain values as TOML text: numbers and lists first, then the tables."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not _is_table(value)]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in values.items():
        name = f"{table}{key}"
        if isinstance(value, Mapping):
            text += f"\n[{name}]\n{to_toml(value, f'{name}.')}"
        elif _is_table(value):
            text += "".join(f"\n[[{name}]]\n{to_toml(item, f'{name}.')}" for item in value)
    return text


def from_toml(text: str, *, where: str = "the text") -> dict[str, Any]:
    """Plain values from TOML text. Raises `InvalidConfig`, naming `where`, for what is not TOML."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of numbers and of nesting it says so with others than its own
        raise InvalidConfig(f"{where} is no TOML: {' '.join(str(error).split())[:200]}") from None


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))
