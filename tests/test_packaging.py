"""What is packed: the version in one place, types that a strict checker believes, and a release that refuses."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import deepgmr

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def release() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "release.py"))


def test_the_version_stands_in_one_place(release: dict[str, Any]) -> None:
    assert release["version_of"](ROOT) == deepgmr.__version__
    for name in ("pyproject.toml", "CITATION.cff", "mkdocs.yml"):
        assert not re.search(rf'(?m)^version: |version = "{re.escape(deepgmr.__version__)}"', (ROOT / name).read_text())
    assert f"## {deepgmr.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_release_refuses_what_is_not_ready(tmp_path: Path, release: dict[str, Any]) -> None:
    (tmp_path / "deepgmr").mkdir()
    (tmp_path / "deepgmr" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n\n## 1.2.3\n\n- all of it\n")

    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert "the tree has changes" in release["troubles"](tmp_path)[0]
    git("add", "-A")
    git("commit", "-m", "all")
    assert release["troubles"](tmp_path) == []
    git("tag", "v1.2.3")
    assert "tagged already" in release["troubles"](tmp_path)[0]
    (tmp_path / "deepgmr" / "__init__.py").write_text('__version__ = "1.3.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n\n- more\n\n## 1.2.3\n")
    git("commit", "-am", "more")
    found = release["troubles"](tmp_path)
    assert len(found) == 2 and "no section `## 1.3.0`" in found[0] and "still has changes" in found[1]


@pytest.mark.slow
def test_a_strict_type_checker_believes_the_public_names() -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
        "tests/typed_api.py",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
