"""Trained networks as files: safetensors, with the configuration and the provenance in the header; nothing pickled.

A file holds tensors under `model.` (while training also under `ema.` and `optimizer.`) and one JSON text with `config`,
enough to build the network; `provenance`, how it came to be; `state`, where training stands; and a digest over it
all that tells a damaged file from a good one. Files appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from deepgmr.errors import InvalidCheckpoint, InvalidConfig
from deepgmr.io.disk import replacing
from deepgmr.networks.deepgmr import DeepGMR, NetworkConfig
from deepgmr.networks.overlap import OverlapConfig, OverlapNetwork
from deepgmr.plain import from_plain, to_plain

FORMAT = "deepgmr"
VERSION = 1
# A kind of network, as the file names it: its configuration and its class.
KINDS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "deepgmr": (NetworkConfig, DeepGMR),
    "overlap": (OverlapConfig, OverlapNetwork),
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a file, checked."""

    kind: str
    config: dict[str, Any]  # of the network
    provenance: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix.`, without it."""
        start = f"{prefix}."
        return {name[len(start) :]: value for name, value in self.tensors.items() if name.startswith(start)}


def load(name_or_path: str | Path, *, device: torch.device | str = "cpu") -> nn.Module:
    """A trained network, ready to use: bundled weights by name (`bundled()` lists them), or a file.

    The network is in evaluation mode and carries `.provenance`. A training checkpoint gives its averaged weights.
    Raises `InvalidCheckpoint`, naming the file, if there is none, or it is corrupt, truncated, foreign or newer.
    """
    path = _resolve(name_or_path)
    checkpoint = read(path)
    weights = checkpoint.part("ema") or checkpoint.part("model")
    model = filled(checkpoint.kind, checkpoint.config, weights, where=str(path))
    model.provenance = checkpoint.provenance  # type: ignore[assignment]
    return model.to(device).eval()


def bundled() -> tuple[str, ...]:
    """The names of the weights inside the package."""
    return tuple(sorted(file.name[: -len(".safetensors")] for file in _weights() if file.name.endswith(".safetensors")))


def build(kind: str, config: Mapping[str, Any], *, where: str = "checkpoint") -> nn.Module:
    """A freshly initialised network of a kind. Raises `InvalidCheckpoint` for an unknown kind or a bad config."""
    if kind not in KINDS:
        raise InvalidCheckpoint(f"{where}: holds a `{kind}`; this version knows {', '.join(KINDS)}. Upgrade deepgmr")
    config_class, model_class = KINDS[kind]
    try:
        return model_class(from_plain(config_class, config))
    except InvalidConfig as error:
        raise InvalidCheckpoint(f"{where}: {error}") from error


def filled(kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], *, where: str) -> nn.Module:
    """The network of a kind with these weights. Raises `InvalidCheckpoint` where they are not the config's, or not finite.

    The shapes are compared before any memory is taken: a header may describe a network of any size.
    """
    try:
        with torch.device("meta"):
            shapes = {name: tuple(value.shape) for name, value in build(kind, config, where=where).state_dict().items()}
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidCheckpoint):
            raise
        raise InvalidCheckpoint(f"{where}: describes a network that cannot be built: {_said(error)}") from None
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wrong := sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)):
        raise InvalidCheckpoint(
            f"{where}: the tensors do not fit the network its header describes: `{wrong[0]}` is "
            f"{found.get(wrong[0], 'missing')} where {shapes.get(wrong[0], 'none')} belongs ({len(wrong)} such)"
        )
    if bad := sorted(name for name, value in weights.items() if not bool(torch.isfinite(value).all())):
        raise InvalidCheckpoint(f"{where}: `{bad[0]}` holds numbers that are not finite ({len(bad)} such tensors)")
    model = build(kind, config, where=where)
    model.load_state_dict(weights)
    return model


def save(path: str | Path, model: nn.Module, *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a network that `load` reads back; the file appears whole or not at all."""
    kind, config = describe(model)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    write(path, Checkpoint(kind, config, dict(provenance or {}), {}, tensors))


def describe(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """The kind of a network and its configuration as plain values."""
    for kind, (_, model_class) in KINDS.items():
        if type(model) is model_class:
            return kind, to_plain(model.config)
    raise InvalidCheckpoint(f"a {type(model).__name__} is not a network that checkpoints know: {', '.join(KINDS)}")


# -- the file --------------------------------------------------------------------------------------------------


def write(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write every part of a checkpoint: a reader, or a kill, finds the old file or the new one.

    Raises `InvalidFile` if it cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    header = {
        "version": VERSION,
        "kind": checkpoint.kind,
        "config": checkpoint.config,
        "provenance": checkpoint.provenance,
        "state": checkpoint.state,
    }
    # One text, since safetensors writes several in no fixed order: the same content is then the same bytes.
    text = json.dumps(header | {"digest": _digest(header, tensors)}, sort_keys=True)
    data = serialise(tensors, metadata={FORMAT: text})
    with replacing(Path(path)) as stream:
        stream.write(data)


def read(path: str | Path) -> Checkpoint:
    """Read and check a file written by `write`. Raises `InvalidCheckpoint`, naming the file."""
    path = Path(path)
    if not path.is_file():
        raise InvalidCheckpoint(f"{path}: no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(FORMAT)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise InvalidCheckpoint(
            f"{path}: not a readable safetensors file (corrupt or truncated?): {_said(error)}"
        ) from error
    if text is None:
        raise InvalidCheckpoint(f"{path}: a safetensors file, but not one that deepgmr wrote")
    try:
        header = json.loads(text)
        version, digest = int(header["version"]), header.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidCheckpoint(f"{path}: its header is damaged, fetch the file again: {_said(error)}") from error
    if version > VERSION:
        raise InvalidCheckpoint(
            f"{path}: written in format {version}, this version reads up to {VERSION}. Upgrade deepgmr"
        )
    if digest != _digest(header, tensors):
        raise InvalidCheckpoint(f"{path}: the content does not match its digest; the file is damaged, fetch it again")
    parts: dict[str, type] = {"kind": str, "config": dict, "provenance": dict, "state": dict}
    for name, kind in parts.items():
        if not isinstance(header.get(name), kind):
            raise InvalidCheckpoint(
                f"{path}: its header has {str(header.get(name))[:40]!r} for `{name}`, where a {kind.__name__} belongs; "
                "write the file with deepgmr"
            )
    return Checkpoint(**{name: header[name] for name in parts}, tensors=tensors)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def _weights() -> list[Path]:
    folder = resources.files("deepgmr") / "weights"
    return [Path(str(file)) for file in folder.iterdir()] if folder.is_dir() else []


def _resolve(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    for file in _weights():
        if file.name == f"{name_or_path}.safetensors":
            return file
    names = ", ".join(bundled()) or "none"
    raise InvalidCheckpoint(f"`{name_or_path}` is neither a file nor bundled weights; the bundled ones are: {names}")
