"""`deepgmr export NAME --out DIR`: networks as files for other runtimes."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgmr.cli.terminal import answering, progress_bar, put
from deepgmr.errors import InvalidCheckpoint, InvalidConfig

if TYPE_CHECKING:
    from torch import nn

NAMES = ("deepgmr", "default")


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FILE]...", help="Weights or bundles.  [default: deepgmr default]"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For NAME.pt2 and NAME.onnx.")] = ...,  # type: ignore[assignment]
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="pt2 or onnx; may be repeated.  [default: both]",
            autocompletion=lambda: ["pt2", "onnx"],
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Write networks for other runtimes, by torch.export and as ONNX, for clouds of any size; of a bundle its network.

    Each file is run before it is written, and refused where it is off by more than 1e-4. ONNX needs the extra
    deepgmr[export].
    """
    with answering("deepgmr export", as_json=as_json):
        from deepgmr.io.disk import writing
        from deepgmr.io.graphs import FORMATS, write_graph

        suffixes = [f".{kind}" for kind in kinds] if kinds else list(FORMATS)
        for suffix in suffixes:
            if suffix not in FORMATS:
                raise InvalidConfig(f"unknown format `{suffix[1:]}`; the formats are pt2 and onnx")
        named = [found(name) for name in names or NAMES]
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        written: list[dict[str, Any]] = []
        with progress_bar() as progress, redirect_stdout(sys.stderr):
            for network, about in named:
                for suffix in suffixes:
                    path = out / f"{about['name']}{suffix}"
                    progress(path.name, len(written) / (len(named) * len(suffixes)))
                    written.append(write_graph(path, network, about=about))
        text = "".join(f"{row['file']}  # {row['kind']}, off by {row['difference']:.1e}\n" for row in written)
        put(json.dumps({"written": written}, allow_nan=False) + "\n" if as_json else text)


def found(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network of weights or of a bundle, by name or file, and what an exported file says of where it came from."""
    from importlib import resources

    from deepgmr.io import checkpoint
    from deepgmr.pipeline.bundle import KIND, Bundle

    inside = Path(str(resources.files("deepgmr")))
    known = {path.stem: path for path in sorted(inside.glob("*/*.safetensors"))}
    path = Path(name) if Path(name).is_file() else known.get(name)
    if path is None:
        raise InvalidCheckpoint(f"`{name}` is neither a file nor inside the package, which holds {', '.join(known)}")
    bundle = checkpoint.read(path).kind == KIND
    network = Bundle.load(path).network if bundle else checkpoint.load(path)
    identity = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return network, {"name": path.stem, "kind": checkpoint.describe(network)[0], "id": identity}
