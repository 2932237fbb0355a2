"""Range scans of procedural shapes: each from two directions, with self-occlusion."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from deepgmr.datasets.worlds import shapes
from deepgmr.datasets.worlds.sensors import Floats, ScanPair, determined

HELD = 0.01  # see `determined`


def object_pairs(
    count: int, points: int, overlap: tuple[float, float], rng: np.random.Generator, generator: torch.Generator
) -> list[ScanPair]:
    """Range scans of procedural shapes from two directions, half a centimetre to a few metres large.

    Each view keeps the densely sampled points that face it and that no other point hides; the two scans draw from
    disjoint halves of the samples, so that no point is in both.
    """
    dense = 7 * points
    cloud_, normals_ = shapes.sample_shapes(count, dense, generator=generator)
    cloud, normals = cloud_.numpy(), normals_.numpy()
    pairs = []
    for i in range(count):
        first = unit(rng)
        shown = _facing(cloud[i], normals[i], first, rng)
        for _ in range(6):
            angle = rng.uniform(0.15, 2.0)
            second = np.cos(angle) * first + np.sin(angle) * perpendicular(first, rng)
            seen = _facing(cloud[i], normals[i], second, rng)
            share = float((shown & seen).sum() / max(shown.sum(), 1))
            if overlap[0] <= share <= overlap[1] and determined(normals[i][shown & seen], HELD):
                break
        else:
            continue
        half = rng.random(dense) < 0.5
        source, target = np.flatnonzero(shown & half), np.flatnonzero(seen & ~half)
        if min(len(source), len(target)) < points:
            continue
        scale, sigma = np.exp(rng.uniform(np.log(0.03), np.log(1.5))), rng.choice([0, 0.001, 0.003, 0.01])
        rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        rotation *= np.sign(np.linalg.det(rotation))
        translation = rng.uniform(-0.5, 0.5, 3) * scale
        scans = []
        for rows, view in ((source, first), (target, second)):
            rows = rng.choice(rows, points, replace=False)
            jitter = rng.normal(0, sigma, (points, 1)) * view + rng.normal(0, 0.2 * sigma, (points, 3))
            scans.append((cloud[i, rows] + jitter) * scale)
        pairs.append(ScanPair(scans[0], scans[1] @ rotation.T + translation, rotation, translation, share))
    return pairs


def _facing(cloud: Floats, normals: Floats, view: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which points (n,) a distant scanner in direction `view` sees: turned towards it and first in their pixel."""
    right = perpendicular(view, rng)
    axes = np.stack([right, np.cross(view, right), view], axis=1).astype(np.float32)
    x, y, height = (cloud @ axes).T
    slant = normals @ view.astype(np.float32)
    pixels = int(np.clip((len(cloud) / 6) ** 0.5, 8, 512))  # a few samples of the front surface in each
    column = ((x + 1) * (pixels / 2)).astype(np.int64).clip(0, pixels - 1)
    row = ((y + 1) * (pixels / 2)).astype(np.int64).clip(0, pixels - 1)
    cell = row * pixels + column
    top = np.full(pixels * pixels, -np.inf, np.float32)
    np.maximum.at(top, cell, height)
    # Inside one pixel a slanted surface falls by its slope; more than that below the top is behind something.
    fall = (3.0 / pixels) * np.sqrt(np.maximum(1 - slant**2, 0)) / np.maximum(slant, 0.05) + 0.02
    return (slant > rng.uniform(0.05, 0.2)) & (height > top[cell] - fall)


def unit(rng: np.random.Generator) -> Floats:
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def perpendicular(axis: Floats, rng: np.random.Generator) -> Floats:
    vector = np.cross(axis, unit(rng))
    return vector / np.linalg.norm(vector)
