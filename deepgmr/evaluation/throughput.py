"""Many pairs on one device beside one after the other: what it gains, what differs, and what cannot be shared.

On a CPU the time is the processor's, of one thread; on another device the wall's, since it works while the processor
waits.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from deepgmr.datasets.pairs.protocols import Crop, Disjoint, Jitter, Move, make_pairs
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.geometry.neighbours import Tree
from deepgmr.pipeline.agree import agreed
from deepgmr.pipeline.cohort import Ask, side_by_side
from deepgmr.pipeline.propose.learned import predicted
from deepgmr.pipeline.refine import align
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.together import computations, device_of

STUDY = "throughput"
STEPS: dict[Callable[..., Any], str] = {
    predicted: "the network",
    agreed: "matches that agree",
    align: "generalised ICP",
    Tree.within: "nearest components",
}
LOOP, REST = "one after the other", "all else, a pair at a time"

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


def measure(
    *,
    pairs: int = 40,
    points: int = 1024,
    repeats: int = 5,
    device: str = "cpu",
    batch: int | None = None,
    shared: int = 8,
    seed: int = 0,
    watch: Watch | None = None,
) -> Result:
    """Rows of the `ways`, in turns, and of the `steps`, of so many pairs of crops of 70 %; together `shared` of them."""
    watch, registrar = watch or Watch(), Registrar.load()
    told = provenance(pairs=pairs, points=points, repeats=repeats, device=device, batch=batch, shared=shared, seed=seed)
    told["gpu"] = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    drawn = drawn_pairs(pairs, points, seed)
    registrar.register_batch(drawn[:2], device=device)  # imports and allocations are not what is timed
    watch.progress("steps", 0.0)
    result: Result = {"study": STUDY, "provenance": told, "steps": steps(registrar, drawn, shared, device)}
    watch.keep(result)
    watch.progress("ways", 0.2)
    result["ways"] = ways(registrar, drawn, repeats, device, batch)
    return result


def drawn_pairs(count: int, points: int, seed: int) -> Pairs:
    """Disjoint samplings of a shape, 70 % of each, so many points a side."""
    generator = torch.Generator().manual_seed(seed)
    protocol = (Disjoint(2 * points), Crop(0.7, points, shared=0.45), Move("uniform", 180.0, "box", 0.5), Jitter())
    shapes, normals = sample_shapes(count, 4 * points, generator=generator)
    drawn = make_pairs(shapes, protocol, generator=generator, normals=normals)
    return [(drawn.source[i].numpy(), drawn.target[i].numpy()) for i in range(count)]


def ways(registrar: Registrar, pairs: Pairs, repeats: int, device: str, batch: int | None) -> list[Result]:
    """Medians over the repeats, and the largest differences between the answers."""
    asked: dict[str, dict[str, Any]] = {LOOP: {}, f"together, on {device}": {"device": device, "batch": batch}}
    spent: dict[str, list[float]] = defaultdict(list)
    answers: dict[str, list[Any]] = {}
    for number in range(repeats):
        for way in list(asked)[:: 1 if number % 2 else -1]:
            milliseconds, answers[way] = _timed(device, lambda way=way: registrar.register_batch(pairs, **asked[way]))  # type: ignore[misc]
            spent[way].append(milliseconds / len(pairs))
    rows = []
    for way in asked:
        median = statistics.median(spent[way])
        row = {"way": way, "ms a pair": median, "pairs a second": 1e3 / median}
        row["beside the loop"] = statistics.median(np.divide(spent[way], spent[LOOP]))
        rows.append(row | (_differences(pairs, answers[LOOP], answers[way]) if way != LOOP else {}))
    return rows


def steps(registrar: Registrar, pairs: Pairs, shared: int, device: str) -> list[Result]:
    """For each computation that can be shared, milliseconds a pair alone and together; and for the rest."""
    spent: dict[Callable[..., Any], float] = defaultdict(float)
    asks: dict[Callable[..., Any], list[Ask]] = defaultdict(list)

    def alone(function: Callable[..., Any], some: Sequence[Ask]) -> list[Any]:
        milliseconds, found = _timed("cpu", lambda: [_plain(function, ask) for ask in some])
        spent[function] += milliseconds
        asks[function] += some
        return found

    def registered(some: Pairs) -> float:
        tasks = (functools.partial(registrar.register, *pair) for pair in some)
        timed = {function: functools.partial(alone, function) for function in STEPS}
        return _timed("cpu", lambda: list(side_by_side(tasks, timed, 1)))[0]

    whole = registered(pairs[:shared])
    company = {function: list(asks[function]) for function in STEPS}
    whole += registered(pairs[shared:])
    together = computations(device_of(device), everything=True)
    rows = []
    for function, name in STEPS.items():
        row = {
            "step": name,
            "asked a pair": len(asks[function]) / len(pairs),
            "ms a pair": spent[function] / len(pairs),
        }
        milliseconds, _ = _timed(device, lambda function=function: together[function](company[function]))  # type: ignore[misc]
        rows.append(row | {"share": spent[function] / whole, "ms together": milliseconds / min(shared, len(pairs))})
    rest = whole - sum(spent.values())
    return [*rows, {"step": REST, "ms a pair": rest / len(pairs), "share": rest / whole}]


@torch.no_grad()
def _plain(function: Callable[..., Any], ask: Ask) -> Any:
    if function is not predicted:
        return function(*ask)
    with torch.inference_mode():  # as within `match_nodes`
        return function(*ask)


def _timed(device: str, compute: Callable[[], Any]) -> tuple[float, Any]:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    found = compute()
    return 1e3 * (clock() - start), found


def _differences(pairs: Pairs, one: Sequence[Any], other: Sequence[Any]) -> Result:
    gaps = []
    for (source, _), a, b in zip(pairs, one, other, strict=True):
        size = 2 * np.sqrt(np.square(source - source.mean(axis=0)).sum(axis=1).mean())
        between = a.target_from_source - b.target_from_source
        gaps.append(np.linalg.norm(source @ between[:3, :3].T + between[:3, 3], axis=1).max() / size)
    return {
        "other status": sum(a.status != b.status for a, b in zip(one, other, strict=True)),
        "motion": float(max(gaps)),
        "confidence": max(abs(a.confidence - b.confidence) for a, b in zip(one, other, strict=True)),
    }


FORMATS = {"pairs a second": ".1f", "beside the loop": ".2f", "share": ".0%", "asked a pair": ".1f", "motion": ".1g"}


def markdown(result: Result) -> str:
    """A table of the ways, with how far answers differ (motions in sizes of the source), and one of the steps."""
    return "\n\n".join(
        as_table(result[part], FORMATS | {"confidence": ".1g"}, form=".1f") for part in ("ways", "steps")
    )
