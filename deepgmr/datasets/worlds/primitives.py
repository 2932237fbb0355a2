"""Primitives and unions of them, drawn a family at a time: each function builds `n` random shapes at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepgmr.datasets.worlds import sections
from deepgmr.datasets.worlds.lofts import Assembly
from deepgmr.datasets.worlds.sections import CIRCLE, SQUARE, Draw, Floats, about

Family = Callable[[int, Draw], Assembly]

# -- primitives ----------------------------------------------------------------------------------------------------


def sizes(d: Draw, n: int, low: float = 0.25) -> Floats:
    """Random half-sizes (n, 3), each axis log-uniform between `low` and 1."""
    return np.exp(d.uniform(np.log(low), 0, n, 3))


def one(
    section: Callable[[int, Draw], Floats] | Floats = SQUARE, low: float = 0.25, top: tuple[float, float] = (1, 1)
) -> Family:
    """A family of single prisms."""

    def family(n: int, d: Draw) -> Assembly:
        a = Assembly(n)
        rho = section(n, d) if callable(section) else section
        a.prism(np.zeros(3), sizes(d, n, low), section=rho, top=d.uniform(*top, n, 1).repeat(2, 1))
        return a

    return family


def turned(profile: Callable[[int, Draw], Floats], *, solid: bool = True, section: bool = False) -> Family:
    """A family of single lofts, round or (with `section`) carried around a random section."""

    def family(n: int, d: Draw) -> Assembly:
        a = Assembly(n)
        rho = any_section(n, d) if section else CIRCLE
        a.loft(profile(n, d), np.zeros(3), sizes(d, n), section=rho, solid=solid)
        return a

    return family


def any_section(n: int, d: Draw) -> Floats:
    """Sections (n, 24) of every kind: fixed ones, superellipses, blobs."""
    fixed = sections.PROFILES[d.integer(0, len(sections.PROFILES), n)]
    smooth = np.where(d.chance(0.5, n, 1), sections.superellipse(d.uniform(0.8, 6, n)), sections.blob(d, n))
    return np.where(d.chance(0.6, n, 1), fixed, smooth)


def wedge(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    top = np.stack([d.uniform(0, 0.4, n), d.uniform(0.3, 1, n)], axis=1)
    a.prism(np.zeros(3), sizes(d, n), top=top, shift=d.uniform(-0.7, 0.7, n, 2))
    return a


def torus(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    thick = d.uniform(0.1, 0.9, n)
    half = sizes(d, n, 0.6) * np.stack([np.ones(n), np.ones(n), thick / 2], axis=1)
    a.loft(
        sections.ring(thick),
        np.zeros(3),
        half,
        section=np.where(d.chance(0.6, n, 1), CIRCLE, any_section(n, d)),
        solid=False,
    )
    return a


def helix(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    turns, wire, pitch = d.uniform(1, 2.5, n, 1), d.uniform(0.05, 0.16, n), d.uniform(0.3, 0.9, n, 1)
    for piece in range(3):  # chained, because one loft has too few levels for three turns
        s = (np.linspace(0, 1, sections.LEVELS - 2)[None] + piece) / 3
        angle = 2 * np.pi * turns * s
        spine = np.stack([np.cos(angle), np.sin(angle), pitch * turns * (2 * s - 1)], axis=-1)
        a.sweep(spine.astype(np.float32), wire)
    return a


def swept(n: int, d: Draw) -> Assembly:
    """A tube along a smooth random curve, perhaps tapering."""
    a = Assembly(n)
    s = np.linspace(-1, 1, sections.LEVELS - 2, dtype=np.float32)[None, :, None]
    spine = s * d.normal(n, 1, 3)
    for order in (1, 2, 3):
        spine = spine + d.normal(n, 1, 3) * 0.6 / order * np.sin(order * 1.5 * s + d.uniform(0, 6, n, 1, 3))
    size = d.uniform(0.08, 0.3, n, 1) * (1 + d.uniform(-0.6, 0.6, n, 1) * s[..., 0])
    a.sweep(spine.astype(np.float32), size, section=any_section(n, d))
    return a


# -- unions --------------------------------------------------------------------------------------------------------


def part(a: Assembly, d: Draw, centre: Floats, half: Floats, rotation: Floats | None) -> None:
    """One random primitive in every shape; which kind is drawn shape by shape."""
    n = a.count
    kind = d.uniform(0, 1, n)
    top = np.where(d.chance(0.6, n, 1), 1.0, d.uniform(0, 1, n, 2))
    a.prism(centre, half, section=any_section(n, d), top=top, rotation=rotation, present=kind < 0.6)
    profile = np.where(
        d.chance(0.5, n, 1, 1),
        sections.ball(np.where(d.chance(0.6, n), 1, d.uniform(0.2, 2, n))),
        sections.turned(d, n),
    )
    present = (kind >= 0.6) & (kind < 0.85)
    a.loft(profile, centre, half, section=any_section(n, d), rotation=rotation, present=present)
    loop = np.where(
        d.chance(0.5, n, 1, 1),
        sections.ring(d.uniform(0.15, 0.7, n)),
        sections.ring(d.uniform(0.05, 0.4, n), square=True),
    )
    a.loft(loop, centre, half, section=any_section(n, d), rotation=rotation, present=kind >= 0.85, solid=False)


def aligned(n: int, d: Draw, share: float) -> Floats:
    """Rotations (n, 3, 3): quarter turns for `share` of the rows, anything for the others."""
    quarter = np.stack([np.eye(3), [[0, 0, 1], [1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]])
    chosen = quarter[d.integer(0, 3, n)].astype(np.float32)
    return np.where(d.chance(share, n, 1, 1), chosen, d.rotations(n))


def union(parts: int, *, spread: float = 0.5, square: float = 0.5) -> Family:
    def family(n: int, d: Draw) -> Assembly:
        a = Assembly(n)
        for i in range(parts):
            size = sizes(d, n, 0.15) * (1.0 if i == 0 else 0.6)
            centre = d.uniform(-spread, spread, n, 3) * (i > 0)
            part(a, d, centre, size, aligned(n, d, square))
        return a

    return family


def mirrored(n: int, d: Draw) -> Assembly:
    """A body with pairs of parts on both sides of a plane."""
    a = Assembly(n)
    body = sizes(d, n, 0.2)
    part(a, d, np.zeros((n, 3), np.float32), body, None)
    for _ in range(3):
        half = sizes(d, n, 0.1) * 0.45
        centre = d.uniform(-1, 1, n, 3) * body
        angle = d.uniform(-0.7, 0.7, n)
        section, top = any_section(n, d), d.uniform(0.2, 1, n, 2)
        axis = d.integer(0, 2, n)
        for side in (1.0, -1.0):
            where = centre * np.array([1, side, 1], np.float32)
            where[:, 1] += side * 0.3 * body[:, 1]
            tilt = np.where((axis == 0)[:, None, None], about(0, side * angle), about(2, side * angle))
            mirror = section if side > 0 else section[:, (-np.arange(sections.ANGLES)) % sections.ANGLES]
            a.prism(where, half, section=mirror, top=top, rotation=tilt)
    return a


def rosette(n: int, d: Draw) -> Assembly:
    """Copies of a part around an axis: wheels, fans, flowers, gears."""
    a = Assembly(n)
    copies = d.integer(3, 9, n)
    hub = d.uniform(0.1, 0.5, n)
    a.prism(np.zeros(3), np.stack([hub, hub, d.uniform(0.05, 0.6, n)], 1), section=any_section(n, d))
    half = np.stack([d.uniform(0.2, 0.6, n), d.uniform(0.04, 0.2, n), d.uniform(0.03, 0.3, n)], axis=1)
    section, pitch = any_section(n, d), np.where(d.chance(0.5, n), 0, d.uniform(-0.8, 0.8, n))
    for i in range(8):
        angle = 2 * np.pi * i / copies
        reach = hub + 0.8 * half[:, 0]
        centre = np.stack([reach * np.cos(angle), reach * np.sin(angle), 0 * angle], axis=1)
        a.prism(centre, half, section=section, rotation=about(2, angle) @ about(0, pitch), present=i < copies)
    rim = d.chance(0.5, n)
    wide = (hub + 1.6 * half[:, 0])[:, None] * np.ones(3, np.float32)
    wide[:, 2] = half[:, 2]
    a.loft(sections.ring(d.uniform(0.08, 0.2, n), square=True), np.zeros(3), wide, present=rim, solid=False)
    return a
