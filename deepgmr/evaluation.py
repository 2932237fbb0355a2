"""One table for any method on any suite of fixed pairs.

A method is a callable `(source (N, 3), target (M, 3)) -> answer` whose answer has `target_from_source` (4, 4) and
perhaps a `confidence`. It sees the two clouds and nothing else. An answer that is an error is counted by its name
and is a miss in every recall; means are over the pairs that were answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr import metrics
from deepgmr.datasets.fixed import PairSuite, read_suite
from deepgmr.errors import InvalidConfig, InvalidFile, InvalidInput
from deepgmr.files.disk import replacing
from deepgmr.transform import RigidTransform

Method = Callable[[np.ndarray, np.ndarray], Any]
Factory = Callable[..., Method]  # (argument, *, seed, max_rotation_degrees) -> Method
Progress = Callable[[str, float], None]

RIGHT = 0.05  # a ModelNet answer is right below this mean distance; shapes have radius 1
COARSE = 0.2  # the recall threshold of the paper


# -- methods ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """The least a method returns."""

    target_from_source: Any  # (4, 4), or (1, 4, 4), or a RigidTransform
    confidence: float | None = None


def _identity(argument: str | None, *, seed: int, max_rotation_degrees: float | None) -> Method:
    return lambda source, target: Answer(np.eye(4))


def _register(argument: str | None, *, seed: int, max_rotation_degrees: float | None) -> Method:
    from deepgmr.registration import register  # here: reads trained weights

    return lambda source, target: register(source, target, seed=seed, max_rotation_degrees=max_rotation_degrees)


def _network(argument: str | None, *, seed: int, max_rotation_degrees: float | None) -> Method:
    from deepgmr.checkpoint import load  # here: reads trained weights

    model = load(argument or "deepgmr").eval()

    def forward(source: np.ndarray, target: np.ndarray) -> Any:
        with torch.inference_mode():
            return model(torch.as_tensor(source).float()[None], torch.as_tensor(target).float()[None])

    return forward


# A name, or `name:argument`: "network:deepgmr-unseen" loads those weights.
METHODS: dict[str, Factory] = {"identity": _identity, "register": _register, "network": _network}


# -- one method on one suite -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one method did on every pair; NaN where it gave no answer (or no confidence, or no mixtures)."""

    method: str
    rotation_degrees: np.ndarray  # (n,)
    translation: np.ndarray  # (n,) |t - t*|
    displacement: np.ndarray  # (n,) of the centroid of the source
    distance: np.ndarray  # (n,) mean point distance of the source
    symmetric: np.ndarray  # (n,) ADD-S of the whole shape
    milliseconds: np.ndarray  # (n,)
    confidence: np.ndarray  # (n,)
    kl_before: np.ndarray  # (n,) KL of the source mixture to the target mixture, in nats
    kl_after: np.ndarray  # (n,) the same once the source is moved by the answer
    success: np.ndarray  # (n,) bool
    status: tuple[str | None, ...]
    errors: tuple[str | None, ...]  # "Name: message"
    matrices: np.ndarray  # (n, 4, 4)

    @property
    def failures(self) -> Counter[str]:
        """How often each named error was the answer."""
        return Counter(error.split(":")[0] for error in self.errors if error)


@dataclass(frozen=True, eq=False)
class Table:
    """Every method on one suite: per-pair numbers, and the summary that is printed."""

    suite: str
    kind: str  # "modelnet" or "scans"
    names: tuple[str, ...]
    groups: tuple[str, ...]  # "objects", "rooms", "lidar"
    axisymmetric: np.ndarray | None  # (n,) bool
    has_shapes: bool
    outcomes: tuple[Outcome, ...]
    provenance: dict[str, Any]

    def summary(self) -> list[dict[str, Any]]:
        """One row of numbers a method, by the names of the printed columns; None where there is nothing to say."""
        return [_summary(self, outcome) for outcome in self.outcomes]

    def to_text(self) -> str:
        """A Markdown table, under a line that says what was run."""
        conditions = f"{self.provenance['threads']} thread(s), seed {self.provenance['seed']}"
        prior = self.provenance["max_rotation_degrees"]
        conditions += "" if prior is None else f", rotations known to be below {prior:g} degrees"
        return f"### {self.suite}: {len(self.names)} pairs ({conditions})\n\n{_markdown(self.summary())}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "suite": self.suite,
            "kind": self.kind,
            "provenance": self.provenance,
            "summary": self.summary(),
            "pairs": {
                "name": list(self.names),
                "group": list(self.groups),
                "axisymmetric": _plain(self.axisymmetric),
            },
            "methods": {
                outcome.method: {key: _plain(value) for key, value in vars(outcome).items() if key != "method"}
                for outcome in self.outcomes
            },
        }


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
    label to a callable. `limit` keeps so many pairs, spread evenly over the suite; `points` cuts each cloud.
    Times are wall-clock a pair, after one call that is not counted.

    Raises `InvalidConfig` for an unknown method or a bad limit, `InvalidFile` for a bad suite.
    """
    if limit is not None and limit < 1:
        raise InvalidConfig(f"cannot evaluate {limit} pairs; give a positive limit")
    callables = _callables(methods, seed=seed, max_rotation_degrees=max_rotation_degrees)
    suites = [item if isinstance(item, PairSuite) else _read(item, points) for item in suite_paths]
    suites = [suite if limit is None or limit >= len(suite) else _thinned(suite, limit) for suite in suites]
    advance = _Advance(len(callables) * sum(map(len, suites)), progress)
    tables = []
    for suite in suites:
        provenance = _provenance(seed=seed, limit=limit, max_rotation_degrees=max_rotation_degrees)
        outcomes = tuple(_run(suite, label, method, advance) for label, method in callables.items())
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


def pooled(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Confidence against success over all the tables together, one row a method that states a confidence."""
    rows = []
    for label in dict.fromkeys(outcome.method for table in tables for outcome in table.outcomes):
        found = [outcome for table in tables for outcome in table.outcomes if outcome.method == label]
        confidence = np.concatenate([outcome.confidence for outcome in found])
        success = np.concatenate([outcome.success for outcome in found])
        row = {"method": label, "pairs": len(success), "success": float(success.mean())}
        row |= _reliability(confidence, success)
        row["failed"] = _failed(Counter(name for outcome in found for name in outcome.failures.elements()))
        rows.append(row)
    return rows


