"""Running methods on suites, pair by pair, and measuring every answer."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr import metrics
from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.datasets.suites.named import read_named
from deepgmr.errors import InvalidConfig, InvalidInput, InvalidMixture
from deepgmr.evaluation.methods import Method, Sizes, make_methods
from deepgmr.evaluation.results import provenance
from deepgmr.evaluation.tables import RIGHT, Outcome, Table
from deepgmr.geometry.transform import RigidTransform

Progress = Callable[[str, float], None]

FRAGMENTS_WITHIN = 0.2  # metres: 3DMatch's criterion
_BUSY = 0.1  # share of the time spent waiting for a processor from which times mean little


def processor_seconds() -> float:
    """Seconds that this process has computed, and those it started that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def evaluate(
    suite_paths: Iterable[str | Path | PairSuite],
    methods: Sequence[str] | Mapping[str, Method | Sizes],
    *,
    limit: int | None = None,
    seed: int = 0,
    max_rotation_degrees: float | None = None,
    points: int | None = None,
    progress: Progress | None = None,
) -> list[Table]:
    """Run every method on every suite; one table a suite, an `identity` row always first.

    A suite is a path that `read_named` understands. Methods are names that `make_methods` understands, or a mapping
    from a label to a callable, or to several sizes of one, of which the best stands in the table. `seed` is for methods
    that draw (of those here the peers) and stands in the table with the other conditions. `limit` keeps so many pairs,
    spread evenly over the suite; `points` cuts each cloud. Times are wall-clock a pair, after one call that is not
    counted, or what the answer itself says.

    Raises `InvalidConfig` for an unknown method or a bad limit, `InvalidFile` for a bad suite.
    """
    if limit is not None and limit < 1:
        raise InvalidConfig(f"cannot evaluate {limit} pairs; give a positive limit")
    callables = make_methods(["identity"])
    callables |= (
        methods
        if isinstance(methods, Mapping)
        else make_methods(methods, seed=seed, max_rotation_degrees=max_rotation_degrees)
    )
    suites = [item if isinstance(item, PairSuite) else read_named(item, points=points) for item in suite_paths]
    suites = [suite.thinned(limit) for suite in suites]
    runs = sum(len(method) if isinstance(method, Sizes) else 1 for method in callables.values())
    advance = _Advance(runs * sum(map(len, suites)), progress)
    tables = []
    for suite in suites:
        start, waited, notes, outcomes = time.perf_counter(), _waited(), [], []
        for label, method in callables.items():
            if isinstance(method, Sizes):
                found = [_run(suite, size, one, advance) for size, one in method.items()]
                best, note = _best_size(label, found, suite.groups)
                outcomes.append(best)
                notes.append(note)
            else:
                outcomes.append(_run(suite, label, method, advance))
        share = (_waited() - waited) / (time.perf_counter() - start)
        if share > _BUSY:
            notes.append(
                f"the machine was busy: {share:.0%} of the time went by waiting for a processor; do not quote these times"
            )
        told = provenance(seed=seed, limit=limit, max_rotation_degrees=max_rotation_degrees)
        tables.append(
            Table(
                suite=suite.name,
                kind=suite.kind,
                names=suite.names,
                groups=suite.groups,
                axisymmetric=suite.axisymmetric,
                has_shapes=suite.shapes is not None,
                outcomes=tuple(outcomes),
                provenance=told | ({"notes": notes} if notes else {}),
            )
        )
    return tables


def _best_size(label: str, found: Sequence[Outcome], groups: Sequence[str]) -> tuple[Outcome, str]:
    """One outcome of those of several sizes: for each group of pairs the size with the most successes; and a line that
    says which."""
    chosen, names = np.zeros(len(groups), dtype=int), np.array(groups)
    for group in set(groups):
        rows = names == group
        # Ties go to the smaller mean distance of what was answered.
        rank = [(o.success[rows].sum(), -np.nan_to_num(o.distance[rows], nan=1e9).mean()) for o in found]
        chosen[rows] = max(range(len(found)), key=rank.__getitem__)
    columns: dict[str, Any] = {}
    for key, first in vars(found[0]).items():
        if isinstance(first, np.ndarray):
            columns[key] = np.stack([getattr(o, key) for o in found])[chosen, np.arange(len(chosen))]
        elif isinstance(first, tuple):
            columns[key] = tuple(getattr(found[k], key)[i] for i, k in enumerate(chosen))
    sizes = ", ".join(
        f"{group} {found[chosen[names == group][0]].method.rpartition(':')[2]}" for group in sorted(set(groups))
    )
    return replace(found[0], method=label, **columns), f"{label}: best of {len(found)} sizes for {sizes}"


def _waited() -> float:
    """Seconds this thread was ready to run and was not let: always zero where the system (not Linux) does not say."""
    try:
        return 1e-9 * int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0


