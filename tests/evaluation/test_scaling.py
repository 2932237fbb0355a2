"""The study of scaling at a tiny size: what a cell holds, which size of a peer is told, what a second run leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepgmr.datasets.worlds.halls import hall
from deepgmr.evaluation import read_result, scaling, write_result


def cell(points: int, method: str, size: float | None, *halls: tuple[bool, float], **more: Any) -> dict[str, Any]:
    rows = [{"right": right, "seconds": seconds, "megabytes": 3.0, **more} for right, seconds in halls]
    return {"scale": 1.0, "points": points, "method": method, "size": size, "halls": rows}


CELLS = [
    cell(1000, "register", None, (True, 0.1), (False, 0.3), (True, 0.2), confidence=0.95, milliseconds={"scan": 9.0}),
    cell(1000, "ransac", 0.01, (True, 9.0), (True, 8.0), (False, 7.0)),
    cell(1000, "ransac", 0.02, (False, 1.0), (True, 2.0), (True, 3.0)),
    cell(1000, "ransac", 0.03, (False, 0.1), (True, 0.1), (False, 0.1)),
    {**cell(1000, "kiss", 0.01), "halls": [{"right": False, "error": "crashed"}] * 2},
]


def test_a_method_is_told_at_its_best_size() -> None:
    ours, ransac, kiss = scaling.rows_of({"cells": CELLS}, 1.0)
    assert (ours["right"], ours["seconds"], ours["wrong and sure"]) == (pytest.approx(2 / 3), 0.2, pytest.approx(1 / 3))
    assert (ransac["size"], ransac["right"], ransac["seconds"]) == (0.02, pytest.approx(2 / 3), 2.0)
    assert (kiss["right"], kiss["seconds"], kiss["wrong and sure"]) == (0.0, None, None)


def test_the_page_and_the_picture(tmp_path: Path) -> None:
    result = {"study": scaling.STUDY, "cells": CELLS}
    text = scaling.markdown(result)
    assert "| 1,000 | ransac | 0.02 | 2.000 | 3 | 0.67 | 3 | - |" in text
    assert text.splitlines()[-1] == "| 1,000 | 9 | 200 |"
    pytest.importorskip("matplotlib")
    scaling.draw(result, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")


def test_a_cell_says_what_was_measured(tmp_path: Path) -> None:
    plan = hall(np.random.default_rng(0), scale=1.0)
    source, target = (cloud.astype(np.float32) for cloud in plan.clouds(1500))
    truth, within = plan.target_from_source, np.array([plan.degrees, plan.metres])
    np.savez(tmp_path / "a.npz", source=source, target=target, truth=truth, within=within)
    np.savez(tmp_path / "b.npz", source=source, target=source, truth=np.eye(4), within=within)
    (found,) = scaling.met([str(tmp_path / name) for name in ("a.npz", "b.npz")], "register", [None])
    first, second = found["halls"]
    assert second["right"] and second["confidence"] > 0.5  # a cloud onto itself
    assert 0 < first["seconds"] < 60 and 0 <= first["megabytes"] < 500
    assert 0.5 * sum(first["milliseconds"].values()) < 1e3 * first["seconds"] * 3
    (bad,) = scaling.met([str(tmp_path / "a.npz")], "icp", [float("nan")])
    assert not bad["halls"][0]["right"]


def test_a_second_run_measures_what_is_missing(tmp_path: Path) -> None:
    result = scaling.measure(points=[600], scales=[1.0], methods=["register"], halls=2)
    (row,) = result["cells"]
    assert row["points"] == 600 and len(row["halls"]) == 2 and row["size"] is None
    write_result(tmp_path / "a.json", result)
    known = read_result(tmp_path / "a.json", scaling.STUDY)["cells"]
    again = scaling.measure(points=[600], scales=[1.0], methods=["register"], halls=2, known=known)
    assert again["cells"] == known