def to_text(tables: Sequence[Table]) -> str:
    """Every table, and the pooled one where there is more than one."""
    parts = [table.to_text() for table in tables]
    if len(tables) > 1:
        parts.append(f"### all suites together\n\n{_markdown(pooled(tables))}")
    return "\n\n".join(parts)


def write_json(path: str | Path, tables: Sequence[Table]) -> None:
    """All tables as one JSON file, which appears whole or not at all."""
    path = Path(path)
    content = {"tables": [table.to_dict() for table in tables], "pooled": pooled(tables)}
    text = json.dumps(content, allow_nan=False)
    with replacing(path) as stream:
        stream.write(text.encode())


# -- running ---------------------------------------------------------------------------------------------------


class _Advance:
    """Counts pairs over all suites and methods and tells whoever wants to know."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, label: str) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(label, self._done / self._total)


def _callables(methods: Sequence[str] | Mapping[str, Method], **options: Any) -> dict[str, Method]:
    identity = _identity(None, **options)
    if isinstance(methods, Mapping):
        return {"identity": identity, **methods}
    chosen = {"identity": identity}
    for spec in [methods] if isinstance(methods, str) else methods:
        name, _, argument = spec.partition(":")
        if name not in METHODS:
            raise InvalidConfig(f"unknown method `{spec}`; the methods are {', '.join(METHODS)}")
        chosen[spec] = METHODS[name](argument or None, **options)
    return chosen


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
    tensor = torch.as_tensor(matrix).detach().cpu().double()
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
    return float(kl_unscented(source, target)), float(kl_unscented(moved, target))


# -- summarising -----------------------------------------------------------------------------------------------


def _summary(table: Table, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"method": outcome.method}
    if table.kind == "scans":
        row["success"] = float(outcome.success.mean())
        for group in ("objects", "rooms", "lidar"):
            chosen = np.array([name == group for name in table.groups])
            row[group] = float(outcome.success[chosen].mean()) if chosen.any() else None
    else:
        row["mean distance"] = _mean(outcome.distance)
        row["recall@.2"] = _recall(outcome.distance, COARSE)
        row["recall@.05"] = _recall(outcome.distance, RIGHT)
        if table.axisymmetric is not None and not table.axisymmetric.all():
            row["asym@.05"] = _recall(outcome.distance[~table.axisymmetric], RIGHT)
        if table.has_shapes:
            row["ADD-S@.05"] = _recall(outcome.symmetric, RIGHT)
    row["rotation (deg)"] = _mean(outcome.rotation_degrees)
    row["median (deg)"] = _median(outcome.rotation_degrees)
    row["translation"] = _mean(outcome.translation)
    row["ms"] = _median(outcome.milliseconds)
    if np.isfinite(outcome.kl_after).any():
        row["KL before"], row["KL after"] = _median(outcome.kl_before), _median(outcome.kl_after)
        row["KL~error"] = _rank_correlation(outcome.kl_after, outcome.distance)
    row |= _reliability(outcome.confidence, outcome.success)
    row["failed"] = _failed(outcome.failures)
    return row


def _recall(values: np.ndarray, threshold: float) -> float:
    return float(metrics.recall(torch.from_numpy(values), threshold))


def _mean(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _median(values: np.ndarray) -> float | None:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else None


def _reliability(confidence: np.ndarray, success: np.ndarray) -> dict[str, float | None]:
    stated = np.isfinite(confidence)
    if not stated.any():
        return {"AUC": None, "ECE": None}
    pair = torch.from_numpy(confidence[stated]), torch.from_numpy(success[stated])
    auc = float(metrics.roc_auc(*pair))
    return {"AUC": None if np.isnan(auc) else auc, "ECE": float(metrics.calibration_error(*pair))}


def _rank_correlation(divergence: np.ndarray, error: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    both = np.isfinite(divergence) & np.isfinite(error)
    if both.sum() < 3:
        return None
    value = float(spearmanr(divergence[both], error[both]).statistic)
    return None if np.isnan(value) else value


def _failed(failures: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in failures.most_common()) or "0"


# -- printing --------------------------------------------------------------------------------------------------

_FORMATS = {"mean distance": ".4f", "translation": ".4f", "ms": ".1f", "pairs": "d"}


def _markdown(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    empty = {key for key in columns if all(row.get(key) is None for row in rows)}
    columns = [key for key in columns if key not in empty]
    lines = [columns, ["---" if key in ("method", "failed") else "---:" for key in columns]]
    lines += [[_cell(key, row.get(key)) for key in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else format(value, _FORMATS.get(key, ".3f" if "deg" not in key else ".2f"))


def _plain(value: Any) -> Any:
    """NumPy to JSON: NaN becomes null."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            return value.tolist()
        plain = value.astype(object)
        plain[~np.isfinite(value)] = None
        return plain.tolist()
    return list(value) if isinstance(value, tuple) else value


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
