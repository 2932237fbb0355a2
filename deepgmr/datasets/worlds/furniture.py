"""Tables, chairs, beds, shelves, lamps, vessels: random furniture out of lofts, `n` pieces at once, z up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepgmr.datasets.worlds import sections
from deepgmr.datasets.worlds.lofts import Assembly
from deepgmr.datasets.worlds.primitives import any_section
from deepgmr.datasets.worlds.sections import CIRCLE, SQUARE, Draw, Floats, about


def xyz(*columns: Floats | float) -> Floats:
    """(n, 3) from three columns."""
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float32)


def legs(a: Assembly, d: Draw, x: Floats, y: Floats, height: Floats, floor: Floats, **more: NDArray[np.bool_]) -> None:
    """Four legs of one kind from `floor` up by 2 * `height`, perhaps thinner or splayed at the foot."""
    n = a.count
    thick, slender = d.uniform(0.02, 0.09, n), d.uniform(0.5, 1.0, n)
    section = np.where(d.chance(0.5, n, 1), SQUARE, CIRCLE)
    splay = np.where(d.chance(0.6, n), 0, d.uniform(0, 2.5, n))
    for sx, sy in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        centre = xyz(sx * (x - thick), sy * (y - thick), floor + height)
        # Built upside down, so that `top` and `shift` act on the foot.
        half, flip = xyz(thick, thick, height), np.diag([1, -1, -1]).astype(np.float32)
        shift = np.stack([sx * splay, -sy * splay], axis=1)
        a.prism(centre, half, section=section, top=slender[:, None], shift=shift, rotation=flip[None], **more)


def table(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.4, 1, n), d.uniform(0.3, 0.8, n), d.uniform(0.2, 0.6, n)
    thick = d.uniform(0.015, 0.08, n)
    round_top = d.chance(0.25, n, 1)
    a.prism(xyz(0 * h, 0 * h, 2 * h + thick), xyz(x, y, thick), section=np.where(round_top, CIRCLE, SQUARE))
    post = d.chance(0.25, n)
    inset = np.where(round_top[:, 0], 0.68, 1.0) * d.uniform(0.8, 1, n)
    legs(a, d, x * inset, y * inset, h, 0 * h, present=~post)
    r = d.uniform(0.04, 0.15, n)
    a.prism(xyz(0 * h, 0 * h, h), xyz(r, r, h), section=CIRCLE, present=post)
    foot = d.uniform(0.4, 0.7, n)
    foot_size = xyz(foot * x, foot * y, 0.03 + 0 * h)
    a.prism(xyz(0 * h, 0 * h, 0 * h), foot_size, section=any_section(n, d), present=post)
    shelf = d.chance(0.3, n) & ~post
    a.prism(xyz(0 * h, 0 * h, d.uniform(0.3, 1.2, n) * h), xyz(0.9 * x, 0.9 * y, 0.7 * thick), present=shelf)
    drawer = d.chance(0.4, n) & ~post
    side = np.where(d.chance(0.5, n), 1, -1) * 0.6 * x
    a.prism(xyz(side, 0 * h, 1.5 * h), xyz(0.35 * x, 0.9 * y, 0.5 * h), present=drawer)
    return a


def chair(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.3, 0.5, n), d.uniform(0.3, 0.5, n), d.uniform(0.2, 0.4, n)
    thick, back = d.uniform(0.02, 0.12, n), d.uniform(0.25, 0.7, n)
    seat = 2 * h + thick
    zero = 0 * h
    a.prism(xyz(zero, zero, seat), xyz(x, y, thick), section=sections.superellipse(d.uniform(2, 12, n)))
    swivel = d.chance(0.2, n)
    legs(a, d, x, y, h, zero, present=~swivel)
    a.prism(xyz(zero, zero, h), xyz(0.06 + zero, 0.06 + zero, h), section=CIRCLE, present=swivel)
    for i in range(5):
        spin = about(2, np.full(n, 2 * np.pi * i / 5, np.float32))
        where = 0.2 * spin[:, :, 0] + np.array([0, 0, 0.03], np.float32)
        a.prism(where, np.array([0.2, 0.03, 0.03]), rotation=spin, present=swivel)
    lean = about(1, d.uniform(-0.3, 0.0, n))
    slats = d.chance(0.4, n)
    behind = np.stack([-x + 0.04, zero, seat], axis=1)
    rise = lean @ np.stack([zero, zero, back], axis=1)[..., None]
    half = xyz(d.uniform(0.02, 0.07, n), y, back)
    a.prism(behind + rise[..., 0], half, top=d.uniform(0.6, 1, n, 1) * [1, 1], rotation=lean, present=~slats)
    for i in range(4):
        share = (i - 1.5) / 1.6
        where = behind + (lean @ np.stack([zero, share * y, back], axis=1)[..., None])[..., 0]
        a.prism(where, xyz(0.02 + zero, 0.05 + zero, back), rotation=lean, present=slats)
    rail = behind + (lean @ np.stack([zero, zero, 1.9 * back], axis=1)[..., None])[..., 0]
    a.prism(rail, xyz(0.03 + zero, y, 0.1 * back), rotation=lean, present=slats)
    arms = d.chance(0.45, n)
    for side in (1, -1):
        a.prism(xyz(0 * x, side * y, seat + 0.3), xyz(x, 0.04 + zero, 0.03 + zero), present=arms)
        a.prism(xyz(0.8 * x, side * y, seat + 0.15), xyz(0.03 + zero, 0.03 + zero, 0.15 + zero), present=arms)
    return a


def stool(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    r, h, thick = d.uniform(0.25, 0.5, n), d.uniform(0.3, 0.7, n), d.uniform(0.02, 0.1, n)
    zero = 0 * h
    a.prism(xyz(zero, zero, 2 * h + thick), xyz(r, r, thick), section=any_section(n, d))
    legs(a, d, 0.65 * r, 0.65 * r, h, zero)
    hoop = xyz(0.7 * r, 0.7 * r, 0.03 + zero)
    a.loft(sections.ring(d.uniform(0.1, 0.2, n)), xyz(zero, zero, 0.7 * h), hoop, present=d.chance(0.5, n), solid=False)
    return a


def sofa(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.3, 0.5, n), d.uniform(0.4, 1, n), d.uniform(0.12, 0.25, n)
    zero, arm, back = 0 * h, d.uniform(0.05, 0.14, n), d.uniform(0.2, 0.5, n)
    soft = sections.superellipse(d.uniform(4, 12, n))
    a.prism(xyz(zero, zero, h), xyz(x, y, h), section=SQUARE)
    a.prism(
        xyz(-x + arm, zero, 2 * h + back), xyz(arm, y, back), section=soft, rotation=about(1, d.uniform(-0.2, 0, n))
    )
    high = h + d.uniform(0.02, 0.3, n)
    for side in (1, -1):
        a.prism(xyz(zero, side * (y + arm), high), xyz(x, arm, high), section=SQUARE)
    cushions = d.integer(1, 4, n)
    for i in range(3):
        wide = y / cushions
        where = xyz(arm, -y + wide * (2 * i + 1), 2 * h + 0.05)
        a.prism(where, xyz(x - arm, 0.94 * wide, 0.06 + zero), section=soft, present=i < cushions)
    return a


def bed(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.7, 1, n), d.uniform(0.35, 0.8, n), d.uniform(0.06, 0.18, n)
    zero, feet = 0 * h, d.uniform(0.02, 0.15, n)
    a.prism(xyz(zero, zero, 2 * feet + h), xyz(x, y, h))
    a.prism(xyz(0.02 + zero, zero, 2 * (feet + h) + 0.05), xyz(0.96 * x, 0.96 * y, 0.06 + zero))
    head, foot = d.uniform(0.15, 0.5, n), d.uniform(0.1, 0.3, n)
    a.prism(xyz(-x, zero, head), xyz(0.03 + zero, y, head), top=d.uniform(0.7, 1, n, 1) * [1, 1])
    a.prism(xyz(x, zero, foot), xyz(0.03 + zero, y, foot), present=d.chance(0.6, n))
    legs(a, d, x, y, feet, zero)
    for side in (-0.5, 0.5):
        where = xyz(-0.75 * x, side * y, 2 * (feet + h) + 0.14)
        a.loft(sections.ball(0.5), where, xyz(0.15 + zero, 0.38 * y, 0.05 + zero), section=SQUARE)
    return a


def shelf(n: int, d: Draw) -> Assembly:
    """Boards in a frame: bookshelves, racks, desks seen from behind, xboxes of boards."""
    a = Assembly(n)
    x, y, z = d.uniform(0.1, 0.35, n), d.uniform(0.25, 0.8, n), d.uniform(0.4, 1, n)
    zero, thick = 0 * x, d.uniform(0.01, 0.04, n)
    for side in (1, -1):
        a.prism(xyz(zero, side * y, zero), xyz(x, thick, z))
    boards = d.integer(2, 8, n)
    for i in range(7):
        level = -z + 2 * z * i / (boards - 1)
        a.prism(xyz(zero, zero, level), xyz(x, y, thick), present=i < boards)
    a.prism(xyz(-x, zero, zero), xyz(0.5 * thick, y, z), present=d.chance(0.6, n))
    middle = d.uniform(-0.5, 0.5, n) * y
    a.prism(xyz(zero, middle, zero), xyz(x, thick, z), present=d.chance(0.4, n))
    for _ in range(4):  # things on it
        where = np.stack([zero, d.uniform(-0.9, 0.9, n) * y, d.uniform(-0.9, 0.9, n) * z], axis=1)
        a.prism(where, d.uniform(0.02, 0.12, n, 3), section=any_section(n, d), present=d.chance(0.4, n))
    return a


def cabinet(n: int, d: Draw) -> Assembly:
    """A box with doors or drawers, handles, a top and feet."""
    a = Assembly(n)
    x, y, z = d.uniform(0.2, 0.5, n), d.uniform(0.25, 0.8, n), d.uniform(0.25, 1, n)
    zero = 0 * x
    a.prism(xyz(zero, zero, zero), xyz(x, y, z))
    over = d.uniform(1, 1.15, n)
    a.prism(xyz(zero, zero, z), xyz(over * x, over * y, 0.03 + zero), present=d.chance(0.5, n))
    columns, rows = d.integer(1, 4, n), d.integer(1, 4, n)
    knob = d.chance(0.5, n)
    for i in range(3):
        for j in range(3):
            there = (i < columns) & (j < rows)
            wide, high = y / columns, z / rows
            where = xyz(x, -y + wide * (2 * i + 1), -z + high * (2 * j + 1))
            a.prism(where, xyz(0.025 + zero, 0.88 * wide, 0.88 * high), present=there)
            handle = where + xyz(0.045 + zero, zero, 0.4 * high)
            a.prism(handle, xyz(0.02 + zero, np.where(knob, 0.02, 0.4 * wide), 0.02 + zero), present=there)
    feet = d.uniform(0.02, 0.12, n)
    legs(a, d, x, y, feet, -z - 2 * feet, present=d.chance(0.5, n))
    return a


def lamp(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    h, r, wide = d.uniform(0.3, 0.9, n), d.uniform(0.1, 0.35, n), d.uniform(0.15, 0.5, n)
    zero, stem = 0 * h, d.uniform(0.015, 0.05, n)
    a.prism(
        xyz(zero, zero, 0.03 + zero), xyz(r, r, 0.03 + zero), section=any_section(n, d), top=d.uniform(0.5, 1, n, 1)
    )
    bent = d.chance(0.3, n)
    a.prism(xyz(zero, zero, h), xyz(stem, stem, h), section=CIRCLE, present=~bent)
    s = np.linspace(0, 1, sections.LEVELS - 2, dtype=np.float32)[None]
    reach, drop = d.uniform(0.3, 1, n, 1), d.uniform(0.1, 0.6, n, 1)
    arc = np.stack(
        [reach * s**3, 0 * s + 0 * reach, 2 * h[:, None] * np.sin(np.pi / 2 * s * (1 + drop * 0.5))], axis=-1
    )
    a.sweep(arc.astype(np.float32), stem, present=bent)
    top = np.where(bent[:, None], arc[:, -1], xyz(zero, zero, 2 * h)).astype(np.float32)
    shade, open_top = d.uniform(0.1, 0.3, n), d.uniform(0.2, 1, n)
    wall = np.full(n, 0.04, np.float32)
    radius = np.stack([np.ones(n), open_top, np.maximum(open_top - wall, 0.02), 1 - wall, np.ones(n)], axis=1)
    height = np.broadcast_to(np.array([-1, 1, 1, -1, -1]), radius.shape)
    section = np.where(d.chance(0.7, n, 1), CIRCLE, any_section(n, d))
    profile = sections.padded(np.stack([radius, height], axis=-1))
    a.loft(profile, top, xyz(wide, wide, shade), section=section, solid=False)
    a.loft(sections.ball(), top, xyz(0.07 + zero, 0.07 + zero, 0.1 + zero), present=d.chance(0.5, n))
    return a


def vessel(n: int, d: Draw) -> Assembly:
    """Cups, bowls, vases, pots and bottles, some with a handle, a spout, or a plant in them."""
    a = Assembly(n)
    half = xyz(*(d.uniform(0.3, 1, n),) * 2, d.uniform(0.3, 1, n))
    section = np.where(d.chance(0.75, n, 1), CIRCLE, any_section(n, d))
    closed = d.chance(0.35, n)
    a.loft(sections.turned(d, n), np.zeros(3), half, section=section, present=closed)
    a.loft(sections.vessel(d, n), np.zeros(3), half, section=section, present=~closed, solid=False)
    s = np.linspace(-1, 1, sections.LEVELS - 2, dtype=np.float32)[None]
    reach, span = d.uniform(0.2, 0.6, n, 1), d.uniform(0.3, 0.8, n, 1) * half[:, 2:]
    loop = np.stack([0.7 * half[:, :1] + reach * np.cos(np.pi / 2 * s), 0 * s + 0 * reach, span * s], axis=-1)
    wire = d.uniform(0.03, 0.09, n)
    a.sweep(loop.astype(np.float32), wire, present=d.chance(0.35, n))
    a.sweep((loop * np.array([-1, 1, 1])).astype(np.float32), wire, present=d.chance(0.12, n))
    leaves(a, d, 7, half[:, 2], d.chance(0.3, n))
    return a


def leaves(a: Assembly, d: Draw, leaves: int, base: Floats, present: NDArray[np.bool_]) -> None:
    n = a.count
    long, wide = d.uniform(0.2, 0.7, n), d.uniform(0.03, 0.2, n)
    for _ in range(leaves):
        tilt = about(2, d.uniform(0, 2 * np.pi, n)) @ about(1, d.uniform(0.1, 1.3, n))
        size = long * d.uniform(0.6, 1.2, n)
        centre = (tilt @ np.stack([0 * size, 0 * size, size], axis=1)[..., None])[..., 0]
        centre[:, 2] += 0.8 * base
        section = np.broadcast_to(CIRCLE, (n, sections.ANGLES))
        there = present & d.chance(0.8, n)
        a.loft(
            sections.ball(), centre, xyz(0.015 + 0 * wide, wide, size), section=section, rotation=tilt, present=there
        )
