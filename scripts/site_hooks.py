"""For mkdocs: pages that live outside docs/ - the cards of the weights, and CONTRIBUTING.md - and the links to them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    **{
        f"cards/{card.name}": card
        for folder in ("weights", "bundles")
        for card in (ROOT / "deepgmr" / folder).glob("*.md")
    },
    "contributing.md": ROOT / "CONTRIBUTING.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside."""
    from mkdocs.structure.files import File

    for name, path in OUTSIDE.items():
        files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between docs/ and the pages from outside lead to where those are in the site."""
    here = page.file.src_uri
    origin = (OUTSIDE[here] if here in OUTSIDE else ROOT / "docs" / here).parent
    up = "../" * here.count("/")

    def moved(link: re.Match[str]) -> str:
        path = (origin / link[1]).resolve()
        for name, outside in OUTSIDE.items():
            if path == outside:
                return f"]({up}{name}{link[2]})"
        if path.is_relative_to(ROOT / "docs"):
            return f"]({up}{path.relative_to(ROOT / 'docs').as_posix()}{link[2]})"
        return link[0]

    return re.sub(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*|)\)", moved, markdown)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
