"""Where a file comes from: the commit of the code that made it, and the machine."""

from __future__ import annotations

import platform
import re
import subprocess
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of the checkout that this package runs from, with a + where it has changed since; empty elsewhere."""
    folder = Path(__file__).resolve().parent.parent
    said = []
    for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "."]):
        try:
            said.append(subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout)
        except (OSError, subprocess.CalledProcessError):
            return ""
    return said[0].strip() + "+" * bool(said[1].strip())


def processor() -> str:
    """Its name, where the system tells."""
    try:
        found = re.search(r"(?m)^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.processor()
