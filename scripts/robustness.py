"""Recall as pairs get harder, one axis at a time: our method and other libraries' on the same pairs.

    python scripts/robustness.py --pairs 100 --json robustness.json --picture robustness.svg
    python scripts/robustness.py --from robustness.json --picture robustness.svg

Pairs are two disjoint samplings of one procedural shape of unit radius, anywhere and any way round. What the axes mean
and how the pairs are cut stands in docs/robustness.md. The peers are those of scripts/benchmark.py, each at the best
of its sizes at every single point of a curve: an oracle no user has, in their favour. Ours is told nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmark import MAKERS, NEEDS, VOXELS, chatter_on_stderr, limit_threads, with_best

if TYPE_CHECKING:
    import torch

    from deepgmr.datasets.pairs.batch import PairBatch
    from deepgmr.datasets.suites.fixed import PairSuite

OURS = "register"
PEERS = ("ransac", "kiss", "fgr", "icp")
# Beside the voxels of benchmark.py a larger one, for clouds much sparser than any of its suites.
SIZES = {name: (*VOXELS, 0.07) for name in ("ransac", "kiss", "fgr")}
SHAPE_POINTS = 2048  # of the whole clean shape, by which an answer is judged up to symmetry
HEAVY = 20_000  # points from which a quarter of the pairs must do: some peers take 10 s for one
SEED_STRIDE = 1_000_003  # between runs, so that no two share a pair

# Okabe and Ito's colours, told apart by every kind of eye; the marks tell them apart without colour.
INK = {OURS: "#0072B2", "ransac": "#D55E00", "kiss": "#009E73", "fgr": "#E69F00", "icp": "#CC79A7"}
MARKS = {OURS: "o", "ransac": "s", "kiss": "^", "fgr": "D", "icp": "v"}

Result = dict[str, Any]


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


AXES = {
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
        from deepgmr.errors import InvalidConfig

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
    import torch

    from deepgmr.datasets.pairs.protocols import Jitter, Move, Outliers, make_pairs
    from deepgmr.datasets.suites.fixed import PairSuite
    from deepgmr.datasets.worlds.shapes import sample_shapes

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


class Peers:
    """The peers in a process of their own, which starts again when one of them ends it.

    KISS-Matcher dies of a segmentation fault where a cloud is too sparse for its voxel. That is its answer to the
    pair, and no reason to lose the run. Times are taken inside, so that passing the clouds along costs nobody anything.
    """

    def __init__(self, seed: int, threads: int, serve: Callable[..., None] | None = None) -> None:
        self._serve, self._options = serve or serve_peers, (seed, threads)
        self._process: Any = None
        self._pipe: Any = None
        self.milliseconds: dict[str, list[float]] = {}

    def solve(self, label: str, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """What the peer `name@size` answers."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, far = context.Pipe()
            self._process = context.Process(target=self._serve, args=(far, *self._options), daemon=True)
            self._process.start()
            far.close()  # else its end would go unnoticed
        start = time.perf_counter()
        try:
            self._pipe.send((label, source, target))
            milliseconds, answer = self._pipe.recv()
        except (EOFError, OSError):
            milliseconds, answer = 1e3 * (time.perf_counter() - start), "crashed"
            self.close()
        self.milliseconds.setdefault(label, []).append(milliseconds)
        if isinstance(answer, str):
            raise PeerFailed(answer)
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._pipe.close()
            self._process.join()
            self._process = None


class PeerFailed(Exception):
    """A peer gave no answer."""


def serve_peers(pipe: Any, seed: int, threads: int) -> None:
    """The other end: answers clouds with ((4, 4) or what went wrong) and the milliseconds it took."""
    limit_threads(threads)
    peers: dict[str, Any] = {}
    with suppress(EOFError):
        while True:
            label, source, target = pipe.recv()
            name, _, size = label.partition("@")
            if label not in peers:
                peers[label] = MAKERS[name][0](float(size), seed, threads)
            start = time.perf_counter()
            try:
                answer: Any = np.asarray(peers[label](source, target), dtype=np.float64)
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            pipe.send((1e3 * (time.perf_counter() - start), answer))


