"""The live view: what is told to the viewer, step by step. The viewer itself is a stand-in, unless it is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepgmr import Registration
from deepgmr.errors import InvalidFile
from deepgmr.pipeline.trace import Trace
from deepgmr.report import live


class Viewer:
    """In place of rerun: remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str, Any]] = []
        self.step, self.opened, self.saved = -1, 0, ""
        self.blueprint = SimpleNamespace(**dict.fromkeys(("Blueprint", "Horizontal", "Vertical"), self.thing))
        vars(self.blueprint).update(
            dict.fromkeys(("Spatial3DView", "TimeSeriesView", "TextLogView", "SelectionPanel"), self.thing)
        )

    def thing(self, *values: object, **options: object) -> SimpleNamespace:
        return SimpleNamespace(values=values, **options)

    Points3D = LineStrips3D = Transform3D = TextLog = Scalars = Clear = thing

    def RecordingStream(self, _: str) -> Viewer:
        return self

    def save(self, path: str) -> None:
        self.saved = path

    def spawn(self) -> None:
        self.opened += 1

    def send_blueprint(self, _: object) -> None: ...
    def flush(self) -> None: ...

    def set_time(self, _: str, *, sequence: int) -> None:
        self.step = sequence

    def log(self, place: str, what: Any, static: bool = False) -> None:
        self.told.append((-1 if static else self.step, place, what))


@pytest.fixture
def viewer(monkeypatch: pytest.MonkeyPatch) -> Viewer:
    stand_in = Viewer()
    monkeypatch.setitem(sys.modules, "rerun", stand_in)  # type: ignore[arg-type]
    return stand_in


def traced(result: Registration) -> dict[str, Any]:
    return json.loads(json.dumps(Trace(result.search).to_dict(), allow_nan=False))


def test_a_trace_holds_what_is_to_be_seen(boxes: Registration) -> None:
    trace = traced(boxes)
    components = np.array(trace["components"]["target"])
    assert components.shape == (boxes.stats.components[1], 3)
    assert np.abs(components.mean(axis=0) - (500_000, 4_000_000, 100)).max() < 2  # in the coordinates of the input
    assert {met["look"] for met in trace["matches"]} <= set(range(boxes.stats.looks))
    np.testing.assert_allclose(trace["poses"][0], boxes.target_from_source)


def test_every_candidate_is_a_step(boxes: Registration) -> None:
    steps = list(live.steps(traced(boxes)))
    assert len(steps) == 2 + boxes.stats.hypotheses
    assert steps[0].words == "before" and steps[-1].words == "the answer"
    assert steps[-1].score == boxes.score
    np.testing.assert_allclose(steps[-1].motion, boxes.target_from_source)


def test_the_viewer_is_told(viewer: Viewer, boxes: Registration) -> None:
    trace = traced(boxes)
    live.show(trace, live.thinned(boxes.search))
    assert viewer.opened == 1 and not viewer.saved
    clouds = {place: what.values[0] for step, place, what in viewer.told if step == -1}
    assert len(clouds["source"]) == 3000 and np.abs(clouds["target"]).max() < 5, "far coordinates lose their digits"
    last = {place: what for step, place, what in viewer.told if step == viewer.step}
    moved = clouds["source"] @ last["source"].mat3x3.T + last["source"].translation
    assert np.abs(np.abs(moved).max(axis=0) - np.abs(clouds["target"]).max(axis=0)).max() < 0.05
    lines = last["matches"].values[0]
    assert lines.shape[1:] == (2, 3) and len(last["matches"].colors) == len(lines)


def test_a_trace_is_enough(viewer: Viewer, sampled: Registration, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(traced(sampled)))
    live.show(live.read_trace(path), save=tmp_path / "a.rrd")
    assert viewer.saved == str(tmp_path / "a.rrd") and not viewer.opened
    assert viewer.step == 1 + sampled.stats.hypotheses


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is not JSON"), ("[1]", "lacks components"), ('{"looks": []}', "lacks"), ("3", "is not JSON")],
)
def test_what_is_no_trace_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InvalidFile, match=f"t.json: .*{said}"):
        live.read_trace(tmp_path / "t.json")


def test_the_real_viewer_takes_it(sampled: Registration, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason='no rerun: pip install "deepgmr[view]"')
    live.show(traced(sampled), live.thinned(sampled.search), save=tmp_path / "a.rrd")
    assert (tmp_path / "a.rrd").stat().st_size > 100_000
