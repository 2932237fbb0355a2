"""`register --report`, `--picture` and `--view`, and `deepgmr view`: what is written when, and one clear error else."""

from __future__ import annotations

import html
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deepgmr import cli


def clouds(sample: Path) -> list[str]:
    return [str(sample / f"sample_{role}.ply") for role in ("source", "target")]


def said_in(page: Path) -> str:
    found = re.search(r'<pre id="command"[^>]*>(.*?)</pre>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return html.unescape(found[1])


def test_the_page_and_the_picture_are_written_beside_the_answer(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, picture = tmp_path / "a b.html", tmp_path / "a.png"
    options = ["--trust", "0.5", "--config", "judge.rivals=2", "--no-refine", "--json"]
    assert cli.register_main([*clouds(sample), *options, "--report", str(page), "--picture", str(picture)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    data = re.search(r'type="application/json">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert data
    shown = json.loads(data[1])["registration"]
    assert {key: answer[key] for key in shown} == shown
    assert "<title>sample_source.ply onto sample_target.ply: ok</title>" in page.read_text(encoding="utf-8")


def test_the_command_on_the_page_repeats_it(sample: Path, tmp_path: Path) -> None:
    page, options = (
        tmp_path / "a b.html",
        ["--preset", "fast", "--config", "judge.rivals=2", "--config", "judge.tied=1"],
    )
    assert cli.main(["register", *clouds(sample), *options, "--report", str(page), "--drop-invalid"]) == 0
    words = shlex.split(said_in(page))
    assert words[:2] == ["deepgmr", "register"] and words[-2:] == clouds(sample)
    assert "--json" not in words and "--seed" not in words
    page.unlink()
    assert cli.main(words[1:]) == 0
    assert shlex.split(said_in(page)) == words


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--report", "nowhere/a.html"], "there is no folder"),
        (["--report", "."], "is a directory"),
        (["--picture", "a.jpg"], "give a name that ends in .png"),
        (["--picture", "nowhere/a.png"], "there is no folder"),
        (["--picture", "same.png", "--report", "same.png"], "is named twice"),
    ],
)
def test_a_bad_path_is_found_before_anything_is_computed(
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.register_main(["missing.ply", clouds(sample)[1], *options]) == 2  # before the clouds are read
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["a.json", "b.ply", "c.ply"], ["missing.json"], ["nothing.json"]])
def test_view_names_what_it_cannot_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", sys)
    monkeypatch.chdir(tmp_path)
    Path("nothing.json").write_text("{}")
    assert cli.main(["view", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_registration_without_a_page_imports_none_of_it(sample: Path) -> None:
    code = (
        "import sys; from deepgmr import cli; code = cli.register_main(sys.argv[1:]); "
        "print([m for m in sys.modules if m.startswith(('deepgmr.report', 'jinja2'))], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *clouds(sample)], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
