"""The study of latency at a tiny size: how far off a prior is, what is timed, and which sizes of a peer are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deepgmr.datasets.worlds.halls import hall
from deepgmr.evaluation import latency, read_result, write_result
from deepgmr.evaluation.latency import BOTH, MAP, NOTHING, PRIOR


@pytest.fixture(scope="module")
def pair() -> dict[str, np.ndarray]:
    plan = hall(np.random.default_rng(0), scale=1.0)
    source, target = (cloud.astype(np.float32) for cloud in plan.clouds(1500))
    within = np.array([plan.degrees, plan.metres])
    return {"source": source, "target": target, "truth": plan.target_from_source, "within": within}


@pytest.fixture
def file(pair: dict[str, np.ndarray], tmp_path: Path) -> str:
    np.savez(tmp_path / "a.npz", **pair)
    return str(tmp_path / "a.npz")


def cell(known: str, method: str, size: float | None, *halls: tuple[bool, float], points: int = 1000) -> dict[str, Any]:
    rows = [{"right": right, "ms": ms, "wall ms": ms, "degrees": 0.1, "metres": ms / 1000} for right, ms in halls]
    return {"points": points, "known": known, "method": method, "size": size, "halls": rows}


CELLS = [
    cell(NOTHING, "register", None, (True, 100.0), (True, 300.0), (False, 200.0)),
    cell(NOTHING, "kiss", 0.015, (True, 9.0), (False, 8.0), (False, 7.0)),
    cell(NOTHING, "kiss", 0.03, (True, 90.0), (False, 80.0), (True, 70.0)),
    {**cell(NOTHING, "ransac", 0.02), "halls": [{"right": False, "error": "crashed"}] * 3},
    cell(PRIOR, "register", None, (True, 20.0), (True, 2000.0), (True, 21.0)),
    cell(PRIOR, "gicp", 0.01, (True, 12.0)),
    cell(PRIOR, "gicp", 0.025, (True, 5.0)),
]


def test_a_prior_is_off_by_as_much_as_it_says(pair: dict[str, np.ndarray]) -> None:
    target = pair["target"].astype(float)
    size = 2 * np.sqrt(np.square(target - target.mean(0)).sum(1).mean())
    for seed in range(5):
        off = latency.prior(pair, np.random.default_rng(seed)) @ np.linalg.inv(pair["truth"])
        turned = np.degrees(Rotation.from_matrix(off[:3, :3]).magnitude())
        moved = off[:3, :3] @ target.mean(0) + off[:3, 3] - target.mean(0)
        assert turned == pytest.approx(latency.DEGREES, rel=1e-6)
        assert np.linalg.norm(moved) == pytest.approx(latency.SHARE * size, rel=1e-6)


def test_those_that_search_are_told_at_their_best_size_and_those_that_refine_at_each() -> None:
    ours, kiss, ransac = latency.rows_of({"cells": CELLS}, NOTHING)
    assert (ours["ms"], ours["right"], ours["halls"]) == (200.0, 2, 3) and ours["error"] == pytest.approx(200.0)
    assert (kiss["ms"], kiss["right"]) == (80.0, 2)
    assert (ransac["ms"], ransac["right"], ransac["error"]) == (None, 0, None)
    names = [row["method"] for row in latency.rows_of({"cells": CELLS}, PRIOR)]
    assert names == ["deepgmr", "small_gicp, voxels of 1 %", "small_gicp, voxels of 2.5 %"]


def test_the_page_has_a_table_for_each_thing_that_may_be_known(tmp_path: Path) -> None:
    write_result(tmp_path / "a.json", {"study": latency.STUDY, "cells": CELLS})
    result = read_result(tmp_path / "a.json", latency.STUDY)
    text = latency.markdown(result)
    assert "| 1,000 | 200 ms, 2/3, 200 mm | 80 ms, 2/3, 80 mm | -, 0/3 |" in text
    assert "| 1,000 | 21 ms, 3/3, 21 mm | 12 ms, 1/1, 12 mm | 5 ms, 1/1, 5 mm |" in text
    assert latency.parts(result)["prior"] in text


def test_with_a_prior_nothing_is_searched_for(file: str) -> None:
    for known in (PRIOR, BOTH):
        ((row,),) = (found["halls"] for found in latency.met(known, [file], "register", [None]))
        assert row["right"] and row["looks"] == 0 and row["ms"] > 0 and row["wall ms"] > 0
        assert row["degrees"] < latency.DEGREES / 2 and row["metres"] < 0.1


def test_a_peer_answers_the_same_onto_a_target_that_it_prepared(file: str) -> None:
    pytest.importorskip("small_gicp")
    (fresh,), (prepared,) = (latency.met(known, [file], "gicp", [0.02])[0]["halls"] for known in (PRIOR, BOTH))
    assert fresh["metres"] == pytest.approx(prepared["metres"], rel=1e-3) and fresh["metres"] < 0.3
    ((bad,),) = (found["halls"] for found in latency.met(PRIOR, [file], "icp", [-0.01]))
    assert not bad["right"] and "ms" not in bad


def test_every_number_of_points_is_asked_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "QUESTIONS", {MAP: (latency.OURS,)})
    result = latency.measure(points=[600], halls=1)
    (found,) = result["cells"]
    assert (found["points"], found["known"], found["method"]) == (600, MAP, "register") and len(found["halls"]) == 1
