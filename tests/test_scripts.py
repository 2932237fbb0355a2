"""The commands in scripts/: each explains itself and is thin."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_every_script_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_a_study_from_the_command_line_to_its_page(tmp_path: Path) -> None:
    """One process: it binds itself to one processor."""
    out, picture = tmp_path / "out.json", tmp_path / "out.svg"
    options = ["--pairs", "1", "--methods", "identity", "--axes", "density", "--json", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    command = [sys.executable, str(SCRIPTS / "robustness.py")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### ADD-S recall@.05 against target points over source points (1 pairs a point)")
    again = [*command, "--from", str(out), "--picture", str(picture)]
    redrawn = subprocess.run(again, capture_output=True, text=True, check=False, env=environment)
    assert redrawn.stdout == done.stdout and redrawn.returncode == 0, redrawn.stderr
    assert picture.read_bytes().startswith(b"<?xml")
