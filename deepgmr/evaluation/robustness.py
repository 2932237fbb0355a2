"""Recall as pairs get harder, one axis at a time: our method and other libraries' on the same pairs.

Pairs are two disjoint samplings of one procedural shape of unit radius, anywhere and any way round. The peers have the
best of their sizes at every single point of a curve: an oracle no user has, in their favour. Ours is told nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr import metrics
from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.datasets.pairs.protocols import Jitter, Move, Outliers, make_pairs
from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.errors import InvalidConfig, InvalidInput
from deepgmr.evaluation.figures import GREY, picture, wilson
from deepgmr.evaluation.methods import Method, Sizes, make_methods
from deepgmr.evaluation.peers import is_installed
from deepgmr.evaluation.results import Result, Watch, as_table
from deepgmr.evaluation.running import evaluate

STUDY = "robustness"
OURS = "register"
METHODS = (OURS, "ransac", "kiss", "fgr", "icp")
SHAPE_POINTS = 2048  # of the whole clean shape, by which an answer is judged up to symmetry
HEAVY = 20_000  # points from which a quarter of the pairs must do: some peers take 10 s for one
SEED_STRIDE = 1_000_003  # between runs, so that no two share a pair

# Okabe and Ito's colours, told apart by every kind of eye; the marks tell them apart without colour.
INK = {OURS: "#0072B2", "ransac": "#D55E00", "kiss": "#009E73", "fgr": "#E69F00", "icp": "#CC79A7"}
MARKS = {OURS: "o", "ransac": "s", "kiss": "^", "fgr": "D", "icp": "v"}


@dataclass(frozen=True)
class Setting:
    """One kind of pair. The defaults are the point that all curves have in common."""

    overlap: float = 0.7  # share of the source's surface that the target has too, and the other way round
    noise: float = 0.01  # sigma of every coordinate, never cut off
    outliers: float = 0.0  # share of each cloud replaced by points anywhere in its bounding sphere
    density: float = 1.0  # points of the target over points of the source; their product stays points^2
    points: int = 1024


@dataclass(frozen=True)
class Axis:
    """What is varied: a name for people, the values, and how they are written and spaced."""

    label: str
    values: tuple[float, ...]
    form: str
    scale: str = "linear"


AXES: Mapping[str, Axis] = {
    "overlap": Axis("overlap", (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), ".0%"),
    "noise": Axis("noise, share of the radius", (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05), "g"),
    "outliers": Axis("outliers in each cloud", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), ".0%"),
    "density": Axis("target points over source points", (1, 2, 4, 8, 16), "g", "log"),
    "points": Axis("points in each cloud", (128, 256, 512, 1024, 4096, 16_384, 100_000), ",", "log"),
}


# -- pairs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facing:
    """Disjoint samples of the parent: the source without its lowest part along a random direction, the target without
    its highest.

    Each keeps the share 1 / (2 - `overlap`) of the surface, so that exactly the share `overlap` of what either keeps
    is kept by the other. The first step of a list: both clouds are still the parent.
    """

    overlap: float
    source_points: int
    target_points: int

    def needed(self) -> int:
        """Points of a parent that leave enough on both sides of any cut."""
        return 2 * (math.ceil(1.1 * max(self.source_points, self.target_points) * (2 - self.overlap)) + 64)

    def __call__(self, pair: PairBatch, generator: torch.Generator) -> PairBatch:
        direction = pair.source.new_empty(len(pair), 3, 1).normal_(generator=generator)
        rank = (pair.source @ direction).squeeze(-1).argsort(1).argsort(1)  # (B, K), 0 is the lowest point
        count = rank.shape[1]
        lost = round(count * (1 - self.overlap) / (2 - self.overlap))
        order = pair.source.new_empty(rank.shape).uniform_(generator=generator)
        first = order.argsort(1).argsort(1) < count // 2
        changed: Result = {"overlap": pair.overlap * self.overlap}
        for name, points, kept in (
            ("source", self.source_points, first & (rank >= lost)),
            ("target", self.target_points, ~first & (rank < count - lost)),
        ):
            if kept.sum(1).min() < points:
                raise InvalidConfig(f"{count} points of a parent are too few for {self}; give it {self.needed()}")
            rows = (order + (~kept).to(order.dtype)).argsort(1)[:, :points]  # (B, points)
            changed[name] = pair.source.gather(1, rows.unsqueeze(-1).expand(*rows.shape, 3))
            changed[f"{name}_index"] = rows
        return replace(pair, **changed)


def make_suite(setting: Setting, pairs: int, seed: int) -> PairSuite:
    """The pairs of one point of a curve. Pair i is of the same shape cut along the same direction at every point."""
    spread = math.sqrt(setting.density)
    cut = Facing(setting.overlap, round(setting.points / spread), round(setting.points * spread))
    steps = (cut, Move("uniform", 180.0, "ball", 0.5), Jitter(setting.noise, None), Outliers(setting.outliers))
    made = []
    for i in range(pairs):
        generator = torch.Generator().manual_seed((seed + 1) * SEED_STRIDE + i)
        shape, _ = sample_shapes(1, max(SHAPE_POINTS, cut.needed()), generator=generator)
        made.append((make_pairs(shape, steps, generator=generator), shape[:, :SHAPE_POINTS]))
    return PairSuite(
        name=" ".join(f"{key}={value:g}" for key, value in asdict(setting).items()),
        kind="modelnet",
        sources=[pair.source[0].numpy() for pair, _ in made],
        targets=[pair.target[0].numpy() for pair, _ in made],
        transforms=np.stack([pair.target_from_source.matrix[0].double().numpy() for pair, _ in made]),
        names=tuple(f"shape_{i}" for i in range(pairs)),
        shapes=[pair.source_from_parent.apply(shape)[0].numpy() for pair, shape in made if pair.source_from_parent],
    )


# -- measuring ---------------------------------------------------------------------------------------------------


def measure(
    *,
    pairs: int = 100,
    seed: int = 0,
    axes: Sequence[str] | Mapping[str, Axis] = AXES,
    methods: Sequence[str] | None = None,
    watch: Watch | None = None,
) -> Result:
    """Walk along the axes; without `methods`, with ours and every peer that is installed.

    What there is so far is kept after every point, so that an interrupted run keeps what it has.
    """
    watch = watch or Watch()
    unknown = [name for name in axes if name not in AXES]
    if unknown or pairs < 1:
        raise InvalidConfig(f"the axes are {', '.join(AXES)}, and pairs 1 or more; got {unknown or pairs}")
    chosen = axes if isinstance(axes, Mapping) else {name: AXES[name] for name in axes}
    names = methods or [name for name in METHODS if name == OURS or is_installed(name)]
    callables = make_methods(names, seed=seed)
    result: Result = {"study": STUDY, "pairs": pairs, "seed": seed, "axes": {}}
    known: dict[Setting, Result] = {}
    total, done = sum(len(axis.values) for axis in chosen.values()), 0
    for name, axis in chosen.items():
        points = result["axes"].setdefault(name, [])
        for value in axis.values:
            watch.progress(f"{name} {value:{axis.form}}", done / total)
            varied: dict[str, Any] = {name: value}
            setting = Setting(**varied)
            if setting not in known:  # the point that all curves share is measured once
                count = pairs if setting.points < HEAVY else math.ceil(pairs / 4)
                known[setting] = {"pairs": count, **_measured(make_suite(setting, count, seed), callables, seed)}
                result.setdefault("provenance", known[setting].pop("provenance", None))
            points.append({"value": value, "setting": asdict(setting), **known[setting]})
            done += 1
            watch.keep(result)
    return result


def _measured(suite: PairSuite, methods: Mapping[str, Method | Sizes], seed: int) -> Result:
    """What every method did on the pairs of one point of a curve."""
    (table,) = evaluate([suite], methods, seed=seed)
    rows = {
        outcome.method: {
            "recall": float(outcome.success.mean()),
            "milliseconds": float(np.median(outcome.milliseconds)),
            "wrong and sure": _wrong_and_sure(outcome.confidence, outcome.success),
            "failed": dict(outcome.failures),
            "distances": [None if math.isnan(d) else round(d, 6) for d in outcome.symmetric.tolist()],
        }
        for outcome in table.outcomes
        if outcome.method in methods
    }
    return {"methods": rows, "notes": table.provenance.get("notes", []), "provenance": table.provenance}


def _wrong_and_sure(confidence: np.ndarray, success: np.ndarray) -> float | None:
    stated = np.isfinite(confidence)
    if not stated.any():
        return None
    return float(metrics.wrong_and_sure(torch.from_numpy(confidence[stated]), torch.from_numpy(success[stated])))


def merged(results: Sequence[Result]) -> Result:
    """One result from runs over the same pairs with other axes or other methods."""
    keys = sorted({(result["pairs"], result["seed"]) for result in results})
    if len(keys) > 1:
        raise InvalidInput(f"these runs have different (pairs, seed): {keys}; only curves over the same pairs compare")
    whole: Result = {**results[0], "axes": {}}
    for name in AXES:  # in their usual order
        points: dict[float, Result] = {}
        for result in results:
            for point in result["axes"].get(name, []):
                kept = points.setdefault(point["value"], {**point, "methods": {}, "notes": []})
                kept["methods"] |= point["methods"]
                kept["notes"] = [*kept["notes"], *(note for note in point["notes"] if note not in kept["notes"])]
        if points:
            whole["axes"][name] = [points[value] for value in sorted(points)]
    return whole


# -- telling -----------------------------------------------------------------------------------------------------


def methods_of(points: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(method for point in points for method in point["methods"]))


def curve(points: Sequence[Result], method: str, key: str) -> list[float]:
    """One number a point; NaN where the method was not run."""
    return [point["methods"].get(method, {}).get(key, math.nan) for point in points]


def markdown(result: Result) -> str:
    """A table of recalls for every axis, and one of times against points."""
    parts = []
    for name, key in panels_of(result):
        axis, points = AXES[name], result["axes"][name]
        what = "ADD-S recall@.05" if key == "recall" else "median milliseconds a pair"
        heads = [format(point["value"], axis.form) for point in points]
        rows: list[Result] = []
        for method in methods_of(points):
            row: Result = {"method": method} | dict(zip(heads, curve(points, method, key), strict=True))
            rows.append(row | ({"wrong and sure": _pooled(points, method)} if key == "recall" else {}))
            rows[-1]["failed"] = _failures(points, method)
        counts = sorted({point["pairs"] for point in points}, reverse=True)
        title = f"### {what} against {axis.label} ({' or '.join(map(str, counts))} pairs a point)"
        parts.append(f"{title}\n\n{as_table(rows, form='.3f' if key == 'recall' else '.1f')}")
    return "\n\n".join(parts)


def _pooled(points: Sequence[Result], method: str) -> float | None:
    """The share of wrong and sure answers over the whole curve."""
    found = [(point["methods"].get(method, {}).get("wrong and sure"), point["pairs"]) for point in points]
    stated = [(share, pairs) for share, pairs in found if share is not None]
    return sum(s * n for s, n in stated) / sum(n for _, n in stated) if stated else None


def _failures(points: Sequence[Result], method: str) -> str:
    """How often each named error was the answer, over the whole curve."""
    found: Counter[str] = Counter()
    for point in points:
        found.update(point["methods"].get(method, {}).get("failed", {}))
    return ", ".join(f"{count} {name}" for name, count in found.most_common()) or "0"


def panels_of(result: Result) -> list[tuple[str, str]]:
    """Every axis with the recall on it, and the time where there are points to hold it against."""
    return [(name, "recall") for name in result["axes"]] + [("points", "milliseconds")] * ("points" in result["axes"])


def draw(result: Result, path: Path) -> None:
    """One panel an axis, and one of time against points."""
    panels = panels_of(result)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with picture(path, 3.6 * columns, 2.75 * rows + 0.45) as figure:
        for place, (name, key) in enumerate(panels, 1):
            _fill(figure.add_subplot(rows, columns, place), result, name, key)
        lines = {
            line.get_label(): line for panel in figure.axes for line in panel.get_lines() if line.get_marker() != "None"
        }
        names = sorted(lines, key=lambda name: OURS not in name)  # ours first
        figure.legend([lines[name] for name in names], names, loc="outside upper center", ncols=len(names))


def _fill(panel: Any, result: Result, name: str, key: str) -> None:
    """The curves of all methods; ours wider, on top, with the 95 % interval of what so few pairs can say."""
    axis, points = AXES[name], result["axes"][name]
    values = [point["value"] for point in points]
    usual = getattr(Setting(), name)
    if key == "recall" and usual in values:
        panel.axvline(usual, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    for method in sorted(methods_of(points), key=lambda m: m == OURS):  # ours on top
        ours, heights = method == OURS, curve(points, method, key)
        ink = INK.get(method, "#000000")
        if ours and key == "recall":
            known = [i for i, height in enumerate(heights) if not math.isnan(height)]
            low, high = zip(*(wilson(heights[i], points[i]["pairs"]) for i in known), strict=True)
            panel.fill_between([values[i] for i in known], low, high, color=ink, alpha=0.13, linewidth=0)
        panel.plot(
            values,
            heights,
            color=ink,
            marker=MARKS.get(method, "x"),
            linewidth=2.4 if ours else 1.2,
            markersize=5.5 if ours else 4,
            zorder=4 if ours else 3,
            label=f"deepgmr {OURS}" if ours else method,
        )
    panel.set_xscale(axis.scale)
    panel.set_xticks(values, [_tick(axis, value) for value in values])
    panel.minorticks_off()
    panel.set_xlabel(axis.label)
    if key == "recall":
        panel.set_ylim(-0.03, 1.03)
        panel.set_title(f"recall against {name}")
    else:
        panel.set_yscale("log")
        panel.set_title("median milliseconds a pair")


def _tick(axis: Axis, value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    text = format(value, axis.form)
    return text.removeprefix("0") if text.startswith("0.") else text  # room for .005 beside .01
