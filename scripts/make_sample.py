#!/usr/bin/env python3
"""Make the sample pair in data/: one object seen by two depth cameras, and the motion between the two scans.

    python scripts/make_sample.py [FOLDER]

The object is a watering can that exists only as a distance function, so a camera's ray finds its surface by sphere
tracing (Hart 1996), hidden parts stay hidden, and the normals are exact. Only +, -, *, /, sqrt, min and max touch the
numbers, which IEEE 754 rounds alike everywhere: the files come out the same, byte for byte, on every machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from deepgmr.io import CloudFile, write_cloud, write_transform

SEED = 20_261_120
PIXELS = 190  # rays a side
POINTS = 12_000  # kept of each scan
NOISE = 0.0004  # metres, standard deviation of the depth
DISTANCE = 0.9  # of the cameras from the object, metres
VIEWS = ((0.80, -0.50, 0.35), (0.95, 0.20, 0.45))  # directions from the object to the two cameras
POSE = ((0.36, -0.54, 0.68, 0.35), (0.42, -0.17, 0.31))  # quaternion (w, x, y, z), not yet unit; translation, metres

Vectors = np.ndarray  # (..., 3)


def dot(a: Vectors, b: Vectors) -> np.ndarray:
    """Row-wise, term by term: a library's sum may take another order on another machine."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def unit(vectors: Vectors) -> Vectors:
    """Vectors of length one."""
    return vectors / np.sqrt(dot(vectors, vectors))[..., None]


