"""Manners of the terminal: JSON in good times and bad, progress, colour, completion, and `doctor`."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepgmr
from deepgmr import cli
from deepgmr.cli.terminal import paint, progress_bar, say
from deepgmr.remaining import Lines, remaining, spoken

ROOT = Path(deepgmr.__file__).resolve().parent.parent


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


# -- JSON --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["register", "no.ply", "no.ply", "--json"], "InvalidFile", "no.ply: no such file"),
        (["register", "no.ply", "--json"], "Usage", "TGT"),
        (["evaluate", "no.h5", "--method", "identity", "--json"], "InvalidFile", "no.h5"),
        (["evaluate", "no.h5", "--method", "identity", "--json", "-"], "InvalidFile", "no.h5"),
        (["train", "--preset", "nothing", "--out", "x", "--json"], "InvalidConfig", "unknown preset"),
        (["calibrate", "--out", "x", "--bundle", "nothing", "--json"], "InvalidCheckpoint", "nothing"),
        (["download", "ftp://nowhere/a.zip", "--to", "x", "--json"], "InvalidConfig", "http"),
        (["export", "nothing", "--out", "x", "--json"], "InvalidCheckpoint", "neither a file nor inside the package"),
        (["export", "overlap", "--format", "pt", "--out", "x", "--json"], "InvalidConfig", "pt2 and onnx"),
        (["doctor", "--nonsense", "--json"], "Usage", "--nonsense"),
    ],
)
def test_errors_are_json_where_json_was_asked_for(
    arguments: list[str],
    kind: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["exit_code"] == 2 and told["error"]["kind"] == kind and words in told["error"]["message"]
    assert words in printed.err  # a person reads it too


def test_json_is_not_written_over_a_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "suite.h5"
    suite.write_bytes(b"precious")
    assert cli.main(["evaluate", "--json", str(suite)]) == 2
    assert "it might be a suite" in capsys.readouterr().err and suite.read_bytes() == b"precious"


# -- progress ----------------------------------------------------------------------------------------------------


def test_durations_as_a_person_says_them() -> None:
    assert [spoken(s) for s in (0.2, 41, 200, 7500)] == ["0 s", "41 s", "3 min 20 s", "2 h 05 min"]
    assert remaining(30, 0.25) == "about 1 min 30 s left"
    assert remaining(0.5, 0.5) == remaining(30, 0.0) == remaining(30, 1.0) == ""


def test_lines_come_late_and_grow_rarer() -> None:
    now, written = [0.0], []
    lines = Lines(written.append, clock=lambda: now[0])
    times = []
    for second in range(2000):
        now[0] = float(second)
        before = len(written)
        lines("scoring", second / 2000)
        times += [second] * (len(written) - before)
    assert times[:3] == [10, 20, 30] and np.diff(times).max() == 60
    assert written[0] == "scoring: 0 %, 10 s so far"
    assert written[-1].startswith("scoring: ") and "left" in written[-1]


def test_short_jobs_say_nothing_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        progress("thinking", 0.5)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_lines_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    with progress_bar() as progress:
        progress("thinking", 0.5)
        say("a [note] in brackets")
    assert "thinking" in screen.getvalue() and "a [note] in brackets\n" in screen.getvalue()
    assert "\x1b[3" not in screen.getvalue()  # the cursor moves, but nothing is coloured


# -- colour ------------------------------------------------------------------------------------------------------


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("ok", "green", Terminal()) == "\033[32mok\033[0m"
    assert paint("ok", "green", io.StringIO()) == paint("ok", "green", None) == "ok"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("ok", "green", Terminal()) == "ok"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("ok", "green", Terminal()) == "ok"


# -- the process -------------------------------------------------------------------------------------------------


def _deepgmr(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "deepgmr", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=settings, timeout=120, check=False)


def test_the_package_is_a_program() -> None:
    assert _deepgmr("--version").stdout == f"deepgmr {deepgmr.__version__}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [("deepgmr ev", "evaluate"), ("deepgmr register --pre", "--preset"), ("deepgmr register --preset th", "thorough")],
)
def test_the_shell_completes(line: str, expected: str) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_DEEPGMR_COMPLETE": "complete_bash"}
    done = _deepgmr(**words)
    assert expected in done.stdout.split(), done.stderr


def test_the_shell_is_told_how_to_complete() -> None:
    # From a shell: typer asks the processes above it which one it is in, and a suite may run below none.
    said = f"{shlex.quote(sys.executable)} -m deepgmr --show-completion bash; exit $?"
    done = subprocess.run(["bash", "-c", said], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "_DEEPGMR_COMPLETE=complete_bash" in done.stdout, done.stderr


def test_the_doctor_finds_this_machine_well() -> None:
    done = _deepgmr("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["well"] and found["deepgmr"]["version"] == deepgmr.__version__
    assert {row["file"] for row in found["weights"]} >= {"bundles/default.safetensors", "weights/deepgmr.safetensors"}
    assert found["self_test"]["rotation_error_degrees"] < 2 and found["self_test"]["seconds"] < 60
    text = _deepgmr("doctor").stdout
    assert "self-test: a pair of 800 points" in text and "degrees" in text and "\x1b" not in text
