"""Every world by its name, with the options that its pairs are planned with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deepgmr.datasets.worlds.drives import street_pair
from deepgmr.datasets.worlds.fragments import fragment_pair
from deepgmr.datasets.worlds.halls import hall
from deepgmr.datasets.worlds.interiors import floor, warehouse
from deepgmr.datasets.worlds.models import part_pair, piece_pair, shot_pair, view_pair
from deepgmr.datasets.worlds.nature import cave, forest
from deepgmr.datasets.worlds.planned import Planned
from deepgmr.datasets.worlds.stands import stands_pair


@dataclass(frozen=True)
class World:
    """How pairs of a world are planned, and how its options are written in the name of a suite."""

    plan: Callable[..., Planned]  # (rng, **options)
    numbers: Mapping[str, str] = field(default_factory=dict)  # letters before a number -> the option it sets
    words: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # word -> options
    points: int = 20_000
    pairs: int = 24


WORLDS: dict[str, World] = {
    "halls": World(hall, numbers={"s": "scale"}),
    "floors": World(floor, numbers={"rooms": "rooms"}),
    "warehouses": World(
        warehouse, numbers={"bays": "bays"}, words={"plain": {"ambiguous": 0}, "ambiguous": {"ambiguous": 1}}
    ),
    "streets": World(street_pair, numbers={"beams": "beams", "near": "near", "far": "far"}),
    "fragments": World(
        fragment_pair,
        numbers={"frames": "frames"},
        words={"low": {"low": 0.1, "high": 0.3}, "high": {"low": 0.3, "high": 0.8}},
    ),
    "stands": World(stands_pair, words={"apart": {"apart": 1.0}}),
    "forests": World(forest, numbers={"size": "size"}),
    "caves": World(cave, numbers={"length": "length"}),
    "parts": World(part_pair, numbers={"parts": "parts"}),
    "views": World(view_pair),
    "shots": World(shot_pair, numbers={"apart": "apart"}),
    "pieces": World(piece_pair),
}
