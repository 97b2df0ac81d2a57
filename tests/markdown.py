"""What the README and the pages of the documentation share: their blocks of code."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))

_FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_CELL = re.compile(r"\| `(tiedconv [^`|]*--config [^`|]+)` \|")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        path: the file.
        line: where its code begins, from 1.
        code: what it holds.
    """

    path: Path
    line: int
    code: str

    @property
    def place(self) -> str:
        """The block's place, as test ids and tracebacks name it."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    def run(self, namespace: dict[str, Any]) -> None:
        """Run the block as Python, with the line numbers of the file in tracebacks."""
        exec(compile("\n" * (self.line - 1) + self.code, str(self.path), "exec"), namespace)


def blocks(path: Path, language: str) -> list[Block]:
    """Return a file's blocks in a language."""
    text = path.read_text(encoding="utf-8")
    found = (m for m in _FENCE.finditer(text) if m[2] == language)
    return [Block(path, text.count("\n", 0, m.start(3)) + 1, m[3]) for m in found]


def commands(path: Path) -> list[tuple[str, str]]:
    """Return the calls of ``tiedconv`` in a file's blocks for the shell and in its tables, each with its place.

    A call in a block is joined to one line. In a table it is a cell of its own that names a recipe.
    """
    calls = []
    for block in blocks(path, "sh"):
        joined = block.code.replace("\\\n", " ")
        calls += [(block.place, line.strip()) for line in joined.splitlines() if line.strip().startswith("tiedconv ")]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        calls += [(f"{path.relative_to(ROOT)}:{number}", call) for call in _CELL.findall(line)]
    return calls
