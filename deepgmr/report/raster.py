"""Points as pixels, in NumPy alone: round splats, a depth buffer, and shading by depth. No display, no GPU."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from deepgmr.report.scene import view_axes

SOURCE, TARGET = (0.90, 0.45, 0.05), (0.05, 0.40, 0.70)  # the pair of colours that every eye tells apart
PAPER = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Camera:
    """A parallel view of a ball: what the picture holds, whatever turns inside it."""

    azimuth: float  # rad
    elevation: float  # rad
    centre: tuple[float, float, float]
    width: float  # input units across the picture

    @classmethod
    def around(cls, points: np.ndarray, view: tuple[float, float], aspect: float, margin: float = 1.06) -> Camera:
        """The view of all of points (N, 3) in a picture so many times as wide as high."""
        right, up, _ = view_axes(*view)
        flat = points @ np.stack([right, up]).T
        low, high = flat.min(axis=0), flat.max(axis=0)
        middle = (low + high) / 2
        depth = points @ np.cross(right, up)
        centre = right * middle[0] + up * middle[1] + np.cross(right, up) * depth.mean()
        width = margin * max(high[0] - low[0], (high[1] - low[1]) * aspect)
        return cls(*view, centre=(float(centre[0]), float(centre[1]), float(centre[2])), width=float(width) or 1.0)


def draw(
    points: np.ndarray, colours: np.ndarray, camera: Camera, width: int, height: int, *, radius: float = 1.6
) -> np.ndarray:
    """A picture (height, width, 3) uint8 of points (N, 3) with colours (N, 3) in [0, 1]; `radius` in pixels.

    Drawn at twice the size and halved, so that edges are smooth. What lies behind a step in depth darkens towards it
    (eye-dome lighting; Boucheny 2009).
    """
    w, h = 2 * width, 2 * height
    right, up, out = view_axes(camera.azimuth, camera.elevation)
    centred = points - np.array(camera.centre)
    scale = w / camera.width
    column = w / 2 + scale * (centred @ right)
    row = h / 2 - scale * (centred @ up)
    depth = centred @ out / camera.width  # larger is nearer
    order = np.lexsort((row, column, depth))  # far to near: the last one written is the one seen
    column, row, depth, colours = (each[order].astype(np.float32) for each in (column, row, depth, colours))
    image, nearest = np.tile(np.array(PAPER, np.float32), (h * w, 1)), np.full(h * w, -np.inf, dtype=np.float32)
    across, down = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    reach = int(np.ceil(2 * radius))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dx * dx + dy * dy > (2 * radius) ** 2:
                continue
            x, y = across + dx, down + dy
            place = y * w + x
            seen = np.flatnonzero((x >= 0) & (x < w) & (y >= 0) & (y < h))
            seen = seen[depth[seen] > nearest[place[seen]]]
            nearest[place[seen]], image[place[seen]] = depth[seen], colours[seen]
    image = _shaded(image.reshape(h, w, 3), nearest.reshape(h, w))
    small = image.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    return np.rint(255 * small.clip(0, 1)).astype(np.uint8)


def lit(colour: tuple[float, float, float], normals: np.ndarray, camera: Camera) -> np.ndarray:
    """A colour on surfaces with normals (N, 3) of either sign, (N, 3): lighter where they face the light."""
    right, up, out = view_axes(camera.azimuth, camera.elevation)
    light = 0.35 * right + 0.5 * up + 0.8 * out
    return np.array(colour) * (0.58 + 0.46 * np.abs(normals @ (light / np.linalg.norm(light))))[:, None]


def _shaded(image: np.ndarray, depth: np.ndarray, strength: float = 25.0) -> np.ndarray:
    """Eye-dome lighting: a pixel is darker the further its eight neighbours stand out before it."""
    h, w = depth.shape
    step = max(2, w // 700)
    seen = np.isfinite(depth)
    far = np.where(seen, depth, depth[seen].min() if seen.any() else 0.0)
    padded = np.pad(far, step, mode="edge")
    before = np.zeros((h, w), dtype=np.float32)
    for dy in (0, step, 2 * step):
        for dx in (0, step, 2 * step):
            before += np.maximum(padded[dy : dy + h, dx : dx + w] - far, 0.0)
    shade = np.exp(-strength * before / 8)
    return np.where(seen[..., None], image * (0.25 + 0.75 * shade[..., None]), image)


def png(image: np.ndarray) -> bytes:
    """A picture (height, width, 3) uint8 as a PNG file."""
    height, width, _ = image.shape
    rows = image.astype(np.int16)
    rows[1:] -= image[:-1]  # each row less the one above it packs better
    body = np.concatenate([np.full((height, 1), 2, np.uint8), rows.astype(np.uint8).reshape(height, -1)], axis=1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(body.tobytes(), 6)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
