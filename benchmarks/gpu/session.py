"""What the parts share: the device, the time that is left, the figures in a file, and tables of text."""

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tiedconv._files import write_whole
from tiedconv.bench.machine import describe_machine

Row = dict[str, Any]
SAME = ("card", "torch", "cuda", "tiny", "autotune")
"""What may not change between the calls that fill one file."""


class Records:
    """The figures of one part by name, in a file that is written after each.

    Args:
        path: the file. What it holds already is taken over.
        machine: what the figures are measured on and with.

    Attributes:
        rows: the figures.
        finished: whether nothing is left to do.

    Raises:
        ValueError: if the file's figures come from another card or version, or were made with other options.
    """

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self.path = path
        self.machine = machine
        self.rows: dict[str, Row] = {}
        self.finished = False
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            for name in SAME:
                if content[name] != machine[name]:
                    raise ValueError(
                        f"gpu.sh: {path} was measured with {name}={content[name]}, and now it is {machine[name]}. "
                        "Give another folder."
                    )
            self.rows = content["records"]

    def add(self, name: str, row: Row) -> None:
        """Keep a figure."""
        self.rows[name] = row
        self.write()

    def write(self) -> None:
        """Write the file, with one line per figure."""
        content = {**self.machine, "finished": self.finished}
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
        rows = [f"  {json.dumps(name)}: {json.dumps(row, allow_nan=False)}" for name, row in self.rows.items()]
        lines.append(' "records": {\n' + ",\n".join(rows) + "\n }")
        write_whole(self.path, "{\n" + ",\n".join(lines) + "\n}\n")


@dataclass
class Session:
    """One call of a part.

    Attributes:
        folder: for everything that is written.
        device: where to compute.
        tiny: whether small shapes do, to see that everything runs.
        records: the figures, those of earlier calls included.
        seconds: after this time nothing new is begun.
        began: when the call began, by ``time.monotonic``.
    """

    folder: Path
    device: torch.device
    tiny: bool
    records: Records
    seconds: float
    began: float

    def allows(self, seconds: float = 0) -> bool:
        """Whether something that takes so long may be begun. ``--tiny`` does not ask how long it takes."""
        return time.monotonic() - self.began + (0 if self.tiny else seconds) < self.seconds

    def log(self, message: str) -> None:
        """Print a line of progress."""
        print(f"{time.monotonic() - self.began:5.0f} s  {message}")


def describe(part: str, device: torch.device, *, tiny: bool, autotune: bool) -> dict[str, Any]:
    """Return what is written above the figures: machine, versions and options."""
    machine: dict[str, Any] = describe_machine(device)
    on_cuda = device.type == "cuda"
    return {
        "part": part,
        "card": machine.pop("device"),
        **machine,
        "cuda": torch.version.cuda if on_cuda else None,
        "cudnn": torch.backends.cudnn.version() if on_cuda else None,
        "tiny": tiny,
        "autotune": autotune,
    }


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return lines of text in columns. Numbers stand to the right, None is a dash."""
    lines = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    texts = [_is_text([line[i] for line in lines[1:]]) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, texts, strict=True)
        ).rstrip()
        for line in lines
    )


def geometric_mean(values: Iterable[float]) -> float | None:
    """Return the mean of ratios; None without any."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def first_line(error: str) -> str:
    """Return what a file keeps of an error."""
    return next(iter(error.strip().splitlines()), "")[:300]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def _is_text(cells: Sequence[str]) -> bool:
    return any(cell[:1].isalpha() or not any(letter.isdigit() for letter in cell) for cell in cells if cell != "-")
