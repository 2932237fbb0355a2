"""Evaluations at a glance: of each suite one row, and one cell for each method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepgmr.evaluation.results import Result

IDENTITY = "identity"
SUITES = {  # the fixed pairs by what they are
    "modelnet_clean": "clean: the same points",
    "modelnet_noisy": "noisy: the same points, noise .01",
    "modelnet_unseen": "unseen: as noisy, categories no network was trained on",
    "modelnet_resampled": "resampled: other points of the surface",
    "modelnet_crop70_45": "crop70_45: 70 % of each, rotations up to 45 degrees",
    "modelnet_crop70_180": "crop70_180: 70 % of each, any rotation",
    "modelnet_crop50_180": "crop50_180: 50 % of each, any rotation",
    "modelnet_clean#recrop70": "recrop70: 70 % of each, other points",
    "modelnet_clean#recrop50": "recrop50: 50 % of each, other points",
    "3DMatch": "3DMatch",
    "3DLoMatch": "3DLoMatch",
    "scans": "scans: objects, rooms, LiDAR",
    "lidar": "lidar: views of a walk up to 170 degrees apart",
}


def by_suite(result: Result, kind: str) -> list[Result]:
    """A row for each suite of this kind ("modelnet", "scans", "fragments"): the summary of the method that was run first.

    `right` counts the pairs that are, or of fragments is the recall, in which every scene weighs the same.
    """
    rows = []
    for table in result["tables"]:
        found = [row for row in table["summary"] if row["method"] != IDENTITY]
        if table["kind"] == kind and found:
            pairs, share = table["count"], succeeded(found[0])
            right = share if kind == "fragments" else f"{round(share * pairs)} of {pairs}"
            rows.append({"suite": told(table["suite"]), "pairs": pairs, "right": right} | found[0])
    return rows


def by_method(result: Result) -> list[Result]:
    """A row for each suite, whatever its kind: the share of right answers and the median milliseconds of each method."""
    return [
        {"suite": told(table["suite"])}
        | {row["method"]: _cell(row) for row in table["summary"] if row["method"] != IDENTITY}
        for table in result["tables"]
    ]


def _cell(summary: Mapping[str, Any]) -> str:
    return f"{succeeded(summary):.2f}" + (f", {summary['ms']:.0f}" if summary.get("ms") is not None else "")


def succeeded(summary: Mapping[str, Any]) -> float:
    """The share of right answers, by the criterion of the suite: up to the symmetry of the shape where that is known."""
    return float(next(summary[key] for key in ("success", "recall", "ADD-S@.05", "recall@.05") if key in summary))


def told(suite: str) -> str:
    """What it is where that is known, and else the name that makes it."""
    return SUITES.get(suite, f"`{suite}`")
