"""What scenes are built of: boxes, cylinders and ellipsoids, one by one or as things of the catalogues, in metres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepgmr.datasets.worlds import sections, shapes
from deepgmr.datasets.worlds.lofts import Assembly
from deepgmr.datasets.worlds.sections import Draw
from deepgmr.datasets.worlds.sensors import BALL, BOX, CYLINDER, Floats, Scene

# Families of `shapes` that furnish, with the range of their largest side in metres and how often they come.
FURNITURE = {
    "table": (0.8, 2.0, 3.0),
    "chair": (0.8, 1.1, 4.0),
    "stool": (0.4, 0.8, 1.0),
    "sofa": (1.2, 2.4, 1.5),
    "bed": (1.8, 2.2, 1.0),
    "shelf": (0.8, 2.2, 2.0),
    "cabinet": (0.5, 2.1, 3.0),
    "lamp": (0.4, 1.7, 1.0),
    "screen": (0.4, 1.2, 1.0),
    "board": (0.4, 1.6, 0.7),
    "stairs": (0.8, 2.0, 0.3),
    "tree": (0.4, 1.6, 0.6),
    "vessel": (0.1, 0.5, 0.5),
    "person": (1.5, 1.9, 0.3),
}
THINGS = {
    "vessel": (0.08, 0.3, 3.0),
    "lamp": (0.2, 0.5, 0.7),
    "screen": (0.25, 0.6, 1.0),
    "board": (0.15, 0.5, 1.0),
    "car": (0.1, 0.25, 0.7),
    "instrument": (0.2, 0.6, 0.7),
    "cabinet": (0.1, 0.4, 1.0),
    "stool": (0.1, 0.3, 0.5),
    "person": (0.1, 0.3, 0.5),
    "airplane": (0.15, 0.4, 0.5),
}
TRAFFIC = {"car": (3.8, 5.5, 4.0), "person": (1.5, 1.9, 1.0), "tree": (2.0, 6.0, 1.0), "tent": (2.5, 6.0, 0.3)}


class Builder:
    """Primitives of one scene, collected."""

    def __init__(self) -> None:
        self.kinds: list[NDArray[np.int8]] = []
        self.linears: list[Floats] = []
        self.centres: list[Floats] = []
        self.roughs: list[Floats] = []

    def add(self, kind: Any, linear: Floats, centre: Floats, rough: Any = 0.0) -> None:
        count = len(centre)
        self.kinds.append(np.broadcast_to(np.asarray(kind, np.int8), (count,)))
        self.linears.append(np.asarray(linear, np.float32))
        self.centres.append(np.asarray(centre, np.float32))
        self.roughs.append(np.broadcast_to(np.asarray(rough, np.float32), (count,)))

    def boxes(self, centre: Any, half: Any, yaw: Any = 0.0, *, kind: Any = BOX, rough: float = 0.0) -> None:
        """Upright primitives: centres (n, 3), half-sizes (n, 3), turned by `yaw` (n,)."""
        centre, half = np.broadcast_arrays(np.atleast_2d(centre), np.atleast_2d(half))
        angle = np.broadcast_to(yaw, (len(centre),)).astype(np.float32)
        self.add(kind, sections.about(2, angle) * half[:, None, :], centre, rough)

    def scene(self, walls: Floats | None = None, *, ground: bool = False) -> Scene:
        return Scene(
            kind=np.concatenate(self.kinds),
            linear=np.concatenate(self.linears),
            centre=np.concatenate(self.centres),
            rough=np.concatenate(self.roughs),
            walls=walls,
            ground=ground,
        )


@dataclass(frozen=True, eq=False)
class Piece:
    """A thing made of primitives, standing on z = 0 at the origin, in metres."""

    kind: NDArray[np.int8]
    linear: Floats
    centre: Floats
    half: Floats  # (3,) of the box around it; it reaches from 0 to 2 * half[2]


def draw_pieces(
    count: int, catalogue: dict[str, tuple[float, float, float]], rng: np.random.Generator, draw: Draw
) -> list[Piece]:
    """Random things from a catalogue: family -> (smallest, largest side in metres, weight)."""
    names = list(catalogue)
    weight = np.array([catalogue[name][2] for name in names])
    chosen = rng.choice(len(names), count, p=weight / weight.sum())
    pieces: list[Piece | None] = [None] * count
    for k in np.unique(chosen):
        rows = np.flatnonzero(chosen == k)
        small, large, _ = catalogue[names[k]]
        size = rng.uniform(small, large, len(rows))
        for row, piece in zip(rows, _simplified(shapes.FAMILIES[names[k]](len(rows), draw), size), strict=True):
            pieces[row] = piece
    return [piece for piece in pieces if piece is not None]


def _simplified(assembly: Assembly, size: Floats) -> list[Piece]:
    """The parts of an assembly as boxes, cylinders and ellipsoids, its largest side `size` (n,) metres."""
    rows = assembly.prisms + assembly.lofts
    square = np.abs(sections.SQUARE - 1).sum() / 2
    kinds = [np.where(np.abs(row[3] - 1).sum(-1) > square, BOX, CYLINDER) for row in assembly.prisms]
    kinds += [np.where(row[4].any(-1), BALL, CYLINDER) for row in assembly.lofts]  # no inside: a vessel or a ring
    kind, linear = np.stack(kinds, axis=1).astype(np.int8), np.stack([row[0] for row in rows], axis=1)
    centre, exists = np.stack([row[1] for row in rows], axis=1), np.stack([row[2] for row in rows], axis=1) > 0
    pieces = []
    for i in range(assembly.count):
        there = exists[i] & (np.abs(np.linalg.det(linear[i])) > 1e-9)
        k, a, c = kind[i, there], linear[i, there], centre[i, there]
        reach = np.abs(a).sum(axis=2)
        low, high = (c - reach).min(axis=0), (c + reach).max(axis=0)
        scale = size[i] / (high - low).max()
        base = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        pieces.append(Piece(k, a * scale, (c - base) * scale, (high - low) / 2 * scale))
    return pieces


def place(builder: Builder, piece: Piece, where: Floats, yaw: float) -> None:
    turn = sections.about(2, np.array([yaw], np.float32))[0]
    builder.add(piece.kind, turn @ piece.linear, piece.centre @ turn.T + where)
