"""The file in which a benchmark keeps what it measured."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._files import write_whole


@dataclass(frozen=True)
class Results:
    """What one benchmark measured.

    Attributes:
        benchmark: ``"operators"`` or ``"models"``.
        machine: processor, threads, device and versions, as text.
        options: what the benchmark was asked for.
        rows: one entry per measured case, failed ones included.
    """

    benchmark: str
    machine: Mapping[str, str]
    options: Mapping[str, Any]
    rows: list[Any] = field(default_factory=list)

    def add(self, rows: Iterable[Any], path: Path | None) -> None:
        """Append rows, and write what there is to ``path`` if that is given, so that no interruption loses it."""
        self.rows.extend(rows)
        if path:
            self.write(path)

    def failures(self) -> list[str]:
        """One line for each thing that could not be measured: what it was, and the error."""
        return [line for row in self.rows for line in row.failures()]

    def write(self, path: Path) -> None:
        """Write the results as JSON."""
        content = {
            "benchmark": self.benchmark,
            "machine": self.machine,
            "options": self.options,
            "rows": [row.record() for row in self.rows],
        }
        write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
