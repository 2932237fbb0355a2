"""The pages: their tables are what the results say, their links lead somewhere, and their code runs."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "console", "toml", "json", "text"}
BLOCK = re.compile(r"(?ms)^(?:<!-- (?P<marker>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with what the comment on the line before it says."""

    page: Path
    line: int
    language: str
    code: str
    marker: str

    @property
    def runs(self) -> bool:
        return self.language in ("python", "console") and not self.marker.startswith("not run: ")


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(page, line, match["language"], match["code"], match["marker"] or ""))
    return found


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


# -- results -----------------------------------------------------------------------------------------------------


def test_pages_are_what_the_results_make_of_them() -> None:
    found = runpy.run_path(str(ROOT / "scripts" / "pages.py"))["different"](write=False)
    assert not found, f"{found} differ from docs/results; `python scripts/pages.py` makes them anew"


@pytest.fixture(scope="module")
def made() -> Any:
    return runpy.run_path(str(ROOT / "scripts" / "pages.py"))["made"]


def test_a_result_that_changes_is_seen(made: Any, tmp_path: Path) -> None:
    result = {"study": "busy", "machine": [{"beside": "quiet", "ms": 12.34, "ratio": 1.0}]}
    (tmp_path / "busy.json").write_text(json.dumps(result))
    page = "<!-- results: busy machine beside,ms -->\nold\n<!-- end -->\n"
    page += "is <!-- value: busy machine.0.ms .0f -->9<!-- /value --> ms\n"
    after = made(page, tmp_path)
    assert "| quiet | 12.3 |" in after and "-->12<!--" in after and "old" not in after
    assert made(after, tmp_path) == after
    assert "| 12.34 |" in made(page.replace("ms -->", "ms:.2f -->", 1), tmp_path)
    with pytest.raises(ValueError, match=r"holds no machine\.3\.ms"):
        made(page.replace("machine.0", "machine.3"), tmp_path)
    with pytest.raises(ValueError, match="holds one of beside_,ms_"):
        made(page.replace("beside,ms", "beside_,ms_"), tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        made(page.replace("busy", "profile"), tmp_path)


def evaluated(path: Path, suite: str, kind: str, **summary: float) -> None:
    """What `deepgmr evaluate --summary` writes, of one suite of 40 pairs."""
    rows = [{"method": "identity", "success": 0.0, "ms": 0.1}, {"method": "register", **summary}]
    told = {
        "command": f"deepgmr evaluate {suite}",
        "commit": "abc+",
        "date": "2030-01-02T",
        "threads": 2,
        "machine": "m",
    }
    table = {"suite": suite, "kind": kind, "count": 40, "summary": rows, "provenance": told}
    path.write_text(json.dumps({"study": "tables", "tables": [table], "pooled": []}))


def test_evaluations_become_a_row_a_suite_and_a_column_a_method(made: Any, tmp_path: Path) -> None:
    evaluated(tmp_path / "a.json", "scans", "scans", **{"success": 0.75, "ms": 81.6, "wrong and sure": 0.05})
    evaluated(tmp_path / "b.json", "halls#s4", "scans", **{"success": 1.0, "ms": 9.0, "wrong and sure": 0.0})
    evaluated(tmp_path / "c.json", "modelnet_clean", "modelnet", **{"ADD-S@.05": 0.5, "recall@.05": 0.25, "ms": 20.0})

    def table(marker: str) -> list[str]:
        return str(made(f"<!-- results: {marker} -->\n<!-- end -->\n", tmp_path)).splitlines()[1:-1]

    both = table("a+b scans suite,right,ms:.0f,wrong and sure:.1%")
    assert both[0] == "| suite | right | ms | wrong and sure |"
    assert both[2:] == [
        "| scans: objects, rooms, LiDAR | 30 of 40 | 82 | 5.0% |",
        "| `halls#s4` | 40 of 40 | 9 | 0.0% |",
    ]
    assert table("c methods")[2:] == ["| clean: the same points | 0.50, 20 |"]
    assert table("b origin") == [
        "Measured on 2030-01-02 with commit abc+ on 2 threads of m: `deepgmr evaluate halls#s4`."
    ]
    assert [line[:2] for line in table("a+b origin")] == ["- ", "- "]


def test_a_result_that_is_still_to_come_leaves_no_trace(made: Any, tmp_path: Path) -> None:
    page = (
        "<!-- results: optional:scaling picture as clouds grow -->\n<!-- end -->\n"
        "<!-- results: optional:scaling -->\n<!-- end -->\n"
    )
    assert made(page, tmp_path) == page
    hall = {"right": True, "seconds": 0.5, "megabytes": 12.0, "confidence": 0.95, "milliseconds": {"scan": 100.0}}
    cell = {"points": 1000, "scale": 1.0, "method": "register", "size": None, "halls": [hall]}
    (tmp_path / "scaling.json").write_text(json.dumps({"study": "scaling", "cells": [cell]}))
    after = made(page, tmp_path)
    assert "![as clouds grow](scaling.svg)" in after
    assert "| 1,000 | register | 0.500 | 12 | 1.00 | 1 | 0.00 |" in after and "| 1,000 | 100 | 500 |" in after
    assert made(after, tmp_path) == after
    (tmp_path / "scaling.json").unlink()
    assert made(after, tmp_path) == page


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_measured_tables_come_from_results(page: Path) -> None:
    """A table with a number in most of its cells was measured, and stands between the marks."""
    prose = re.sub(r"(?ms)^<!-- results: .*?^<!-- end -->$", "", page.read_text(encoding="utf-8"))
    for table in re.findall(r"(?m)(?:^\|.*\n)+", BLOCK.sub("", prose)):
        cells = [cell.strip() for row in table.splitlines()[2:] for cell in row.strip("|").split("|")]
        numbers = [cell for cell in cells if re.fullmatch(r"[-\d.,]+( ?(%|ms|s|MB|°))?", cell)]
        assert len(numbers) < len(cells) / 3, f"{page.name}: make this from docs/results\n{table}"


# -- code --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: a block needs one of {sorted(LANGUAGES)}"
        if block.marker.startswith("not run"):
            assert len(block.marker) > len("not run: "), f"{page.name}:{block.line}: say why it is not run"
        if block.language == "console":
            assert block.code.startswith("$ "), f"{page.name}:{block.line}: commands begin with $, the rest is output"
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    assert not re.search(r"(?m)^    (pip|python|deepgmr|register) ", prose), f"{page.name}: fence the command"


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.runs for b in blocks(page))], ids=_id)
def test_the_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in order, in one folder and, those of Python, one namespace.

    The folder holds scan.ply and map.ply, the sample pair; `<!-- file: NAME -->` before a block writes it there.
    """
    for name, origin in (("scan.ply", "sample_source.ply"), ("map.ply", "sample_target.ply")):
        shutil.copy(ROOT / "data" / origin, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.marker.startswith("file: "):
            (tmp_path / block.marker.removeprefix("file: ")).write_text(block.code, encoding="utf-8")
        elif block.runs and block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
        elif block.runs:
            _run_commands(block)


def _run_commands(block: Block) -> None:
    """The lines that begin with `$ `, one after the other, with this checkout's programs."""
    programs = (
        'python() { "$PYTHON" "$@"; }; deepgmr() { "$PYTHON" -m deepgmr "$@"; }\n'
        'register() { "$PYTHON" -c "import sys; from deepgmr.cli import register_main; sys.exit(register_main())" "$@"; }\n'
    )
    commands = "\n".join(line[2:] for line in block.code.splitlines() if line.startswith("$ "))
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euc", programs + commands], capture_output=True, text=True, env=environment, timeout=200, check=False
    )
    assert done.returncode == 0, f"{block.page.name}:{block.line}: exit {done.returncode}\n{done.stdout}{done.stderr}"


def test_columns_of_docstrings_become_lists() -> None:
    with_lists = runpy.run_path(str(ROOT / "scripts" / "site_docstrings.py"))["with_lists"]
    text = "Do it.\n\nsource, target   clouds\ntrust            how sure\n                 to be\n\nRaises  nothing."
    assert with_lists(text).splitlines()[2:7] == [
        "",
        "- `source, target`: clouds",
        "- `trust`: how sure",
        "  to be",
        "",
    ]


# -- links -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_somewhere(page: Path) -> None:
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", prose):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