def blended(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """The union of two solids with a fillet of `width` (the quadratic smooth minimum)."""
    overlap = np.maximum(width - np.abs(a - b), 0.0) / width
    return np.minimum(a, b) - overlap * overlap * (width / 4.0)


def capsule(points: Vectors, start: tuple, end: tuple, radius: float) -> np.ndarray:
    """Distance to a rod with round ends."""
    axis = np.array(end) - np.array(start)
    offset = points - np.array(start)
    along = np.clip(dot(offset, axis) / dot(axis, axis), 0.0, 1.0)
    rest = offset - along[..., None] * axis
    return np.sqrt(dot(rest, rest)) - radius


def can(points: Vectors) -> np.ndarray:
    """Signed distance to the watering can, in metres: body, shoulder, spout with its rose, handle and base."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    around = np.sqrt(x * x + y * y)
    side, lid = around - 0.095, np.abs(z) - 0.08
    outside = np.sqrt(np.maximum(side, 0.0) ** 2 + np.maximum(lid, 0.0) ** 2)
    body = np.minimum(np.maximum(side, lid), 0.0) + outside - 0.01
    shoulder = capsule(points, (-0.02, 0.015, 0.085), (0.03, -0.01, 0.12), 0.05)
    spout = capsule(points, (0.07, 0.02, -0.02), (0.22, 0.06, 0.13), 0.017)
    rose = capsule(points, (0.21, 0.055, 0.125), (0.235, 0.065, 0.15), 0.034)
    ring = np.sqrt((x + 0.11) ** 2 + (z - 0.02) ** 2) - 0.07
    handle = np.sqrt(ring * ring + (y + 0.02) ** 2) - 0.013
    base = np.maximum(np.maximum(np.abs(x + 0.015) - 0.11, np.abs(y - 0.03) - 0.09), np.abs(z + 0.095) - 0.012)
    tap = capsule(points, (0.02, -0.09, -0.05), (0.04, -0.14, -0.03), 0.016)
    solid = blended(body, shoulder, 0.02)
    for part, fillet in ((spout, 0.02), (rose, 0.01), (handle, 0.012), (tap, 0.015)):
        solid = blended(solid, part, fillet)
    return np.minimum(solid, base)


def normals_at(points: Vectors) -> Vectors:
    """Outward normals: central differences of the distance."""
    step = np.eye(3) * 1e-5
    return unit(np.stack([can(points + step[i]) - can(points - step[i]) for i in range(3)], axis=-1))


def scan(direction: tuple[float, float, float], generator: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Points and normals (POINTS, 3) that a noisy depth camera in that direction sees."""
    forward = -unit(np.array(direction))
    right = unit(np.array([forward[1], -forward[0], 0.0]))  # across the vertical
    up = np.array([right[1] * forward[2] - right[2] * forward[1], right[2] * forward[0] - right[0] * forward[2],
                   right[0] * forward[1] - right[1] * forward[0]])  # fmt: skip
    middle = np.array([0.03, 0.0, 0.02])
    eye = middle - forward * DISTANCE
    across = (np.arange(PIXELS) + 0.5) / PIXELS * 0.44 - 0.22  # tangents of the field of view
    grid = np.stack(np.meshgrid(across, across, indexing="ij"), axis=-1).reshape(-1, 2)
    rays = unit(forward + grid[:, :1] * right + grid[:, 1:] * up)
    depth = np.full(len(rays), DISTANCE - 0.35)
    for _ in range(80):
        depth += 0.9 * can(eye + depth[:, None] * rays)  # the fillets bend the distance a little: step short
    hit = np.abs(can(eye + depth[:, None] * rays)) < 1e-5
    rays, depth = rays[hit & (depth < DISTANCE + 0.5)], depth[hit & (depth < DISTANCE + 0.5)]
    normals = normals_at(eye + depth[:, None] * rays)
    facing = -dot(normals, rays) > 0.15  # a camera measures no grazing surface
    rays, depth, normals = rays[facing], depth[facing], normals[facing]
    if len(depth) < POINTS:
        raise SystemExit(f"only {len(depth)} rays meet the object, {POINTS} are needed: raise PIXELS")
    chosen = np.sort(np.argsort(generator.random(len(depth)), kind="stable")[:POINTS])
    rays, depth, normals = rays[chosen], depth[chosen], normals[chosen]
    # The sum of twelve uniforms is nearly normal, and exact arithmetic: the generator's own normals call log and exp.
    uniforms = generator.random((12, POINTS))
    noise = uniforms[0]
    for more in uniforms[1:]:
        noise = noise + more
    return eye + (depth + NOISE * (noise - 6.0))[:, None] * rays, normals


def coloured(points: Vectors, normals: Vectors) -> CloudFile:
    """The scan as a file: float32, normals, and a colour by height and shade."""
    shade = 0.4 + 0.6 * np.clip(dot(normals, unit(np.array([0.3, -0.5, 0.8]))), 0.0, 1.0)
    height = np.clip((points[:, 2] + 0.1) / 0.28, 0.0, 1.0)
    colours = [shade * (60.0 + 150.0 * height), shade * (150.0 - 40.0 * height), shade * (90.0 + 20.0 * height)]
    properties = {name: normals[:, i].astype(np.float32) for i, name in enumerate(("nx", "ny", "nz"))}
    properties |= {name: np.rint(c).astype(np.uint8) for name, c in zip(("red", "green", "blue"), colours, strict=True)}
    return CloudFile(points, properties, comments=("deepgmr sample pair",), coordinate_dtype=np.dtype(np.float32))


def rotation(quaternion: tuple[float, float, float, float]) -> np.ndarray:
    """A (3, 3) rotation from a quaternion (w, x, y, z) of any length, without a sine."""
    w, x, y, z = quaternion
    rows = [
        [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
    ]
    return np.array(rows) / (w * w + x * x + y * y + z * z)


def moved(points: Vectors, matrix: np.ndarray) -> Vectors:
    """Points under a (4, 4) motion, term by term."""
    return np.stack([dot(points, matrix[i, :3]) + matrix[i, 3] for i in range(3)], axis=-1)


def make(folder: Path) -> None:
    """Write the two scans and the motion that carries the first onto the second."""
    generator = np.random.default_rng(SEED)
    (seen, normals), (points, target_normals) = (scan(view, generator) for view in VIEWS)
    source_from_target = np.eye(4)  # both scans are made in the target's frame; the source is then posed anew
    source_from_target[:3, :3], source_from_target[:3, 3] = rotation(POSE[0]), POSE[1]
    turn = np.eye(4)
    turn[:3, :3] = source_from_target[:3, :3]
    source = coloured(seen, normals)
    for i, name in enumerate(("nx", "ny", "nz")):
        source.properties[name] = moved(normals, turn)[:, i].astype(np.float32)
    inverse = np.eye(4)
    inverse[:3, :3] = turn[:3, :3].T
    inverse[:3, 3] = -dot(turn[:3, :3].T, np.array(POSE[1]))
    write_cloud(folder / "sample_source.ply", CloudFile(moved(seen, source_from_target), source.properties,
                comments=source.comments, coordinate_dtype=source.coordinate_dtype))  # fmt: skip
    write_cloud(folder / "sample_target.ply", coloured(points, target_normals))
    write_transform(folder / "sample_target_from_source.txt", inverse)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent / "data")
    make(parser.parse_args().folder)