class _Advance:
    """Counts pairs over all suites and methods and tells whoever wants to know."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, label: str) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(label, self._done / self._total)


def _run(suite: PairSuite, label: str, method: Method, advance: _Advance) -> Outcome:
    with contextlib.suppress(Exception):  # a failure is counted below, when the pair has its turn
        method(suite.sources[0], suite.targets[0])  # imports, allocations and caches are not what is timed
    rows = []
    for i in range(len(suite)):
        rows.append(_pair(suite, i, method))
        advance(f"{suite.name}: {label}")
    column = {key: [row[key] for row in rows] for key in rows[0]}
    numbers = {key: np.array(column[key], dtype=np.float64) for key in _NUMBERS}
    return Outcome(
        method=label,
        **numbers,
        success=np.array(column["success"], dtype=bool),
        status=tuple(column["status"]),
        errors=tuple(column["errors"]),
        matrices=np.stack(column["matrices"]),
    )


_NUMBERS = (
    *("rotation_degrees", "translation", "displacement", "distance", "symmetric"),
    *("milliseconds", "confidence", "kl_before", "kl_after", "information"),
)


def _pair(suite: PairSuite, i: int, method: Method) -> dict[str, Any]:
    """One call, and everything that is measured about its answer."""
    row: dict[str, Any] = dict.fromkeys(_NUMBERS, float("nan"))
    row |= {"success": False, "status": None, "errors": None, "matrices": np.full((4, 4), np.nan)}
    clouds = suite.sources[i], suite.targets[i]
    start = time.perf_counter()
    try:
        answer = method(*clouds)
    except Exception as error:  # whatever a method raises is its answer to this pair
        row["milliseconds"] = 1e3 * (time.perf_counter() - start)
        row["errors"] = f"{type(error).__name__}: {error}"
        return row
    spent = 1e3 * (time.perf_counter() - start)
    row["milliseconds"] = getattr(answer, "milliseconds", None) or spent
    try:
        estimate = _motion(answer)
    except InvalidInput as error:
        row["errors"] = f"{type(error).__name__}: {error}"
        return row
    truth = RigidTransform.from_matrix(torch.as_tensor(suite.transforms[i]))
    source = torch.as_tensor(clouds[0]).double()
    row["matrices"] = estimate.matrix.numpy()
    row["rotation_degrees"] = float(metrics.rotation_error(estimate, truth).rad2deg())
    row["translation"] = float(metrics.translation_error(estimate, truth))
    row["displacement"] = float(metrics.displacement(source.mean(0), estimate, truth))
    row["distance"] = float(metrics.mean_point_distance(source, estimate, truth))
    if suite.shapes is not None:
        shape = torch.as_tensor(suite.shapes[i]).double()
        row["symmetric"] = float(metrics.symmetric_distance(shape, estimate, truth))
    if suite.information is not None:
        information = torch.from_numpy(suite.information[i])
        row["information"] = float(metrics.information_distance(estimate, truth, information))
    confidence = getattr(answer, "confidence", None)
    if confidence is not None:
        row["confidence"] = float(np.asarray(confidence).reshape(-1)[0])
    status = getattr(answer, "status", None)
    row["status"] = None if status is None else str(getattr(status, "value", status))
    row["kl_before"], row["kl_after"] = _divergences(answer, estimate)
    row["success"] = _succeeded(suite, i, row)
    return row


def _motion(answer: Any) -> RigidTransform:
    matrix = getattr(answer, "target_from_source", answer)
    if isinstance(matrix, RigidTransform):
        matrix = matrix.matrix
    tensor = (
        matrix.detach().cpu().double() if isinstance(matrix, torch.Tensor) else torch.tensor(np.array(matrix, float))
    )
    return RigidTransform.from_matrix(tensor.reshape(4, 4) if tensor.numel() == 16 else tensor)


def _succeeded(suite: PairSuite, i: int, row: dict[str, Any]) -> bool:
    """Fragments: 3DMatch's criterion. Scans: inside the tolerances of the pair. ModelNet: within .05, up to symmetry
    where the shape is known."""
    if suite.information is not None:
        return bool(row["information"] <= FRAGMENTS_WITHIN)
    if suite.tolerance_degrees is not None and suite.tolerance_translation is not None:
        turned = row["rotation_degrees"] < suite.tolerance_degrees[i]
        return bool(turned and row["displacement"] < suite.tolerance_translation[i])
    return bool((row["symmetric"] if suite.shapes is not None else row["distance"]) < RIGHT)


def _divergences(answer: Any, estimate: RigidTransform) -> tuple[float, float]:
    """KL(source mixture || target mixture) before and after the motion, where the answer carries its mixtures."""
    source, target = getattr(answer, "source_mixture", None), getattr(answer, "target_mixture", None)
    if source is None or target is None:
        return float("nan"), float("nan")
    from deepgmr.divergence import kl_unscented  # here: only methods that build mixtures need it

    source, target = (
        mixture.to(torch.float64) if not mixture.batch_shape else mixture.to(torch.float64)[0]
        for mixture in (source, target)
    )
    moved = source.transformed(estimate)
    try:
        return float(kl_unscented(source, target)), float(kl_unscented(moved, target))
    except InvalidMixture:  # a component collapsed: the motion is scored all the same, the mixtures are not
        return float("nan"), float("nan")
