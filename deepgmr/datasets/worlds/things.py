"""Vehicles, people, instruments, screens, frames, basins, plants: random things out of lofts, `n` at once, z up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepgmr.datasets.worlds import sections
from deepgmr.datasets.worlds.furniture import leaves, legs, xyz
from deepgmr.datasets.worlds.lofts import Assembly
from deepgmr.datasets.worlds.primitives import any_section
from deepgmr.datasets.worlds.sections import CIRCLE, SQUARE, Draw, Floats, about


def airplane(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    body, thick = d.uniform(0.7, 1, n), d.uniform(0.07, 0.16, n)
    zero = 0 * body
    forward: Floats = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float32)[None]  # z of the loft along x
    a.loft(sections.capsule(d.uniform(0.15, 0.7, n)), xyz(zero, zero, zero), xyz(thick, thick, body), rotation=forward)
    span, chord, sweep = d.uniform(0.4, 1, n), d.uniform(0.1, 0.28, n), d.uniform(0, 2, n)
    where, high = d.uniform(-0.2, 0.3, n) * body, d.uniform(-0.8, 0.8, n) * thick
    taper = np.stack([d.uniform(0.25, 0.9, n), d.uniform(0.4, 1, n)], axis=1)
    lift = d.uniform(-0.1, 0.25, n)
    tail, tail_chord = d.uniform(0.15, 0.4, n), d.uniform(0.06, 0.14, n)
    engines = d.chance(0.6, n), d.chance(0.25, n)
    for side in (1, -1):
        out = np.array([[1, 0, 0], [0, 0, side], [0, -side, 0]], np.float32)  # z of the prism out to the side
        roll = about(0, side * lift)
        shift = np.stack([-sweep, zero], axis=1)
        wing = (roll @ xyz(where, side * span, high)[..., None])[..., 0]
        a.prism(wing, xyz(chord, 0.02 + zero, span), section=SQUARE, top=taper, shift=shift, rotation=roll @ out)
        centre = xyz(-0.85 * body, side * tail, 0.4 * thick)
        a.prism(centre, xyz(tail_chord, 0.012 + zero, tail), section=SQUARE, top=taper, shift=shift, rotation=out[None])
        for shown, along in zip(engines, (0.35, 0.7), strict=True):
            centre = xyz(where - sweep * chord * along + 0.1, side * span * 2 * along, high - 0.08)
            size = np.array([0.05, 0.05, 0.13])
            a.prism(centre, size, section=CIRCLE, rotation=forward, present=shown)
    fin = d.uniform(0.12, 0.3, n)
    a.prism(
        xyz(-0.85 * body, zero, thick + fin),
        xyz(tail_chord, 0.012 + zero, fin),
        top=taper,
        shift=np.stack([-d.uniform(0, 1.5, n), zero], axis=1),
    )
    return a


def car(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.7, 1, n), d.uniform(0.25, 0.45, n), d.uniform(0.08, 0.2, n)
    zero, r = 0 * x, d.uniform(0.1, 0.2, n)
    a.prism(xyz(zero, zero, r + h), xyz(x, y, h), top=np.stack([d.uniform(0.85, 1, n), d.uniform(0.8, 1, n)], 1))
    cabin, place = d.uniform(0.35, 0.9, n) * x, d.uniform(-0.3, 0.2, n) * x
    top = np.stack([d.uniform(0.5, 1, n), d.uniform(0.7, 1, n)], axis=1)
    tall = d.uniform(0.1, 0.35, n)
    a.prism(xyz(place, zero, r + 2 * h + tall), xyz(cabin, 0.9 * y, tall), top=top)
    axle, lying = d.uniform(0.55, 0.75, n) * x, about(0, np.full(n, np.pi / 2, np.float32))
    for sx in (1, -1):
        for sy in (1, -1):
            a.prism(xyz(sx * axle, sy * y, r), xyz(r, r, 0.06 + zero), section=CIRCLE, rotation=lying)
    a.prism(xyz(-0.9 * x, zero, r + 2 * h + 0.1), xyz(0.05 + zero, y, 0.015 + zero), present=d.chance(0.25, n))
    return a


def stairs(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    steps, rise, wide = d.integer(3, 11, n), d.uniform(0.05, 0.12, n), d.uniform(0.2, 0.6, n)
    run, solid = d.uniform(0.06, 0.15, n), d.chance(0.6, n)
    spiral = np.where(d.chance(0.25, n), d.uniform(0.2, 0.5, n), 0)
    for i in range(10):
        spin = about(2, spiral * i)
        half = xyz(run, wide, np.where(solid, rise * (i + 1), 0.25 * rise))
        height = np.where(solid, rise * (i + 1), 2 * rise * (i + 1))
        straight = xyz(run * 2 * i, 0 * run, height)
        around = (spin @ xyz(0 * run, wide, 0 * run)[..., None])[..., 0] + xyz(0 * run, 0 * run, height)
        a.prism(np.where((spiral > 0)[:, None], around, straight), half, rotation=spin, present=i < steps)
    rail = d.chance(0.4, n) & (spiral == 0)
    s = np.linspace(0, 1, sections.LEVELS - 2, dtype=np.float32)[None]
    for side in (1, -1):
        along = run[:, None] * 2 * steps[:, None] * s
        line = np.stack([along, 0 * s + side * wide[:, None], 2 * rise[:, None] * steps[:, None] * s + 0.35], axis=-1)
        a.sweep(line.astype(np.float32), np.full(n, 0.025, np.float32), present=rail)
    return a


def person(n: int, d: Draw) -> Assembly:
    """Limbs on a trunk."""
    a = Assembly(n)
    hip, trunk, wide = d.uniform(0.35, 0.5, n), d.uniform(0.2, 0.3, n), d.uniform(0.1, 0.2, n)
    zero = 0 * hip
    limb = sections.capsule(np.full(n, 0.2, np.float32))
    chest = xyz(0.6 * wide, wide, trunk)
    a.loft(
        sections.ball(0.6), xyz(zero, zero, 2 * hip + trunk), chest, section=sections.superellipse(d.uniform(2, 4, n))
    )
    head = d.uniform(0.08, 0.12, n)
    a.loft(sections.ball(), xyz(zero, zero, 2 * hip + 2 * trunk + 1.2 * head), xyz(head, head, 1.2 * head))
    for side in (1, -1):
        for top, long, thick, out in ((2 * hip, hip, 0.07, 0.5), (2 * hip + 1.9 * trunk, 0.28 + zero, 0.05, 1.0)):
            swing = about(0, side * d.uniform(0, 0.5 if out < 0.8 else 1.5, n)) @ about(1, d.uniform(-0.6, 0.6, n))
            hang = (swing @ xyz(zero, zero, -long)[..., None])[..., 0]
            a.loft(
                limb, xyz(zero, side * out * wide, top) + hang, xyz(thick + zero, thick + zero, long), rotation=swing
            )
    return a


def instrument(n: int, d: Draw) -> Assembly:
    """Guitars, rackets, bottles on their side: a flat body, a neck, a head."""
    a = Assembly(n)
    body, deep, neck = d.uniform(0.2, 0.35, n), d.uniform(0.02, 0.08, n), d.uniform(0.25, 0.45, n)
    zero = 0 * body
    waist = d.uniform(0.6, 0.95, n)
    a.prism(xyz(zero, zero, zero), xyz(1.2 * body, body, deep), section=any_section(n, d))
    a.prism(xyz(1.3 * body, zero, zero), xyz(waist * body, 0.85 * waist * body, deep), section=CIRCLE)
    reach = 1.3 * body + waist * body
    a.prism(xyz(reach + neck, zero, deep), xyz(neck, 0.03 + zero, 0.02 + zero))
    a.prism(xyz(reach + 2 * neck, zero, deep), xyz(0.08 + zero, 0.05 + zero, 0.015 + zero), top=d.uniform(0.5, 1, n, 2))
    return a


def screen(n: int, d: Draw) -> Assembly:
    """Monitors, laptops, pictures on a stand."""
    a = Assembly(n)
    x, z, thick = d.uniform(0.5, 1, n), d.uniform(0.3, 0.65, n), d.uniform(0.01, 0.08, n)
    zero = 0 * x
    laptop = d.chance(0.4, n)
    tilt = about(0, np.where(laptop, d.uniform(-0.6, 0.4, n), d.uniform(-0.2, 0.2, n)))
    up = np.where(laptop, 0, d.uniform(0.05, 0.4, n))
    centre = (tilt @ xyz(zero, zero, z)[..., None])[..., 0] + xyz(zero, zero, up)
    a.prism(centre, xyz(x, thick, z), rotation=tilt)
    back = centre + (tilt @ xyz(zero, 1.5 * thick + 0.03, zero)[..., None])[..., 0]
    a.prism(back, xyz(0.5 * x, 0.06 + zero, 0.5 * z), rotation=tilt, present=~laptop & d.chance(0.5, n))
    a.prism(xyz(zero, 0.03 + zero, up / 2 + 0.1 * z), xyz(0.05 + zero, 0.02 + zero, up / 2 + 0.1 * z), present=~laptop)
    a.prism(xyz(zero, zero, zero), xyz(0.4 * x, 0.2 + zero, 0.02 + zero), section=any_section(n, d), present=~laptop)
    a.prism(xyz(zero, -z, zero), xyz(x, z, 0.025 + zero), present=laptop)
    keys(a, d, x, z, -z, laptop)
    return a


def keys(a: Assembly, d: Draw, x: Floats, y: Floats, middle: Floats, present: NDArray[np.bool_]) -> None:
    zero = 0 * x
    for i in range(4):
        for j in range(2):
            where = xyz((i - 1.5) / 2 * x, middle + (j - 0.3) * 0.6 * y, 0.04 + zero)
            a.prism(where, xyz(0.2 * x, 0.22 * y, 0.02 + zero), present=present)


def board(n: int, d: Draw) -> Assembly:
    """Keyboards, pianos, radios: a slab with rows of keys, knobs and a raised back."""
    a = Assembly(n)
    x, y, z = d.uniform(0.6, 1, n), d.uniform(0.15, 0.5, n), d.uniform(0.03, 0.25, n)
    zero = 0 * x
    a.prism(xyz(zero, zero, zero), xyz(x, y, z), top=np.stack([1 + zero, d.uniform(0.7, 1, n)], 1))
    keys(a, d, x, y, zero, d.chance(0.7, n))
    a.prism(xyz(zero, y, z), xyz(x, 0.05 + zero, d.uniform(0.05, 0.5, n)), present=d.chance(0.5, n))
    for side in (1, -1):
        knob = d.uniform(0.03, 0.15, n)
        a.prism(xyz(side * 0.7 * x, 0.5 * y, z), xyz(knob, knob, 0.06 + zero), section=CIRCLE, present=d.chance(0.4, n))
    feet = d.uniform(0.05, 0.4, n)
    legs(a, d, x, y, feet, -z - 2 * feet, present=d.chance(0.3, n))
    return a


def frame(n: int, d: Draw) -> Assembly:
    """Doors, windows, curtains, mantels: thin rectangles with bars, panels or folds."""
    a = Assembly(n)
    y, z, bar = d.uniform(0.4, 0.9, n), d.uniform(0.5, 1, n), d.uniform(0.03, 0.12, n)
    zero, deep = 0 * y, d.uniform(0.02, 0.12, n)
    for side in (1, -1):
        a.prism(xyz(zero, side * y, zero), xyz(deep, bar, z))
    a.prism(xyz(zero, zero, z), xyz(deep * d.uniform(1, 2, n), y + bar, bar))
    a.prism(xyz(zero, zero, -z), xyz(deep, y + bar, bar), present=d.chance(0.6, n))
    a.prism(xyz(zero, zero, zero), xyz(0.3 * deep, y, z), present=d.chance(0.5, n))
    a.prism(xyz(zero, zero, d.uniform(-0.5, 0.5, n) * z), xyz(deep, y, 0.5 * bar), present=d.chance(0.4, n))
    folds = d.chance(0.35, n)
    for i in range(6):
        where = xyz(zero, (i - 2.5) / 3 * y, zero)
        thick = d.uniform(0.05, 0.15, n)
        a.prism(where, xyz(0.5 * thick, thick, z), section=CIRCLE, top=d.uniform(0.6, 1, n, 1), present=folds)
    knob = xyz(deep + 0.03, 0.8 * y, zero)
    a.loft(sections.ball(), knob, np.full(3, 0.04), present=d.chance(0.4, n))
    return a


def tent(n: int, d: Draw) -> Assembly:
    """Roofs and tents: a ridge over walls."""
    a = Assembly(n)
    x, y, h, wall = d.uniform(0.5, 1, n), d.uniform(0.3, 0.8, n), d.uniform(0.2, 0.6, n), d.uniform(0.02, 0.5, n)
    zero = 0 * x
    a.prism(xyz(zero, zero, wall), xyz(x, y, wall))
    ridge = np.stack([np.where(d.chance(0.5, n), 1, d.uniform(0, 1, n)), d.uniform(0, 0.1, n)], axis=1)
    eaves = d.uniform(1, 1.2, n)
    a.prism(xyz(zero, zero, 2 * wall + h), xyz(eaves * x, eaves * y, h), top=ridge)
    place = d.uniform(-0.6, 0.6, n)
    a.prism(xyz(place * x, 0.5 * y, 2 * wall + h), xyz(0.08 + zero, 0.08 + zero, h), present=d.chance(0.4, n))
    a.prism(xyz(x, zero, wall), xyz(d.uniform(0.05, 0.3, n), 0.3 * y, 0.7 * wall), present=d.chance(0.5, n))
    return a


def basin(n: int, d: Draw) -> Assembly:
    """Sinks, bathtubs, toilets: an open basin on a foot, a tank behind it, a tap."""
    a = Assembly(n)
    x, y, z = d.uniform(0.4, 1, n), d.uniform(0.3, 0.6, n), d.uniform(0.15, 0.35, n)
    zero = 0 * x
    section = sections.superellipse(d.uniform(2, 9, n))
    wall, floor = d.uniform(0.05, 0.2, n), d.uniform(-0.8, -0.2, n)
    foot = d.uniform(0.5, 1, n)
    radius = np.stack([zero, foot, 1 + zero, 1 - wall, foot - wall * foot, zero], axis=1)
    height = np.stack([-1 + zero, -1 + zero, 1 + zero, 1 + zero, floor, floor], axis=1)
    profile = sections.padded(np.stack([radius, height], axis=-1))
    a.loft(profile, np.zeros(3), xyz(x, y, z), section=section, solid=False)
    pedestal, width = d.chance(0.5, n), d.uniform(0.1, 0.4, n)
    a.prism(xyz(zero, zero, -z - 0.3), xyz(width, width, 0.3 + zero), section=section, present=pedestal)
    tank = d.chance(0.4, n)
    a.prism(xyz(-x - 0.12, zero, z + 0.1), xyz(0.12 + zero, 0.9 * y, d.uniform(0.2, 0.4, n)), present=tank)
    lid = about(1, d.uniform(-1.7, -1.2, n))
    above = xyz(-x, zero, z) + (lid @ xyz(x, zero, zero)[..., None])[..., 0]
    a.prism(above, xyz(x, y, 0.02 + zero), section=section, rotation=lid, present=tank & d.chance(0.6, n))
    s = np.linspace(0, 1, sections.LEVELS - 2, dtype=np.float32)[None]
    bow = np.stack([-x[:, None] + 0.35 * s, 0 * s + 0 * x[:, None], z[:, None] + 0.35 * np.sin(2.4 * s)], axis=-1)
    a.sweep(bow.astype(np.float32), np.full(n, 0.03, np.float32), present=~tank)
    return a


def tree(n: int, d: Draw) -> Assembly:
    """Plants: a pot or none, a stem, branches, leaves or a crown."""
    a = Assembly(n)
    pot, tall = d.uniform(0.1, 0.35, n), d.uniform(0.1, 0.5, n)
    zero = 0 * pot
    a.prism(xyz(zero, zero, -0.25 + zero), xyz(pot, pot, 0.25 + zero), section=CIRCLE, top=d.uniform(1, 1.4, n, 1))
    a.prism(xyz(zero, zero, tall), xyz(0.03 + zero, 0.03 + zero, tall), section=CIRCLE)
    leaves(a, d, 12, 2 * tall, d.chance(0.75, n))
    crown = d.chance(0.3, n)
    for _ in range(3):
        where = d.uniform(-0.25, 0.25, n, 3) + xyz(zero, zero, 2 * tall + 0.2)
        a.loft(
            sections.ball(d.uniform(0.6, 1.6, n)),
            where,
            d.uniform(0.15, 0.4, n, 3),
            section=sections.blob(d, n),
            present=crown,
        )
    return a
