"""The page in a browser: nothing on the console, nothing from the network, something on the canvas, and buttons that work.

Needs playwright and a Chromium: pip install "deepgmr[test]" and apt-get install chromium (or CHROMIUM=/path/to/it).
SCREENSHOTS=FOLDER keeps what was seen; docs/report-*.webp are made so, with SCREENSHOTS=docs.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as reader
from PIL import Image

from deepgmr import Registration

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SOFTWARE = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    library = pytest.importorskip("playwright.sync_api", reason='no playwright: pip install "deepgmr[test]"')
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM to one")
    with library.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=SOFTWARE)
        yield started
        started.close()


@pytest.fixture(scope="module")
def reports(sampled: Registration, boxes: Registration, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    command = "register sample_source.ply sample_target.ply --report report.html"
    names = {"source": "sample_source.ply", "target": "sample_target.ply"}
    sampled.report(folder / "sample.html", **names, command=command)
    boxes.report(folder / "boxes.html", source="</script><b>box.ply", target="box.ply")
    return {path.stem: path for path in folder.iterdir()}


class Seen:
    """A page, and everything it said or asked for."""

    def __init__(self, browser: Any, path: Path, size: dict[str, int], *, before: str = "", dark: bool = False) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        self.page = self.context.new_page()
        self.page.on("console", lambda line: self.said.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        if before:
            self.page.add_init_script(before)
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("[role=tabpanel]:not([hidden])")

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        asked = [url for url in self.asked if not url.startswith(("data:", "file:"))]
        assert not self.said and not asked and sum(url.startswith("file:") for url in self.asked) == 1
        self.context.close()

    def canvas(self) -> np.ndarray:
        """Its pixels, once they have been drawn (height, width, 3)."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        data = self.page.evaluate("document.querySelector('#view').toDataURL('image/png')")
        return reader.imread(io.BytesIO(base64.b64decode(data.partition(",")[2])), format="png")[..., :3]

    def press(self, query: str) -> None:
        self.page.locator(query).first.click()

    def keep(self, name: str) -> None:
        """Save what is seen, where somebody asked for it."""
        if folder := os.environ.get("SCREENSHOTS"):
            self.canvas()
            image = Image.open(io.BytesIO(self.page.screenshot(full_page=True)))
            image.save(Path(folder, name), "WEBP", quality=80, method=6)


def share(image: np.ndarray, other: np.ndarray) -> float:
    """Of the pixels that differ."""
    return float((np.abs(image - other) > 0.05).any(-1).mean())


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", ["sample", "boxes"])
def test_it_opens_and_shows_both_clouds(
    browser: Any, reports: dict[str, Path], size: dict[str, int], name: str
) -> None:
    with Seen(browser, reports[name], size) as seen:
        image = seen.canvas()
        assert min(image.shape[:2]) > 200
        red, blue = image[..., 0] > image[..., 2] + 0.2, image[..., 2] > image[..., 0] + 0.2
        assert red.mean() > 0.01 and blue.mean() > 0.01
        width = seen.page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], "the page can be moved sideways"
        if name == "sample":
            seen.keep(f"report-{'wide' if size is WIDE else 'narrow'}.webp")


def test_poses_and_colours_change_what_is_seen(browser: Any, reports: dict[str, Path]) -> None:
    with Seen(browser, reports["boxes"], WIDE) as seen:
        answer, matrix = seen.canvas(), seen.page.locator("pre[data-of='0']")
        assert matrix.is_visible()
        for query in ("[data-show='-1']", "[data-mode='1']", "[data-mode='2']"):
            seen.press(query)
            assert seen.page.locator(query).first.get_attribute("aria-pressed") == "true"
            assert share(seen.canvas(), answer) > 0.01, query
        seen.press("table [data-show='1']")
        assert not matrix.is_visible() and seen.page.locator("pre[data-of='1']").is_visible()
        assert seen.page.locator("tr.shown").get_attribute("data-row") == "1"
        assert seen.page.locator("h2:visible", has_text="Residual, alt. 1").count() == 1
        assert seen.page.locator("header b").count() == 0, "a name became an element"


def test_layers_are_drawn(browser: Any, reports: dict[str, Path]) -> None:
    with Seen(browser, reports["sample"], WIDE) as seen:
        for layer in ("components", "matches", "uncertainty", "apart"):
            before = seen.canvas()
            seen.press(f"[data-layer={layer}]")
            assert share(seen.canvas(), before) > 0.0005, layer
        seen.press("[data-layer=components]")
        seen.press("#tab-trust")
        seen.keep("report-why.webp")
        for layer in ("points", "matches", "uncertainty"):
            seen.press(f"[data-layer={layer}]")
        assert np.ptp(seen.canvas().reshape(-1, 3), axis=0).max() < 0.02, "nothing is left to be drawn"


def test_the_view_is_steered(browser: Any, reports: dict[str, Path]) -> None:
    with Seen(browser, reports["sample"], WIDE) as seen:
        mouse, box = seen.page.mouse, seen.page.locator("#view").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        start = seen.canvas()
        mouse.move(*middle)
        mouse.down()
        mouse.move(middle[0] + 120, middle[1] + 40, steps=4)
        mouse.up()
        turned = seen.canvas()
        mouse.wheel(0, -400)
        nearer = seen.canvas()
        seen.page.locator("#view").press("ArrowLeft")
        further = seen.canvas()
        assert min(share(start, turned), share(turned, nearer), share(nearer, further)) > 0.02
        seen.page.locator("#view").press("0")
        assert share(start, seen.canvas()) < 0.001
        seen.page.locator("#cut").fill("1")
        assert share(start, seen.canvas()) > 0.02


def test_tabs_are_opened_by_mouse_and_by_keys(browser: Any, reports: dict[str, Path]) -> None:
    with Seen(browser, reports["sample"], WIDE) as seen:
        keys = [tab.get_attribute("aria-controls") for tab in seen.page.locator("[role=tab]").all()]
        for key in keys:
            seen.press(f"#tab-{key}")
            visible = [panel.get_attribute("id") for panel in seen.page.locator("[role=tabpanel]:visible").all()]
            assert visible == [key]
        seen.page.locator(f"#tab-{keys[-1]}").press("ArrowRight")
        assert seen.page.locator(f"#{keys[0]}").is_visible()
        assert seen.page.evaluate("document.activeElement.id") == f"tab-{keys[0]}"


def test_dark_is_dark(browser: Any, reports: dict[str, Path]) -> None:
    with Seen(browser, reports["sample"], WIDE, dark=True) as seen:
        assert seen.canvas()[:10, -10:].max() < 0.2
        seen.press("[data-mode='1']")
        seen.press("#tab-residuals")
        seen.keep("report-dark.webp")


def test_without_webgl_there_is_a_still_picture(browser: Any, reports: dict[str, Path]) -> None:
    nothing = "HTMLCanvasElement.prototype.getContext = () => null"
    with Seen(browser, reports["boxes"], WIDE, before=nothing) as seen:
        still = seen.page.locator("#still")
        assert still.is_visible() and "no WebGL 2" in (still.get_attribute("title") or "")
        assert not seen.page.locator("#view").is_visible()
        seen.press("[data-show='1']")
        assert seen.page.locator("pre[data-of='1']").is_visible()
