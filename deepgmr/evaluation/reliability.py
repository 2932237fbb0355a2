"""Whether a confidence of .8 is right in eight of ten cases: a reliability diagram over suites that were evaluated.

Read from what `deepgmr evaluate --json` wrote, any number of files; all suites go into one diagram. A pair without an
answer states no confidence and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr import metrics
from deepgmr.errors import InvalidFile, InvalidInput
from deepgmr.evaluation import tables
from deepgmr.evaluation.figures import BLUE, GREY, picture, wilson
from deepgmr.evaluation.results import Result, as_table, provenance, read_result

STUDY = "reliability"
BINS = 10


@dataclass(frozen=True, eq=False)
class Stated:
    """The confidences of one method on one suite (or on all), and which answers were right."""

    label: str
    confidence: np.ndarray  # (n,) in [0, 1]
    success: np.ndarray  # (n,) bool
    silent: int = 0  # pairs without a confidence


def measure(files: Sequence[str | Path], *, method: str = "register") -> Result:
    """The bins of all suites together, and how each suite does."""
    suites = read_stated([Path(path) for path in files], method)
    whole = together(suites)
    return {
        "study": STUDY,
        "provenance": provenance(files=[str(path) for path in files], method=method),
        "bins": binned(whole),
        "suites": [quality(stated) for stated in (*suites, whole)],
    }


def read_stated(paths: Sequence[Path], method: str) -> list[Stated]:
    """One entry a suite that the method was run on. A suite that is in several files gets their names as well."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise InvalidInput("a file was given twice; its pairs would count twice")
    found: list[tuple[Path, Stated]] = []
    others: set[str] = set()
    for path in paths:
        try:
            read = [(table["suite"], table["methods"]) for table in read_result(path, tables.STUDY)["tables"]]
            others |= {name for _, methods in read for name in methods}
            found += [(path, _stated(suite, methods[method])) for suite, methods in read if method in methods]
        except (KeyError, TypeError) as error:
            raise InvalidFile(f"{path}: holds no evaluation; give what `deepgmr evaluate --json` wrote") from error
    if not any(len(suite.confidence) for _, suite in found):
        raise InvalidInput(f"no confidence of `{method}` in these files; they hold {', '.join(sorted(others)) or '-'}")
    labels = [suite.label for _, suite in found]
    return [
        replace(suite, label=f"{suite.label} ({path})") if labels.count(suite.label) > 1 else suite
        for path, suite in found
    ]


def _stated(suite: str, row: dict[str, list[Any]]) -> Stated:
    confidence = np.array([np.nan if value is None else value for value in row["confidence"]], dtype=np.float64)
    stated = np.isfinite(confidence)
    success = np.array(row["success"], dtype=bool)
    return Stated(suite, confidence[stated], success[stated], int((~stated).sum()))


def together(suites: Sequence[Stated]) -> Stated:
    return Stated(
        "all together",
        np.concatenate([suite.confidence for suite in suites]),
        np.concatenate([suite.success for suite in suites]),
        sum(suite.silent for suite in suites),
    )


def binned(stated: Stated) -> list[Result]:
    """Ten bins of equal width, cut where `metrics.calibration_error` cuts them; None for what an empty one lacks."""
    index = np.minimum((stated.confidence * BINS).astype(np.int64), BINS - 1)
    bins = []
    for i in range(BINS):
        mine = index == i
        confidence, right = (float(c[mine].mean()) if mine.any() else None for c in (stated.confidence, stated.success))
        bins.append({"low": i / BINS, "pairs": int(mine.sum()), "confidence": confidence, "right": right})
    return bins


def quality(stated: Stated) -> Result:
    """The numbers of one row; None where there is nothing to say."""
    row: Result = {"suite": stated.label, "pairs": len(stated.success), "no answer": stated.silent}
    if not len(stated.success):
        return row
    pair = torch.from_numpy(stated.confidence), torch.from_numpy(stated.success)
    auc = float(metrics.roc_auc(*pair))
    return row | {
        "mean confidence": float(stated.confidence.mean()),
        "share right": float(stated.success.mean()),
        "AUC": None if math.isnan(auc) else auc,
        "ECE": float(metrics.calibration_error(*pair, bins=BINS)),
        "wrong and sure": float(metrics.wrong_and_sure(*pair)),
    }


# -- telling -----------------------------------------------------------------------------------------------------


def markdown(result: Result) -> str:
    """The bins, and a row a suite."""
    bins = [
        {
            "confidence": f"{b['low']:.1f} to {b['low'] + 1 / BINS:.1f}",
            "pairs": b["pairs"],
            "mean confidence": b["confidence"],
            "share right": b["right"],
            "right - stated": b["right"] - b["confidence"] if b["pairs"] else None,
        }
        for b in result["bins"]
    ]
    return f"### {title(result)}\n\n{as_table(bins)}\n\n{as_table(result['suites'])}"


def title(result: Result) -> str:
    whole = result["suites"][-1]
    told = "no wrong and right answers to tell apart" if whole["AUC"] is None else f"ROC AUC {whole['AUC']:.3f}"
    method = result["provenance"]["method"]
    return f"{method}: {whole['pairs']:,} pairs, {told}, expected calibration error {whole['ECE']:.3f}"


def draw(result: Result, path: Path) -> None:
    """Mean confidence against the share of right answers with its 95 % interval, over how many pairs that is."""
    bins = [b for b in result["bins"] if b["pairs"]]
    with picture(path, 5.6, 5.6) as figure:
        figure.suptitle(title(result).replace(", ROC", ",\nROC"), fontsize=10, fontweight="bold")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        upper.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="as stated")
        x, y = [b["confidence"] for b in bins], [b["right"] for b in bins]
        reach = [wilson(b["right"], b["pairs"]) for b in bins]
        below, above = ([abs(b["right"] - ends[i]) for b, ends in zip(bins, reach, strict=True)] for i in (0, 1))
        upper.errorbar(
            x, y, (below, above), color=BLUE, marker="o", linewidth=1.8, elinewidth=1, label="measured, 95 %"
        )
        upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share right")
        upper.set_xticks(np.linspace(0, 1, BINS + 1))
        upper.legend(loc="upper left")
        bars = lower.bar(
            [b["low"] for b in bins], [b["pairs"] for b in bins], 1 / BINS, align="edge", color=BLUE, alpha=0.75
        )
        lower.bar_label(bars, fontsize=7.5, padding=1)
        lower.margins(y=0.2)
        lower.set(xlabel="confidence", ylabel="pairs")
        lower.grid(visible=False)
