"""How far points are from a surface of triangles, and on which side of it."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from deepgmr.errors import InvalidCloud

_PIECES = 200_000  # about so many pieces is a surface cut into, to find the triangles near a point
_NEAR = 8  # pieces whose triangles are measured
_CHUNK = 20_000  # points measured at once
_TIE = 1e-6  # share of a distance within which two triangles are equally near


def surface_distances(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The signed distance (N,) of points (N, 3) from triangles: vertices (V, 3), faces (F, 3) int, all in one unit.

    Positive on the side that the normals point to (faces counter-clockwise from outside, as CAD programs write them). Exact
    where the nearest triangle is one of those near the nearest pieces of the surface, which it is but for contrived
    meshes. A point that is not finite is NaN away. Raises `InvalidCloud` for a surface without any area.
    """
    corners = vertices[faces].astype(np.float64)  # (F, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    corners, normals = corners[lengths > 0], normals[lengths > 0] / lengths[lengths > 0, None]
    if not len(corners) or not np.isfinite(corners).all():
        raise InvalidCloud("the surface has no triangle with an area and finite corners; repair the mesh")
    places, owners = _pieces(corners, float(lengths.sum() / 2))
    tree = cKDTree(places)
    found = np.full(len(points), np.nan)
    rows = np.flatnonzero(np.isfinite(points).all(axis=1))
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        _, near = tree.query(points[chunk], min(_NEAR, len(places)))
        near = owners[near.reshape(len(chunk), -1)]  # (n, k) triangles
        offset = points[chunk][:, None] - closest_points(points[chunk][:, None], corners[near])
        distance = np.linalg.norm(offset, axis=-1)  # (n, k)
        height = np.einsum("nki,nki->nk", offset, normals[near])
        least = distance.min(axis=1)
        # At an edge several triangles are equally near: the one seen least from its side tells the side.
        tied = distance <= least[:, None] * (1 + _TIE) + np.finfo(float).tiny
        chosen = np.where(tied, np.abs(height), -1.0).argmax(axis=1)
        side = np.sign(np.take_along_axis(height, chosen[:, None], axis=1)[:, 0])
        found[chunk] = np.where(side < 0, -least, least)
    return found


def closest_points(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The point (..., 3) of each triangle (..., 3 corners, 3) that is closest to a point (..., 3).

    Ericson, Real-Time Collision Detection (2005), 5.1.5: by the region of the triangle that the point is over.
    """
    a, b, c = (corners[..., i, :] for i in range(3))
    ab, ac = b - a, c - a
    ap, bp, cp = points - a, points - b, points - c

    def dot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.einsum("...i,...i->...", u, v)

    d1, d2, d3, d4, d5, d6 = dot(ab, ap), dot(ac, ap), dot(ab, bp), dot(ac, bp), dot(ab, cp), dot(ac, cp)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    with np.errstate(divide="ignore", invalid="ignore"):
        regions = (  # (condition, share of ab, share of ac), the first that holds
            ((d1 <= 0) & (d2 <= 0), 0.0, 0.0),
            ((d3 >= 0) & (d4 <= d3), 1.0, 0.0),
            ((d6 >= 0) & (d5 <= d6), 0.0, 1.0),
            ((vc <= 0) & (d1 >= 0) & (d3 <= 0), d1 / (d1 - d3), 0.0),
            ((vb <= 0) & (d2 >= 0) & (d6 <= 0), 0.0, d2 / (d2 - d6)),
            ((va <= 0) & (d4 >= d3) & (d5 >= d6), (d5 - d6) / (d4 - d3 + d5 - d6), (d4 - d3) / (d4 - d3 + d5 - d6)),
        )
        conditions = [region[0] for region in regions]
        total = va + vb + vc
        v = np.select(conditions, [np.broadcast_to(region[1], d1.shape) for region in regions], vb / total)
        w = np.select(conditions, [np.broadcast_to(region[2], d1.shape) for region in regions], vc / total)
    return a + v[..., None] * ab + w[..., None] * ac


def _pieces(corners: np.ndarray, area: float) -> tuple[np.ndarray, np.ndarray]:
    """Middles (P, 3) of pieces of triangles (F, 3, 3), none much longer than the others, and whose they are (P,)."""
    edges = corners - np.roll(corners, 1, axis=1)
    longest = np.linalg.norm(edges, axis=-1).max(axis=1)  # (F,)
    size = np.sqrt(area / _PIECES)
    while np.square(cuts := np.ceil(longest / size)).sum() > 4 * _PIECES + len(corners):
        size *= 1.5
    places, owners = [], []
    for count in np.unique(cuts).astype(int):
        mine = np.flatnonzero(cuts == count)
        i, j = (index.ravel() for index in np.mgrid[:count, :count])
        kept = i + j < count
        upright = (np.stack([i, j], axis=1)[kept] + 1 / 3) / count  # shares of the two edges
        turned = (np.stack([i, j], axis=1)[i + j < count - 1] + 2 / 3) / count
        shares = np.concatenate([upright, turned])  # (count^2, 2)
        ab, ac = corners[mine, 1] - corners[mine, 0], corners[mine, 2] - corners[mine, 0]
        points = corners[mine, None, 0] + shares[None, :, :1] * ab[:, None] + shares[None, :, 1:] * ac[:, None]
        places.append(points.reshape(-1, 3))
        owners.append(np.repeat(mine, len(shares)))
    return np.concatenate(places), np.concatenate(owners)
