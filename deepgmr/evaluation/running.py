"""Running methods on suites, pair by pair, and measuring every answer."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr import metrics
from deepgmr.datasets.fixed import PairSuite, read_suite
from deepgmr.errors import InvalidConfig, InvalidFile, InvalidInput, InvalidMixture
from deepgmr.evaluation.methods import Method, make_methods
from deepgmr.evaluation.tables import RIGHT, Outcome, Table
from deepgmr.transform import RigidTransform

Progress = Callable[[str, float], None]

_BUSY = 0.1  # share of the time spent waiting for a processor from which times mean little


def evaluate(
    suite_paths: Iterable[str | Path | PairSuite],
    methods: Sequence[str] | Mapping[str, Method],
    *,
    limit: int | None = None,
    seed: int = 0,
    max_rotation_degrees: float | None = None,
    points: int | None = None,
    progress: Progress | None = None,
) -> list[Table]:
    """Run every method on every suite; one table a suite, an `identity` row always first.

    A suite is a path that `read_suite` understands; `PATH#unseen` and `PATH#seen` keep the rows whose category is
    not, or is, among the first twenty. Methods are names in `METHODS` (or `name:argument`), or a mapping from a
    label to a callable. `seed` is for methods that draw (none of those here draws on clouds) and stands in the table
    with the other conditions. `limit` keeps so many pairs, spread evenly over the suite; `points` cuts each cloud.
    Times are wall-clock a pair, after one call that is not counted.

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
    suites = [item if isinstance(item, PairSuite) else _read(item, points) for item in suite_paths]
    suites = [suite if limit is None or limit >= len(suite) else _thinned(suite, limit) for suite in suites]
    advance = _Advance(len(callables) * sum(map(len, suites)), progress)
    tables = []
    for suite in suites:
        provenance = _provenance(seed=seed, limit=limit, max_rotation_degrees=max_rotation_degrees)
        start, waited = time.perf_counter(), _waited()
        outcomes = tuple(_run(suite, label, method, advance) for label, method in callables.items())
        share = (_waited() - waited) / (time.perf_counter() - start)
        if share > _BUSY:
            provenance["notes"] = [
                f"the machine was busy: {share:.0%} of the time went by waiting for a processor; do not quote these times"
            ]
        tables.append(
            Table(
                suite=suite.name,
                kind=suite.kind,
                names=suite.names,
                groups=suite.groups,
                axisymmetric=suite.axisymmetric,
                has_shapes=suite.shapes is not None,
                outcomes=outcomes,
                provenance=provenance,
            )
        )
    return tables


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


def _read(path: str | Path, points: int | None) -> PairSuite:
    text, mark, rows = str(path).rpartition("#")
    if not mark or rows not in ("seen", "unseen"):
        return read_suite(path, points=points)
    suite = read_suite(text, points=points)
    if suite.unseen is None:
        raise InvalidFile(f"{text} does not say which rows are unseen, so `#{rows}` means nothing there")
    return suite.subset(suite.unseen if rows == "unseen" else ~suite.unseen, name=f"{suite.name}#{rows}")


def _thinned(suite: PairSuite, limit: int) -> PairSuite:
    return suite.subset(np.linspace(0, len(suite) - 1, limit).round().astype(np.int64))


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
    *("milliseconds", "confidence", "kl_before", "kl_after"),
)


def _pair(suite: PairSuite, i: int, method: Method) -> dict[str, Any]:
    """One call, and everything that is measured about its answer."""
    row: dict[str, Any] = dict.fromkeys(_NUMBERS, float("nan"))
    row |= {"success": False, "status": None, "errors": None, "matrices": np.full((4, 4), np.nan)}
    start = time.perf_counter()
    try:
        answer = method(suite.sources[i], suite.targets[i])
    except Exception as error:  # whatever a method raises is its answer to this pair
        row["milliseconds"] = 1e3 * (time.perf_counter() - start)
        row["errors"] = f"{type(error).__name__}: {error}"
        return row
    row["milliseconds"] = 1e3 * (time.perf_counter() - start)
    try:
        estimate = _motion(answer)
    except InvalidInput as error:
        row["errors"] = f"{type(error).__name__}: {error}"
        return row
    truth = RigidTransform.from_matrix(torch.as_tensor(suite.transforms[i]))
    source = torch.as_tensor(suite.sources[i]).double()
    row["matrices"] = estimate.matrix.numpy()
    row["rotation_degrees"] = float(metrics.rotation_error(estimate, truth).rad2deg())
    row["translation"] = float(metrics.translation_error(estimate, truth))
    row["displacement"] = float(metrics.displacement(source.mean(0), estimate, truth))
    row["distance"] = float(metrics.mean_point_distance(source, estimate, truth))
    if suite.shapes is not None:
        shape = torch.as_tensor(suite.shapes[i]).double()
        row["symmetric"] = float(metrics.symmetric_distance(shape, estimate, truth))
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
    """Scans: inside the tolerances of the pair. ModelNet: within .05, up to symmetry where the shape is known."""
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


def _provenance(**options: Any) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in ("deepgmr", "torch", "numpy", "scipy", "small_gicp", "open3d", "kiss-matcher"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        **options,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "versions": versions,
    }
