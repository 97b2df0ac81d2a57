"""The file in which a benchmark keeps what it measured."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .._files import write_whole


@dataclass(frozen=True)
class Results:
    """What one benchmark measured.

    Attributes:
        benchmark: which one.
        machine: processor, threads, device and versions, as text.
        options: what the benchmark was asked for.
        path: the JSON file that it is kept in, if any.
        rows: one entry per measured case, failed ones included.
    """

    benchmark: Literal["operators", "models"]
    machine: Mapping[str, str]
    options: Mapping[str, Any]
    path: Path | None = None
    rows: list[Any] = field(default_factory=list)

    def add(self, rows: Iterable[Any]) -> None:
        """Append rows, and write all that there is, so that no interruption loses it."""
        self.rows.extend(rows)
        if self.path:
            kept = {name: getattr(self, name) for name in ("benchmark", "machine", "options")}
            content = {**kept, "rows": [row.record() for row in self.rows]}
            write_whole(self.path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def failures(self) -> list[str]:
        """One line for each thing that could not be measured: what it was, and the error."""
        return [line for row in self.rows for line in row.failures()]
