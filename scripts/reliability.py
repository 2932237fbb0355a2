"""Whether a confidence of .8 is right in eight of ten cases: a reliability diagram over suites that were evaluated.

    deepgmr evaluate suite.h5 scans/ --json evaluated.json
    python scripts/reliability.py evaluated.json --picture reliability.svg

Reads what `deepgmr evaluate ... --json` and `scripts/benchmark.py ... --json` write, any number of files. All suites go
into one diagram; the table has a row for each as well. A pair without an answer states no confidence and is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr import metrics
from deepgmr.errors import DeepGMRError, InvalidFile, InvalidInput, MissingDependency
from deepgmr.io.disk import check_readable, check_writable, replacing

BINS = 10
BLUE, GREY = "#0072B2", "#6B6B6B"
STYLE: dict[str, Any] = {
    **{"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left"},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.axisbelow": True},
    **{"axes.grid": True, "grid.color": "#E3E3E3", "grid.linewidth": 0.6, "legend.frameon": False},
    **{"xtick.color": "#333333", "ytick.color": "#333333", "axes.labelcolor": "#333333", "svg.hashsalt": "deepgmr"},
}


# -- what was evaluated ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stated:
    """The confidences of one method on one suite (or on all), and which answers were right."""

    label: str
    confidence: np.ndarray  # (n,) in [0, 1]
    success: np.ndarray  # (n,) bool
    silent: int = 0  # pairs without a confidence

    def auc(self) -> float:
        """ROC AUC; NaN where all answers are right or all are wrong."""
        return float(metrics.roc_auc(torch.from_numpy(self.confidence), torch.from_numpy(self.success)))

    def calibration_error(self) -> float:
        pair = torch.from_numpy(self.confidence), torch.from_numpy(self.success)
        return float(metrics.calibration_error(*pair, bins=BINS))


@dataclass(frozen=True)
class Bin:
    low: float
    high: float
    count: int
    confidence: float  # mean; NaN where the bin is empty, like `right`
    right: float  # share of right answers


def read_json(path: Path) -> Any:
    check_readable(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidFile(f"{path}: is not JSON ({error}); give a file that was written with --json") from None


def read_stated(paths: Sequence[Path], method: str) -> list[Stated]:
    """One entry a suite that the method was run on. A suite that is in several files gets their names as well."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise InvalidInput("a file was given twice; its pairs would count twice")
    found: list[tuple[Path, Stated]] = []
    others: set[str] = set()
    for path in paths:
        try:
            tables = [(table["suite"], table["methods"]) for table in read_json(path)["tables"]]
            others |= {name for _, methods in tables for name in methods}
            found += [(path, _stated(suite, methods[method])) for suite, methods in tables if method in methods]
        except (KeyError, TypeError) as error:
            raise InvalidFile(f"{path}: holds no evaluation; give what `deepgmr evaluate --json` wrote") from error
    if not any(len(suite.confidence) for _, suite in found):
        raise InvalidInput(f"no confidence of `{method}` in these files; they hold {', '.join(sorted(others)) or '-'}")
    labels = [suite.label for _, suite in found]
    return [
        Stated(
            f"{suite.label} ({path})" if labels.count(suite.label) > 1 else suite.label,
            suite.confidence,
            suite.success,
            suite.silent,
        )
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


def binned(stated: Stated) -> list[Bin]:
    """Ten bins of equal width, cut where `metrics.calibration_error` cuts them."""
    index = np.minimum((stated.confidence * BINS).astype(np.int64), BINS - 1)
    bins = []
    for i in range(BINS):
        mine = index == i
        confidence, right = (
            float(c[mine].mean()) if mine.any() else math.nan for c in (stated.confidence, stated.success)
        )
        bins.append(Bin(i / BINS, (i + 1) / BINS, int(mine.sum()), confidence, right))
    return bins


# -- telling -----------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], form: str = ".3f") -> str:
    """A Markdown table; what is not known is a dash."""
    cells = [list(head), ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        cells.append([("-" if math.isnan(c) else format(c, form)) if isinstance(c, float) else str(c) for c in row])
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def markdown(suites: Sequence[Stated], method: str) -> str:
    whole = together(suites)
    bins = [
        (f"{b.low:.1f} to {b.high:.1f}", b.count, b.confidence, b.right, b.right - b.confidence) for b in binned(whole)
    ]
    rows = [
        (s.label, len(s.success), s.silent, *means(s), s.auc(), s.calibration_error() if len(s.success) else math.nan)
        for s in (*suites, whole)
    ]
    return "\n\n".join(
        (
            f"### {title(whole, method)}",
            table(("confidence", "pairs", "mean confidence", "share right", "right - stated"), bins),
            table(("suite", "pairs", "no answer", "mean confidence", "share right", "AUC", "ECE"), rows),
        )
    )


def means(stated: Stated) -> tuple[float, float]:
    if not len(stated.success):
        return math.nan, math.nan
    return float(stated.confidence.mean()), float(stated.success.mean())


def title(stated: Stated, method: str) -> str:
    auc = stated.auc()
    told = "no wrong and right answers to tell apart" if math.isnan(auc) else f"ROC AUC {auc:.3f}"
    return (
        f"{method}: {len(stated.success):,} pairs, {told}, expected calibration error {stated.calibration_error():.3f}"
    )


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share that was seen among `count` (Wilson, JASA 1927)."""
    centre, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (centre - spread) / (1 + z * z / count)), min(1.0, (centre + spread) / (1 + z * z / count))


def matplotlib() -> Any:
    """Matplotlib, or `MissingDependency` with the command that installs it."""
    try:
        import_module("matplotlib.figure")
        return import_module("matplotlib")
    except ImportError as error:
        raise MissingDependency("pictures need matplotlib: pip install 'deepgmr[plots]'") from error


def check_picture(path: Path) -> None:
    """Every reason not to draw is found before anything is computed."""
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise InvalidFile(f"{path}: a picture ends in .svg, .png or .pdf")
    check_writable(path)
    matplotlib()


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Any]:
    """An empty figure (inches) in the style of these scripts, written once it has been filled."""
    check_picture(path)
    library = matplotlib()
    with library.rc_context(STYLE):
        figure = library.figure.Figure(figsize=(width, height), layout="constrained")
        yield figure
        undated = {"Date": None} if path.suffix == ".svg" else None  # the same numbers give the same bytes
        with replacing(path) as stream:
            figure.savefig(stream, format=path.suffix[1:], dpi=150, metadata=undated)


def draw(whole: Stated, method: str, path: Path) -> None:
    """Mean confidence against the share of right answers with its 95 % interval, over how many pairs that is."""
    bins = [b for b in binned(whole) if b.count]
    with picture(path, 5.6, 5.6) as figure:
        figure.suptitle(title(whole, method).replace(", ROC", ",\nROC"), fontsize=10, fontweight="bold")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        upper.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="as stated")
        x, y = [b.confidence for b in bins], [b.right for b in bins]
        reach = [wilson(b.right, b.count) for b in bins]
        below, above = ([abs(b.right - ends[i]) for b, ends in zip(bins, reach, strict=True)] for i in (0, 1))
        upper.errorbar(
            x, y, (below, above), color=BLUE, marker="o", linewidth=1.8, elinewidth=1, label="measured, 95 %"
        )
        upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share right")
        upper.set_xticks(np.linspace(0, 1, BINS + 1))
        upper.legend(loc="upper left")
        bars = lower.bar([b.low for b in bins], [b.count for b in bins], 1 / BINS, align="edge", color=BLUE, alpha=0.75)
        lower.bar_label(bars, fontsize=7.5, padding=1)
        lower.margins(y=0.2)
        lower.set(xlabel="confidence", ylabel="pairs")
        lower.grid(visible=False)


# -- the terminal ------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="JSON", help="written by `deepgmr evaluate ... --json`")
    parser.add_argument("--method", default="register", help="one that states a confidence [default: register]")
    parser.add_argument("--picture", type=Path, metavar="OUT", help="draw the diagram (.svg, .png or .pdf)")
    options = parser.parse_args(arguments)
    try:
        if options.picture is not None:
            check_picture(options.picture)
        suites = read_stated(options.files, options.method)
        print(markdown(suites, options.method))
        if options.picture is not None:
            draw(together(suites), options.method, options.picture)
    except DeepGMRError as error:
        print(f"reliability.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
