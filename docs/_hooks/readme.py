"""Sections of the README that stand on pages too, so that measured figures are written down once.

``<!-- README: Speed -->`` on a page is replaced by what stands below that heading of the README.
"""

import re
from pathlib import Path
from typing import Any

from markdown.extensions.toc import slugify

README = Path(__file__).parents[2] / "README.md"
DOCS = Path(__file__).parents[1]
_MARK = re.compile(r"^<!-- README: (.+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """mkdocs' hook: write the sections in the place of their marks."""
    up = "../" * page.file.src_uri.count("/")

    def shown(mark: re.Match[str]) -> str:
        text = section(mark[1]).replace("](docs/", f"]({up}")
        return re.sub(r"\]\(#([\w-]+)\)", lambda link: f"]({up}{places()[link[1]]})", text)

    return _MARK.sub(shown, markdown)


def places() -> dict[str, str]:
    """Return by anchors of the README the pages, and the anchors there, that show its sections."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        heading = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("## "):
                heading = line.removeprefix("## ")
            if mark := _MARK.match(line):
                found[slugify(mark[1], "-")] = f"{path.relative_to(DOCS).as_posix()}#{slugify(heading, '-')}"
    return found


def section(heading: str) -> str:
    """Return what stands in the README below a heading of the second level.

    Raises:
        ValueError: if there is no such heading.
    """
    for part in re.split(r"^## ", README.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        if title == heading:
            return text.strip()
    raise ValueError(f"README.md has no section {heading!r}, which a page of the documentation shows.")
