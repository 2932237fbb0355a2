"""One picture of a pair, before and after side by side, for papers: made without a display or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.errors import InvalidFile, InvalidInput
from deepgmr.io.disk import check_writable, replacing
from deepgmr.pipeline.answer import Registration
from deepgmr.report.raster import PAPER, SOURCE, TARGET, Camera, draw, lit, png
from deepgmr.report.scene import Scene, moved, spacing

_LEAST, _MOST = 64, 8192  # pixels of a side


def check_picture(path: Any) -> None:
    """Raise `InvalidFile` unless a PNG can be written at `path`."""
    if Path(path).suffix.lower() != ".png":
        raise InvalidFile(f"{path}: pictures are PNG; give a name that ends in .png")
    check_writable(Path(path))


def write_picture(path: Any, result: Registration, *, width: int = 2000, height: int = 900) -> None:
    """Write a PNG of so many pixels; the same answer gives the same bytes. Raises `InvalidFile`, `InvalidInput`."""
    check_picture(path)
    if not (_LEAST <= width <= _MOST and _LEAST <= height <= _MOST):
        raise InvalidInput(f"a picture is {_LEAST} to {_MOST} pixels wide and high, got {width} x {height}")
    image = side_by_side(Scene.of(result, rivals=False), width, height)
    with replacing(Path(path)) as stream:
        stream.write(png(image))


def side_by_side(scene: Scene, width: int, height: int) -> np.ndarray:
    """The clouds before and after, (height, width, 3) uint8."""
    half = (width - width // 50) // 2
    panels = [view(scene, motion, half, height) for motion in (scene.before, scene.answer.motion)]
    gap = np.full((height, width - 2 * half, 3), np.uint8(255 * PAPER[0]), dtype=np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def view(scene: Scene, motion: np.ndarray, width: int, height: int) -> np.ndarray:
    """The source under a motion (4, 4) with the target, (height, width, 3) uint8."""
    source, target = scene.source, scene.target
    turned = source.normals @ motion[:3, :3].T
    return two_clouds(
        (moved(motion, source.points), turned), (target.points, target.normals), scene.view, width, height
    )


def two_clouds(
    source: tuple[np.ndarray, np.ndarray | None],
    target: tuple[np.ndarray, np.ndarray | None],
    seen_from: tuple[float, float],
    width: int,
    height: int,
) -> np.ndarray:
    """Points (N, 3), with normals (N, 3) if known, of two clouds in their two colours, (height, width, 3) uint8."""
    points = np.concatenate([source[0], target[0]])
    camera = Camera.around(points, seen_from, width / height)
    colours = [
        np.tile(colour, (len(place), 1)) if normals is None else lit(colour, normals, camera)
        for colour, (place, normals) in ((SOURCE, source), (TARGET, target))
    ]
    radius = max(0.75 * spacing(points) * width / camera.width, 0.8)
    return draw(points, np.concatenate(colours), camera, width, height, radius=radius)