def chosen_methods(names: Sequence[str] | None, seed: int, peers: Peers) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Callables by their labels, and the labels of the sizes of each peer. None: ours and every peer installed."""
    from deepgmr.errors import InvalidConfig, MissingDependency
    from deepgmr.evaluation import METHODS, make_methods

    methods: dict[str, Any] = {}
    families: dict[str, list[str]] = {}
    for name in names or (OURS, *PEERS):
        if name not in MAKERS:
            if name.partition(":")[0] not in METHODS:
                raise InvalidConfig(f"unknown method `{name}`; there are {', '.join((*METHODS, *MAKERS))}")
            methods |= make_methods([name], seed=seed)
        elif find_spec(NEEDS[name]) is not None:
            families[name] = [f"{name}@{size:g}" for size in SIZES.get(name, MAKERS[name][1])]
            methods |= {label: partial(peers.solve, label) for label in families[name]}
        elif names:
            raise MissingDependency(f"{name} needs {NEEDS[name]}: pip install 'deepgmr[benchmark]'")
        else:
            print(f"{name}: left out, {NEEDS[name]} is not installed", file=sys.stderr)
    return methods, families


def measure(
    suite: PairSuite, methods: dict[str, Any], families: dict[str, list[str]], peers: Peers, seed: int
) -> Result:
    """What every method did on the pairs of one point of a curve."""
    from deepgmr import evaluation

    with chatter_on_stderr():
        (table,) = evaluation.evaluate([suite], methods, seed=seed)
    timed = {label: np.array(times[-len(suite) :]) for label, times in peers.milliseconds.items()}
    outcomes = [replace(o, milliseconds=timed.get(o.method, o.milliseconds)) for o in table.outcomes]
    table = replace(table, outcomes=tuple(outcomes))
    table = with_best(table, families) if families else table
    rows = {
        outcome.method: {
            "recall": float(outcome.success.mean()),
            "milliseconds": float(np.median(outcome.milliseconds)),
            "failed": dict(outcome.failures),
            "distances": [None if math.isnan(d) else round(d, 6) for d in outcome.symmetric.tolist()],
        }
        for outcome in table.outcomes
        if outcome.method in methods or outcome.method in families
    }
    return {"methods": rows, "notes": table.provenance.get("notes", []), "provenance": table.provenance}


def run(
    axes: Iterable[str],
    pairs: int,
    seed: int,
    measured: Callable[[PairSuite], Result],
    save: Callable[[Result], None],
) -> Result:
    """Walk along the axes and save after every point, so that an interrupted run keeps what it has."""
    result: Result = {"pairs": pairs, "seed": seed, "axes": {}}
    known: dict[Setting, Result] = {}
    for name in axes:
        points = result["axes"].setdefault(name, [])
        for value in AXES[name].values:
            varied: dict[str, Any] = {name: value}
            setting = Setting(**varied)
            if setting not in known:  # the point that all curves share is measured once
                count = pairs if setting.points < HEAVY else math.ceil(pairs / 4)
                known[setting] = {"pairs": count, **measured(make_suite(setting, count, seed))}
                result.setdefault("provenance", known[setting].pop("provenance", None))
            points.append({"value": value, "setting": asdict(setting), **known[setting]})
            save(result)
            recalls = "  ".join(f"{m} {row['recall']:.3f}" for m, row in known[setting]["methods"].items())
            print(f"{name} {value:{AXES[name].form}}: {recalls}", file=sys.stderr, flush=True)
    return result


def merged(results: Sequence[Result]) -> Result:
    """One result from runs over the same pairs with other axes or other methods."""
    from deepgmr.errors import InvalidInput

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


def failures(points: Sequence[Result], method: str) -> str:
    """How often each named error was the answer, over the whole curve."""
    found: Counter[str] = Counter()
    for point in points:
        found.update(point["methods"].get(method, {}).get("failed", {}))
    return ", ".join(f"{count} {name}" for name, count in found.most_common()) or "0"


def markdown(result: Result) -> str:
    """A table of recalls for every axis, and one of times against points."""
    from reliability import table

    parts = []
    for name, key in panels_of(result):
        axis, points = AXES[name], result["axes"][name]
        what = "ADD-S recall@.05" if key == "recall" else "median milliseconds a pair"
        head = ["method", *(format(point["value"], axis.form) for point in points), "failed"]
        rows = [(method, *curve(points, method, key), failures(points, method)) for method in methods_of(points)]
        counts = sorted({point["pairs"] for point in points}, reverse=True)
        title = f"### {what} against {axis.label} ({' or '.join(map(str, counts))} pairs a point)"
        parts.append(f"{title}\n\n{table(head, rows, form='.3f' if key == 'recall' else '.1f')}")
    return "\n\n".join(parts)


def panels_of(result: Result) -> list[tuple[str, str]]:
    """Every axis with the recall on it, and the time where there are points to hold it against."""
    return [(name, "recall") for name in result["axes"]] + [("points", "milliseconds")] * ("points" in result["axes"])


def draw(result: Result, path: Path) -> None:
    """One panel an axis, and one of time against points."""
    from reliability import picture

    panels = panels_of(result)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with picture(path, 3.6 * columns, 2.75 * rows + 0.45) as figure:
        for place, (name, key) in enumerate(panels, 1):
            fill(figure.add_subplot(rows, columns, place), result, name, key)
        lines = {
            line.get_label(): line for panel in figure.axes for line in panel.get_lines() if line.get_marker() != "None"
        }
        names = sorted(lines, key=lambda name: OURS not in name)  # ours first
        figure.legend([lines[name] for name in names], names, loc="outside upper center", ncols=len(names))


def fill(panel: Any, result: Result, name: str, key: str) -> None:
    """The curves of all methods; ours wider, on top, with the 95 % interval of what so few pairs can say."""
    from reliability import GREY, wilson

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
    panel.set_xticks(values, [tick(axis, value) for value in values])
    panel.minorticks_off()
    panel.set_xlabel(axis.label)
    if key == "recall":
        panel.set_ylim(-0.03, 1.03)
        panel.set_title(f"recall against {name}")
    else:
        panel.set_yscale("log")
        panel.set_title("median milliseconds a pair")


def tick(axis: Axis, value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    text = format(value, axis.form)
    return text.removeprefix("0") if text.startswith("0.") else text  # room for .005 beside .01


# -- the terminal ------------------------------------------------------------------------------------------------


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="of every point of a curve [default: 100]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--axes", type=listed, default=list(AXES), metavar="A,B", help=f"of {','.join(AXES)}")
    parser.add_argument("--methods", type=listed, metavar="A,B", help=f"of register,{','.join(MAKERS)} [all installed]")
    parser.add_argument("--threads", type=int, default=1, help="processors the whole run may use [default: 1]")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every number, after every point of a curve")
    parser.add_argument("--picture", type=Path, metavar="OUT", help="draw the curves (.svg, .png or .pdf)")
    parser.add_argument(
        "--from", type=Path, nargs="+", dest="read", metavar="JSON", help="measure nothing, only redraw"
    )
    return parser.parse_args(arguments)


def listed(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def measured_before(path: Path) -> Result:
    from reliability import read_json

    from deepgmr.errors import InvalidFile

    content = read_json(path)
    if not isinstance(content, dict) or not {"pairs", "seed", "axes"} <= content.keys():
        raise InvalidFile(f"{path}: holds no curves; give a file that robustness.py wrote with --json")
    return content


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    limit_threads(options.threads)
    import torch
    from reliability import check_picture

    from deepgmr.errors import DeepGMRError, InvalidConfig
    from deepgmr.io.disk import check_writable, replacing

    torch.set_num_threads(options.threads)

    def save(result: Result) -> None:
        if options.json is not None:
            with replacing(options.json) as stream:
                stream.write(json.dumps(result, allow_nan=False).encode())

    peers = Peers(options.seed, options.threads)
    try:
        unknown = [name for name in options.axes if name not in AXES]
        if unknown or options.pairs < 1:
            raise InvalidConfig(f"--axes takes {', '.join(AXES)} and --pairs 1 or more; got {unknown or options.pairs}")
        if options.picture is not None:
            check_picture(options.picture)
        if options.json is not None:
            check_writable(options.json)
        if options.read:
            result = merged([measured_before(path) for path in options.read])
            save(result)
        else:
            methods, families = chosen_methods(options.methods, options.seed, peers)
            measured = partial(measure, methods=methods, families=families, peers=peers, seed=options.seed)
            result = run(options.axes, options.pairs, options.seed, measured, save)
        print(markdown(result))
        if options.picture is not None:
            draw(result, options.picture)
    except DeepGMRError as error:
        print(f"robustness.py: {error}", file=sys.stderr)
        return 2
    finally:
        peers.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
