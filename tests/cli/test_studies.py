"""What the commands of the studies share: bad options are one line, JSON is written, read again and shown."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepgmr.cli.studies import listed, options, run
from deepgmr.errors import InvalidConfig
from deepgmr.evaluation import read_result, write_result


@pytest.fixture(autouse=True)
def _processors() -> Iterator[None]:
    """A command binds its process to some processors: give them back."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    yield
    if before is not None:
        os.sched_setaffinity(0, before)


def found(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    result = {"study": "profile", "suites": {"tiny": {"scan": 2.0, "all": 2.5}}}
    watch.keep(result)
    watch.progress("nearly", 0.9)
    return result


def refusing(given: argparse.Namespace, watch: Any) -> dict[str, Any]:
    raise InvalidConfig("no such\nthing")


def test_a_study_is_measured_written_and_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert run(options("Doc.", "profile"), found, ["--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| scan | 2.0 |" in text and read_result(out, "profile")["suites"]["tiny"]["all"] == 2.5
    out.rename(tmp_path / "kept.json")
    assert run(options("Doc.", "profile"), refusing, ["--from", str(tmp_path / "kept.json")]) == 0
    assert capsys.readouterr().out == text and not out.exists()


def test_what_goes_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, other, broken = (tmp_path / f"{name}.json" for name in ("good", "other", "broken"))
    write_result(good, {"study": "profile", "suites": {}})
    write_result(other, {"study": "busy"})
    broken.write_text("{")
    for arguments, told in (
        (["--json", str(tmp_path / "out.json")], "no such thing"),
        (["--json", str(tmp_path / "no" / "out.json")], "no folder"),
        (["--picture", str(tmp_path / "out.svg")], "has no picture"),
        (["--from", str(tmp_path / "absent.json")], "no such file"),
        (["--from", str(broken)], "not JSON"),
        (["--from", str(other)], "study `busy`"),
        (["--from", str(good), str(good)], "cannot put several runs together"),
    ):
        assert run(options("Doc.", "profile"), refusing, arguments) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error


def test_words_between_commas() -> None:
    assert listed("a,b,,c") == ["a", "b", "c"] and listed("") == []
