"""The pictures of the examples: clouds before and after, with matplotlib and without a screen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SOURCE, TARGET = "#e67800", "#0072b2"  # told apart by colour-blind eyes too


def wanted(doc: str | None) -> Path | None:
    """Where `--picture PATH` says that the picture goes."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw it too (.png, .svg)")
    return parser.parse_args().picture


def draw(
    path: Path, panels: Sequence[tuple[str, Sequence[tuple[np.ndarray, Any]]]], *, view: tuple = (25, -60)
) -> None:
    """Panels side by side: a title and clouds (N, 3), each with a colour or one colour a point, seen from (up, around)."""
    figure = plt.figure(figsize=(4 * len(panels), 4))
    for number, (title, clouds) in enumerate(panels):
        axes: Any = figure.add_subplot(1, len(panels), number + 1, projection="3d")
        axes.set_title(title, y=0.97)
        for points, colour in clouds:
            thin = slice(None, None, max(1, len(points) // 3000))
            axes.scatter(*points[thin].T, s=3, c=colour if isinstance(colour, str) else colour[thin], linewidths=0)
        every = np.concatenate([points for points, _ in clouds])
        axes.set_box_aspect(np.ptp(every, axis=0).clip(1e-9), zoom=1.25)
        axes.view_init(*view)
        axes.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=72)
    plt.close(figure)


def moved(points: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Points (N, 3) under a motion (4, 4)."""
    return points @ motion[:3, :3].T + motion[:3, 3]
