"""Every example runs from start to end, draws its picture, and has it in the docs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem not in ("picture", "ros2_node"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs_and_draws(name: str, tmp_path: Path) -> None:
    picture = tmp_path / f"{name}.png"
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--picture", str(picture)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stdout, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    gallery = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert f"pictures/{name}.png" in gallery and f"examples/{name}.py" in gallery
    assert (ROOT / "docs" / "pictures" / f"{name}.png").is_file()
