"""`--deviations FILE`: how far each point of the moved source is from the target, as numbers, colours and a histogram."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepgmr.io import CloudFile, write_cloud

_BINS = 15
_WIDTH = 40  # characters of the longest bar
_CLIP = 95.0  # percentile at which the colours are full
_COLD, _MIDDLE, _HOT = (33, 102, 172), (200, 200, 200), (178, 24, 43)  # below, on and above: told apart by all eyes


def written(path: Path, moved: CloudFile, target: CloudFile) -> dict[str, Any]:
    """Write the moved source, coloured by its deviations from the target; returns the numbers."""
    values, signed = deviations(moved, target)
    write_cloud(path, coloured(moved, values))
    return summary(values, signed)


def deviations(moved: CloudFile, target: CloudFile) -> tuple[np.ndarray, bool]:
    """How far (N,) each point of the moved source is from the target, in the units of the files, and whether signed.

    From a mesh: from its triangles, positive on the side that their normals point to. From a cloud: from its nearest
    point, which says nothing of a side.
    """
    from scipy.spatial import cKDTree

    from deepgmr.geometry.surfaces import surface_distances

    if target.triangles is not None:
        return surface_distances(moved.points, target.triangles.vertices, target.triangles.faces), True
    found = np.full(len(moved), np.nan)
    finite = np.isfinite(moved.points).all(axis=1)
    tree = cKDTree(target.points[np.isfinite(target.points).all(axis=1)])
    found[finite] = tree.query(moved.points[finite])[0]
    return found, False


def coloured(moved: CloudFile, values: np.ndarray) -> CloudFile:
    """The points with the property `deviation` (N,) and colours: blue below, white on, red above the target."""
    limit = _limit(values)
    share = np.nan_to_num(values / limit).clip(-1, 1)[:, None]
    ends = np.where(share < 0, np.array(_COLD, float), np.array(_HOT, float))
    colours = np.rint((1 - np.abs(share)) * np.array(_MIDDLE, float) + np.abs(share) * ends).astype(np.uint8)
    properties: dict[str, np.ndarray] = {"deviation": values.astype(np.float32)}
    properties |= {name: colours[:, i].copy() for i, name in enumerate(("red", "green", "blue"))}
    return replace(moved, properties=moved.properties | properties, triangles=None)


def summary(values: np.ndarray, signed: bool) -> dict[str, Any]:
    """The numbers, as JSON holds them; lengths in the units of the files."""
    known = values[np.isfinite(values)]
    sizes, limit = np.abs(known), _limit(values)
    counts, edges = np.histogram(known.clip(-limit, limit), _BINS, (-limit if signed else 0.0, limit))
    return {
        "signed": signed,
        "points": len(known),
        "mean": float(known.mean()),
        "rms": float(np.sqrt(np.square(known).mean())),
        "median_size": float(np.median(sizes)),
        "p95_size": float(np.percentile(sizes, 95)),
        "largest_size": float(sizes.max()),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist(), "ends_hold_the_rest": True},
    }


def as_text(found: dict[str, Any]) -> str:
    """The histogram and a line of numbers, as comments that numpy.loadtxt passes over."""
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    kind = "signed distance from the surface" if found["signed"] else "distance to the nearest point"
    lines = [
        f"deviations of {found['points']:,} points, {kind}, in the units of the files:",
        *(
            f"{low:+11.4g} to {high:+11.4g} {count:9,} {'#' * round(_WIDTH * count / max(counts))}".rstrip()
            for low, high, count in zip(edges, edges[1:], counts, strict=False)
        ),
        f"mean {found['mean']:.4g}, rms {found['rms']:.4g}, half below {found['median_size']:.4g}, "
        f"95 % below {found['p95_size']:.4g}, largest {found['largest_size']:.4g} (sizes; the last bins hold the rest)",
    ]
    return "".join(f"# {line}\n" for line in lines)


def _limit(values: np.ndarray) -> float:
    sizes = np.abs(values[np.isfinite(values)])
    return float(np.percentile(sizes, _CLIP)) or 1.0
