"""What was measured, summed up: one row a method, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr import metrics
from deepgmr.evaluation.overview import by_method, by_suite
from deepgmr.evaluation.results import Result, as_table, write_result

RIGHT = 0.05  # a ModelNet answer is right below this mean distance; shapes have radius 1
COARSE = 0.2  # the recall threshold of the paper
STUDY = "tables"


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
    information: np.ndarray  # (n,) 3DMatch's distance in metres, of suites of fragments
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
    kind: str  # "modelnet", "scans" or "fragments"
    names: tuple[str, ...]
    groups: tuple[str, ...]  # "objects", "rooms", "lidar", or scenes
    axisymmetric: np.ndarray | None  # (n,) bool
    has_shapes: bool
    outcomes: tuple[Outcome, ...]
    provenance: dict[str, Any]

    def summary(self) -> list[dict[str, Any]]:
        """One row of numbers a method, by the names of the printed columns; None where there is nothing to say."""
        return [_summary(self, outcome) for outcome in self.outcomes]

    def to_text(self) -> str:
        """A Markdown table, under a line that says what was run."""
        return _section(self.suite, len(self.names), self.provenance, self.summary())

    def to_dict(self, *, pairs: bool = True) -> dict[str, Any]:
        """Everything, ready for JSON; without `pairs` no numbers of single pairs."""
        whole = {
            "suite": self.suite,
            "kind": self.kind,
            "count": len(self.names),
            "provenance": self.provenance,
            "summary": self.summary(),
        }
        return whole | self._of_pairs() if pairs else whole

    def _of_pairs(self) -> dict[str, Any]:
        return {
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
    return markdown(to_result(tables))


def to_result(tables: Sequence[Table], *, pairs: bool = True) -> Result:
    """Everything, ready for JSON; without `pairs` no numbers of single pairs."""
    return {"study": STUDY, "tables": [table.to_dict(pairs=pairs) for table in tables], "pooled": pooled(tables)}


def write_json(path: str | Path, tables: Sequence[Table], *, pairs: bool = True) -> None:
    """All tables as one JSON file, which appears whole or not at all."""
    write_result(path, to_result(tables, pairs=pairs))


def markdown(result: Result) -> str:
    """`to_text`, of what was written."""
    parts = [
        _section(table["suite"], table["count"], table["provenance"], table["summary"]) for table in result["tables"]
    ]
    if len(parts) > 1:
        parts.append(f"### all suites together\n\n{as_table(result['pooled'], _FORMATS)}")
    return "\n\n".join(parts)


def parts(result: Result) -> dict[str, list[Result]]:
    """The rows that pages are made of: one a suite, of each kind of suites, or with a cell for each method."""
    return {kind: by_suite(result, kind) for kind in ("modelnet", "scans", "fragments")} | {
        "methods": by_method(result)
    }


def _section(suite: str, pairs: int, provenance: Result, summary: list[Result]) -> str:
    threads = provenance["threads"]
    conditions = f"{threads} thread{'s' * (threads != 1)}, seed {provenance['seed']}, lengths in the units of the suite"
    prior = provenance["max_rotation_degrees"]
    conditions += "" if prior is None else f", rotations known to be below {prior:g} degrees"
    notes = "".join(f"\n{line}" for line in provenance.get("notes", ()))
    return f"### {suite}: {pairs} pairs ({conditions})\n\n{as_table(summary, _FORMATS)}" + (
        f"\n{notes}" if notes else ""
    )


# -- summarising -------------------------------------------------------------------------------------------------


def _summary(table: Table, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"method": outcome.method}
    if table.kind == "scans":
        row["success"] = float(outcome.success.mean())
        found = dict.fromkeys(table.groups)
        for group in ("objects", "rooms", "lidar", *(found if len(found) > 1 else ())):
            chosen = np.array([name == group for name in table.groups])
            row[group] = float(outcome.success[chosen].mean()) if chosen.any() else None
    elif table.kind == "fragments":  # every scene counts the same, however many pairs it has
        scenes = {scene: np.array([name == scene for name in table.groups]) for scene in dict.fromkeys(table.groups)}
        recalls = {scene: float(outcome.success[chosen].mean()) for scene, chosen in scenes.items()}
        row["recall"] = float(np.mean(list(recalls.values())))
        row |= recalls if len(recalls) > 1 else {}
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
        return {"AUC": None, "ECE": None, "wrong and sure": None}
    pair = torch.from_numpy(confidence[stated]), torch.from_numpy(success[stated])
    auc = float(metrics.roc_auc(*pair))
    return {
        "AUC": None if np.isnan(auc) else auc,
        "ECE": float(metrics.calibration_error(*pair)),
        "wrong and sure": float(metrics.wrong_and_sure(*pair)),
    }


def _rank_correlation(divergence: np.ndarray, error: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    both = np.isfinite(divergence) & np.isfinite(error)
    x, y = divergence[both], error[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None  # nothing to rank
    return float(spearmanr(x, y).statistic)


def _failed(failures: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in failures.most_common()) or "0"


# -- printing --------------------------------------------------------------------------------------------------

_FORMATS = {
    "KL before": ".2g",
    "KL after": ".2g",
    "mean distance": ".4f",
    "translation": ".4f",
    "ms": ".1f",
    "rotation (deg)": ".2f",
    "median (deg)": ".2f",
}


def _plain(value: Any) -> Any:
    """NumPy to JSON: NaN becomes null."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            return value.tolist()
        plain = value.astype(object)
        plain[~np.isfinite(value)] = None
        return plain.tolist()
    return list(value) if isinstance(value, tuple) else value
