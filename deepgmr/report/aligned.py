"""One HTML page of many scans in one frame: a picture in which each has its colour, and tables of scans and edges."""

from __future__ import annotations

import base64
import colorsys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.alignment.answer import Alignment
from deepgmr.io.disk import check_writable, replacing
from deepgmr.report.page import number
from deepgmr.report.raster import Camera, draw, png
from deepgmr.report.scene import moved, spacing, widest_view

_GOLDEN = 0.618034  # of the circle of hues from one scan to the next: neighbours in number differ most
_WIDTH, _HEIGHT = 1200, 800  # pixels


def write_aligned(path: Any, found: Alignment, names: Sequence[str]) -> None:
    """Write the page; the same answer gives the same bytes. Raises `InvalidFile`."""
    check_writable(Path(path))
    text = aligned_page(found, names)
    with replacing(Path(path)) as stream:
        stream.write(text.encode("utf-8"))


def aligned_page(found: Alignment, names: Sequence[str]) -> str:
    """The page as text; names are escaped."""
    import jinja2
    from markupsafe import Markup

    from deepgmr import __version__

    files = resources.files("deepgmr.report") / "page_files"
    room = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    room.filters["number"] = number
    colours = [colour(scan) for scan in range(len(found))]
    return room.from_string((files / "aligned.html").read_text(encoding="utf-8")).render(
        found=found,
        names=list(names),
        component=found.component.tolist(),
        confidence=found.confidence.tolist(),
        deviations=[_deviations(found, scan) for scan in range(len(found))],
        colours=["#" + "".join(f"{round(255 * part):02x}" for part in each) for each in colours],
        pictures=[
            base64.b64encode(png(picture(found, members, colours))).decode("ascii")
            for members in found.components
            if len(members) > 1
        ],
        accepted=sum(edge.accepted for edge in found.edges),
        version=__version__,
        style=Markup((files / "style.css").read_text(encoding="utf-8")),
    )


def picture(found: Alignment, members: Sequence[int], colours: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """The scans of one component where they are, (height, width, 3) uint8."""
    clouds = [moved(found.poses[scan], found.sketches[scan]) for scan in members]
    points = np.concatenate(clouds)
    points = points - points.mean(axis=0)
    camera = Camera.around(points, widest_view(points), _WIDTH / _HEIGHT)
    paint = np.concatenate(
        [np.tile(colours[scan], (len(cloud), 1)) for scan, cloud in zip(members, clouds, strict=True)]
    )
    radius = max(0.75 * spacing(points) * _WIDTH / camera.width, 0.8)
    return draw(points, paint, camera, _WIDTH, _HEIGHT, radius=radius)


def colour(scan: int) -> tuple[float, float, float]:
    """Of a scan by its number, red, green and blue in [0, 1]."""
    return colorsys.hsv_to_rgb((0.06 + _GOLDEN * scan) % 1.0, 0.75, 0.62 + 0.26 * ((scan // 3) % 2))


def _deviations(found: Alignment, scan: int) -> tuple[float, float]:
    """One standard deviation of a scan's rotation (degrees) and of the place of its middle (input units)."""
    middle = moved(found.poses[scan], found.sketches[scan].mean(axis=0)[None])[0]
    covariance = found.covariance_about(scan, middle)
    turn, shift = np.trace(covariance[:3, :3]), np.trace(covariance[3:, 3:])
    return float(np.degrees(np.sqrt(max(turn, 0.0)))), float(np.sqrt(max(shift, 0.0)))
