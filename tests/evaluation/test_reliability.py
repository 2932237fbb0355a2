"""The reliability diagram: its bins by hand, its files told apart, its picture drawn from the JSON."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepgmr.datasets.suites.fixed import PairSuite
from deepgmr.errors import InvalidFile, InvalidInput, MissingDependency
from deepgmr.evaluation import Answer, evaluate, figures, read_result, reliability, write_json, write_result

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs deepgmr[plots]")

CONFIDENCE = [0.05, 0.15, 0.3, None, 0.8, 0.9, 1.0]
SUCCESS = [False, False, True, False, False, True, True]


def written(path: Path, suites: dict[str, tuple[list[float | None], list[bool]]]) -> Path:
    tables = [
        {"suite": name, "methods": {"register": {"confidence": c, "success": s}}} for name, (c, s) in suites.items()
    ]
    path.write_text(json.dumps({"study": "tables", "tables": tables, "pooled": []}))
    return path


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", {"one": (CONFIDENCE[:4], SUCCESS[:4]), "two": (CONFIDENCE[4:], SUCCESS[4:])})
    measured = reliability.measure([path])
    write_result(tmp_path / "out.json", measured)
    result = read_result(tmp_path / "out.json", "reliability")
    assert result == measured
    text = reliability.markdown(result)
    # Bins .0, .1, .3, .8 hold one pair each, .9 holds .9 and 1.0: (.05 + .15 + .7 + .8 + 2 * .05) / 6.
    # Of the 3 x 3 pairs of a right and a wrong answer only (.3, .8) is in the wrong order.
    assert "### register: 6 pairs, ROC AUC 0.889, expected calibration error 0.300" in text
    assert "| 0.9 to 1.0 | 2 | 0.950 | 1.000 | 0.050 |" in text and "| 0.4 to 0.5 | 0 | - | - | - |" in text
    assert "| one | 3 | 1 | 0.167 | 0.333 | 1.000 | 0.300 | 0.000 |" in text
    assert "| two | 3 | 0 | 0.900 | 0.667 | 1.000 | 0.300 | 0.000 |" in text
    assert "| all together | 6 | 1 | 0.533 | 0.500 | 0.889 | 0.300 | 0.000 |" in text


def test_what_the_evaluation_writes_is_what_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(50, 3))
    shift = np.eye(4)
    suite = PairSuite("suite", "modelnet", [cloud] * 12, [cloud] * 12, np.tile(shift, (12, 1, 1)), ("x",) * 12, None)
    stated = rng.uniform(size=12)
    calls = iter([0.5, *stated])  # the first call only warms up

    def sure(source: np.ndarray, target: np.ndarray) -> Answer:
        confidence = next(calls)
        shift[0, 3] = float(confidence < 0.5)  # wrong by 1 where it is unsure
        return Answer(shift.copy(), confidence)

    tables = evaluate([suite], {"sure": sure})
    write_json(tmp_path / "out.json", tables)
    (found,) = reliability.read_stated([tmp_path / "out.json"], "sure")
    assert np.array_equal(found.confidence, stated) and np.array_equal(found.success, stated >= 0.5)
    summary = tables[0].summary()[1]
    assert all(reliability.quality(found)[key] == summary[key] for key in ("AUC", "ECE", "wrong and sure"))
    bins = reliability.binned(found)
    assert sum(b["pairs"] for b in bins) == 12
    assert sum(b["pairs"] * abs(b["confidence"] - b["right"]) for b in bins if b["pairs"]) / 12 == pytest.approx(
        summary["ECE"]
    )
    with pytest.raises(InvalidInput, match="they hold identity, sure"):
        reliability.read_stated([tmp_path / "out.json"], "register")


def test_several_files_are_told_apart_and_none_counts_twice(tmp_path: Path) -> None:
    paths = [written(tmp_path / name, {"same": (CONFIDENCE, SUCCESS)}) for name in ("a.json", "b.json")]
    found = reliability.read_stated(paths, "register")
    assert [suite.label for suite in found] == [f"same ({path})" for path in paths]
    assert reliability.together(found).silent == 2 and len(reliability.together(found).success) == 12
    with pytest.raises(InvalidInput, match="twice"):
        reliability.read_stated([paths[0], paths[0]], "register")
    paths[0].write_text('{"study": "tables", "tables": [{}]}')
    with pytest.raises(InvalidFile, match=r"a\.json: holds no evaluation"):
        reliability.read_stated(paths, "register")


def test_wilson_interval() -> None:
    from scipy.stats import binomtest

    for right, count in ((0, 5), (3, 4), (50, 50), (17, 100)):
        peer = binomtest(right, count).proportion_ci(0.95, "wilson")
        assert figures.wilson(right / count, count) == pytest.approx((peer.low, peer.high), abs=1e-4)


@needs_matplotlib
def test_the_diagram_shows_the_bins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", {"one": (CONFIDENCE, SUCCESS)})
    library = figures.matplotlib()
    seen: list[Any] = []
    save = library.figure.Figure.savefig
    monkeypatch.setattr(
        library.figure.Figure, "savefig", lambda figure, *a, **k: seen.append(figure) or save(figure, *a, **k)
    )
    reliability.draw(reliability.measure([path]), tmp_path / "out.svg")
    upper, lower = seen[0].axes
    drawn = upper.containers[0].lines[0]
    assert np.allclose(drawn.get_xdata(), [0.05, 0.15, 0.3, 0.8, 0.95])
    assert np.allclose(drawn.get_ydata(), [0, 0, 1, 0, 1])
    assert [bar.get_height() for bar in lower.patches] == [1, 1, 1, 1, 2]
    assert "AUC 0.889" in seen[0].get_suptitle() and "0.300" in seen[0].get_suptitle()
    assert (tmp_path / "out.svg").read_bytes().startswith(b"<?xml")


def test_without_matplotlib_a_picture_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(MissingDependency, match=r"pip install 'deepgmr\[plots\]'"):
        figures.check_picture(tmp_path / "out.svg")
    with pytest.raises(InvalidFile, match=r"\.svg"):
        figures.check_picture(tmp_path / "out.gif")
    assert not list(tmp_path.iterdir())
