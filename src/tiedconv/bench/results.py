"""The file in which a benchmark keeps what it measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import write_whole
from .models import ModelRow
from .operators import OperatorRow

_ROWS: dict[str, type[OperatorRow] | type[ModelRow]] = {"operators": OperatorRow, "models": ModelRow}


@dataclass(frozen=True)
class Results:
    """What one benchmark measured.

    Attributes:
        benchmark: ``"operators"`` or ``"models"``.
        machine: processor, threads, device and versions, as text.
        options: what the benchmark was asked for.
        rows: one entry a measured case, failed ones included.
    """

    benchmark: str
    machine: Mapping[str, str]
    options: Mapping[str, Any]
    rows: Sequence[Any]

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


def read_results(path: Path) -> Results:
    """Read what :meth:`Results.write` wrote.

    Raises:
        ValueError: if the file holds something else.
    """
    content = json.loads(path.read_text())
    benchmark = content.get("benchmark") if isinstance(content, dict) else None
    if benchmark not in _ROWS:
        raise ValueError(f"read_results: {path} was not written by tiedconv bench. Give the file of its --json option.")
    rows = [_ROWS[benchmark].from_record(record) for record in content["rows"]]
    return Results(benchmark, content["machine"], content["options"], rows)
