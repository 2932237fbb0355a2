"""Suites of procedural worlds by name: `halls#s4-500k-8pairs-seed1`, made as they are asked for.

After the name of a world and `#` come words in any order, joined by `-`: points a cloud (`20000`, `500k`, `10M`), the
number of pairs (`8pairs`), a seed (`seed1`), and the options of the world (`s4`). What is left out is as the catalogue
of the worlds says. Of a name always the same pairs are made; with more points they are of the same worlds.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

from deepgmr.datasets.suites.fixed import LazyClouds, PairSuite
from deepgmr.datasets.worlds.catalogue import WORLDS
from deepgmr.datasets.worlds.planned import Planned
from deepgmr.errors import InvalidConfig

_KEPT = 2  # pairs whose clouds are kept
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000}


def is_procedural(name: str) -> bool:
    """Whether a suite is named after a world."""
    return name.partition("#")[0] in WORLDS


def read_procedural(name: str) -> PairSuite:
    """The suite of a name. Raises `InvalidConfig` for a word that means nothing."""
    world_name, _, text = name.partition("#")
    world = WORLDS[world_name]
    points, count, seed = world.points, world.pairs, 0
    options: dict[str, Any] = {}
    for word in filter(None, text.split("-")):
        number = re.fullmatch(r"([a-z]*)(\d+(?:\.\d+)?)([a-zA-Z]*)", word)
        before, value, after = number.groups() if number else ("", "", word)
        if word in world.words:
            options |= world.words[word]
        elif number and before in world.numbers and not after:
            options[world.numbers[before]] = float(value)
        elif number and not before and after in _UNITS:
            points = round(float(value) * _UNITS[after])
        elif number and not before and after == "pairs" and value.isdigit():
            count = int(value)
        elif number and before == "seed" and not after and value.isdigit():
            seed = int(value)
        else:
            raise InvalidConfig(f"{name}: `{word}` means nothing; give {_help(world_name)}, joined by -")
    if points < 1 or count < 1:
        raise InvalidConfig(f"{name}: cannot make {count} pairs of {points} points")
    generators = (np.random.default_rng([seed, i, *world_name.encode()]) for i in range(count))
    plans = [world.plan(rng, **options) for rng in generators]
    return planned_suite(name, plans, points, world_name)


def planned_suite(name: str, plans: list[Planned], points: int, prefix: str) -> PairSuite:
    """Planned pairs as a suite; their clouds of so many points are drawn when they are asked for."""

    @functools.lru_cache(_KEPT)
    def clouds(row: int) -> tuple[np.ndarray, np.ndarray]:
        return plans[row].clouds(points)

    rows, objects = np.arange(len(plans)), all(plan.shape is not None for plan in plans)
    judged: dict[str, Any] = {
        "kind": "scans",
        "tolerance_degrees": np.array([plan.degrees for plan in plans]),
        "tolerance_translation": np.array([plan.metres for plan in plans]),
    }
    if objects:
        judged = {"kind": "modelnet", "shapes": [plan.shape for plan in plans]}
    return PairSuite(
        name=name,
        sources=LazyClouds(lambda row: clouds(row)[0], rows),
        targets=LazyClouds(lambda row: clouds(row)[1], rows),
        transforms=np.stack([plan.target_from_source for plan in plans]),
        names=tuple(f"{prefix}_{i:03d}{'_ambiguous' * plan.ambiguous}" for i, plan in enumerate(plans)),
        scenes=tuple(f"{prefix}{' ambiguous' * plan.ambiguous}" for plan in plans),
        **judged,
    )


def _help(name: str) -> str:
    world = WORLDS[name]
    own = [f"{letters}NUMBER ({option})" for letters, option in world.numbers.items()] + list(world.words)
    return ", ".join(["points as 20000, 500k or 10M", "8pairs", "seed1", *own])
