"""The page: whole, small, honest, and nothing that a file name could inject."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepgmr import Registrar, Registration, Trace
from deepgmr.errors import InvalidFile, InvalidInput
from deepgmr.pipeline.judge import FEATURES
from deepgmr.report import facts
from deepgmr.report.page import data, in_script, number, page, unpacked
from deepgmr.report.scene import Scene

VOID = {"meta", "link", "img", "input", "br", "rect", "line"}
HOSTILE = [
    "</script><script>alert(1)</script>.ply",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}<b>&amp;",
    "a'b\u2028c",
]


class Reader(HTMLParser):
    """Elements in the order of their opening; every one is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))


@pytest.fixture(scope="module")
def text(boxes: Registration) -> str:
    return page(Scene.of(boxes), source="a.ply", target="b.ply", command="register a.ply b.ply")


def inside(text: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_it_is_well_formed_and_needs_nothing_from_outside(text: str) -> None:
    reader = Reader(text)
    for tag, attributes in reader.elements:
        for name in ("src", "href", "data", "action", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}/", text.replace("http://www.w3.org/", ""))
    assert "@import" not in text and "url(" not in text
    policy = next(a["content"] for tag, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and "default-src 'none'" in policy


def test_ids_are_unique_and_tabs_have_their_panels(text: str) -> None:
    elements = Reader(text).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    tabs = [attributes["aria-controls"] for _, attributes in elements if attributes.get("role") == "tab"]
    assert len(tabs) == 6 and set(tabs) <= set(ids)


def test_the_numbers_are_those_of_the_answer(text: str, boxes: Registration) -> None:
    found = inside(text)
    assert found["registration"] == json.loads(json.dumps(boxes.to_dict(), allow_nan=False))
    assert len(found["poses"]) == 1 + len(boxes.alternatives)
    words = " ".join(said for tag, said in Reader(text).texts if tag not in ("script", "style"))
    assert f"{boxes.confidence:.3f}" in words and f"{100 * boxes.overlap:.0f} %" in words
    for row in boxes.target_from_source[:3]:
        assert "".join(f"{value:13.9f}" for value in row[:3]) + f"{row[3]:18.12g}" in words
    assert boxes.sentence in words and boxes.stats.bundle in words


def test_what_the_viewer_reads_is_the_scene(boxes: Registration) -> None:
    scene = Scene.of(boxes)
    found = data(scene, 0.01)
    cloud, raw = scene.source, found["clouds"]["source"]
    low, high = np.array(raw["low"]), np.array(raw["high"])
    points = low + (high - low) * unpacked(raw["points"], "<u2").reshape(-1, 3) / 65535
    assert np.abs(points - cloud.points).max() <= 0.51 * float((high - low).max()) / 65535
    np.testing.assert_allclose(unpacked(raw["components"], "<f4").reshape(-1, 3), cloud.components, atol=1e-5)
    codes = unpacked(found["poses"][0]["source_gaps"], "u1").astype(float)
    gaps = scene.answer.source_gaps
    assert ((codes == 255) == ~np.isfinite(gaps)).all()
    small = gaps < 0.01
    np.testing.assert_allclose(0.01 * (codes[small] / 127) ** 2, gaps[small], atol=1e-4)
    agrees = unpacked(found["poses"][0]["agreeing"], "u1").astype(bool)
    np.testing.assert_array_equal(agrees, scene.agreeing(scene.answer))


def test_terms_add_up_to_the_confidence(sampled: Registration, boxes: Registration) -> None:
    for result in (sampled, boxes):
        scene = Scene.of(result)
        terms, base = facts.confidence_terms(scene)
        assert {term.name for term in terms} == set(FEATURES)
        assert all(term.words != term.name for term in terms), "every feature has its words"
        total = facts.confidence_sum(scene)
        assert math.isclose(total["logit"], base + sum(term.nats for term in terms))
        assert math.isclose(min(total["probability"], total["ceiling"]), result.confidence, rel_tol=1e-9)


def test_precision_is_about_the_centre_of_the_target(boxes: Registration) -> None:
    scene = Scene.of(boxes)
    found = facts.precision(scene)
    for axes in (found.turn_axes, found.shift_axes):
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert (np.diff(found.lengths) <= 0).all() and (np.diff(found.degrees) <= 0).all()
    rebuilt = found.turn_axes.T @ np.diag(np.radians(found.degrees) ** 2) @ found.turn_axes
    np.testing.assert_allclose(rebuilt, boxes.covariance[:3, :3], atol=1e-6 * np.abs(rebuilt).max())
    # Four million units from the origin a turn of a thousandth of a degree is a shift of tens of units; here it is none.
    assert found.lengths[0] < 0.01 < math.sqrt(boxes.covariance[3:, 3:].max())


def test_histograms_count_every_place(boxes: Registration) -> None:
    scene = Scene.of(boxes)
    widest = facts.widest_gap(scene)
    for pose in scene.poses:
        found = facts.histogram(pose, widest)
        assert sum(found["counts"]) + found["beyond"] + found["alone"] == len(scene.source.points)
    assert np.quantile(scene.answer.gaps, 0.9) <= widest <= scene.reach * 10


def test_the_lines_of_python_repeat_it(sample: Path) -> None:
    clouds = [sample / f"sample_{role}.ply" for role in ("source", "target")]
    registrar = Registrar.load("default").replace(**{"judge.rivals": 2, "search.clear": 0.5})
    options = {"max_rotation_degrees": 170, "initial": np.eye(4), "target_origin": [0.0, 0.0, 9.0]}
    first = registrar.register(*clouds, trace=Trace(), trust=0.4, **options)
    lines = facts.python_lines(Scene.of(first)).splitlines()
    assert lines[-1].startswith("result.report")
    place: dict[str, Any] = {"source": clouds[0], "target": clouds[1]}
    exec("\n".join(lines[:-1]), place)
    again = place["result"].to_dict() | {"stats": None}
    assert again == first.to_dict() | {"stats": None}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(sampled: Registration, name: str) -> None:
    plainly = Reader(page(Scene.of(sampled), source="a", target="b", command="c"))
    reader = Reader(page(Scene.of(sampled), source=name, target=name, command=f"register {name}"))
    assert [tag for tag, _ in reader.elements] == [tag for tag, _ in plainly.elements]
    assert any(said == name for _, said in reader.texts)
    assert any(said == f"register {name}" for tag, said in reader.texts if tag == "pre")


def test_hostile_notes_stay_text(sampled: Registration) -> None:
    noted = dataclasses.replace(sampled, notes=(HOSTILE[0],))
    text = page(Scene.of(noted))
    assert "<script>alert" not in text
    assert inside(text)["registration"]["notes"] == [HOSTILE[0]]


def test_json_in_a_script_cannot_end_it() -> None:
    text = in_script({"a": "</script><!--", "b": math.inf})
    assert "<" not in text and ">" not in text
    assert json.loads(text) == {"a": "</script><!--", "b": None}


def test_the_same_answer_gives_the_same_bytes(sampled: Registration, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        sampled.report(tmp_path / name, source="s", target="t")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_two_clouds_of_a_million_points_make_less_than_five_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sides = np.array([[20.0, 12.0, 4.0], [1.0, 2.0, 1.5], [2.0, 1.0, 1.0], [0.5, 0.5, 4.0]])
    corners = np.array([[0.0, 0.0, 0.0], [3.0, 2.0, 0.0], [14.0, 8.0, 0.0], [9.0, 5.0, 0.0]])
    clouds = []
    for shift in (0.0, 0.3):
        which, points = rng.integers(0, 4, 1_000_000), rng.random((1_000_000, 3))
        side = rng.integers(0, 3, len(points))
        points[np.arange(len(points)), side] = points[np.arange(len(points)), side].round()
        clouds.append(points * sides[which] + corners[which] + shift + rng.normal(0, 0.005, points.shape))
    result = Registrar.load("default").register(*clouds, trace=Trace())
    result.report(tmp_path / "large.html")
    assert (tmp_path / "large.html").stat().st_size < 5_000_000
    assert "for 1,000,000 points" in (tmp_path / "large.html").read_text(encoding="utf-8")


def test_a_path_that_cannot_be_written_is_named(sampled: Registration, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="no folder"):
        sampled.report(tmp_path / "nowhere" / "a.html")
    with pytest.raises(InvalidInput, match="kept nothing"):
        dataclasses.replace(sampled, search=None).report(tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.000294, "0.000294"), (9.81e-5, "9.81e-5"), (320.4, "320"), (1234567.0, "1.23e6"), (None, "-"), (math.inf, "-")],
)
def test_numbers_read_well(value: float | None, words: str) -> None:
    assert number(value) == words
