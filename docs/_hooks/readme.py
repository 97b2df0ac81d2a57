"""Sections of the README that stand on pages too, so that measured figures are written down once.

``<!-- README: Speed -->`` on a page is replaced by what stands below that heading of the README.
"""

import re
from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "README.md"
_MARK = re.compile(r"^<!-- README: (.+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """mkdocs' hook: write the sections in the place of their marks."""
    up = "../" * page.file.src_uri.count("/")
    return _MARK.sub(lambda mark: section(mark[1]).replace("](docs/", f"]({up}"), markdown)


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
