"""What the pictures of the studies share: one style, the same bytes for the same numbers. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from deepgmr.errors import InvalidFile, MissingDependency
from deepgmr.io.disk import check_writable, replacing

BLUE, GREY = "#0072B2", "#6B6B6B"
STYLE: dict[str, Any] = {
    **{"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left"},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.axisbelow": True},
    **{"axes.grid": True, "grid.color": "#E3E3E3", "grid.linewidth": 0.6, "legend.frameon": False},
    **{"xtick.color": "#333333", "ytick.color": "#333333", "axes.labelcolor": "#333333", "svg.hashsalt": "deepgmr"},
}


def matplotlib() -> Any:
    """Matplotlib, or `MissingDependency` with the command that installs it."""
    try:
        import_module("matplotlib.figure")
        return import_module("matplotlib")
    except ImportError as error:
        raise MissingDependency("pictures need matplotlib: pip install 'deepgmr[plots]'") from error


def check_picture(path: Path) -> None:
    """Every reason not to draw is found before anything is computed."""
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise InvalidFile(f"{path}: a picture ends in .svg, .png or .pdf")
    check_writable(path)
    matplotlib()


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Any]:
    """An empty figure (inches), written once it has been filled."""
    check_picture(path)
    library = matplotlib()
    with library.rc_context(STYLE):
        figure = library.figure.Figure(figsize=(width, height), layout="constrained")
        yield figure
        undated = {"Date": None} if path.suffix == ".svg" else None  # the same numbers give the same bytes
        with replacing(path) as stream:
            figure.savefig(stream, format=path.suffix[1:], dpi=150, metadata=undated)


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share that was seen among `count` (Wilson, JASA 1927)."""
    centre, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (centre - spread) / (1 + z * z / count)), min(1.0, (centre + spread) / (1 + z * z / count))
