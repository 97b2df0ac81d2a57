"""What the commands print: results to stdout, and to stderr what they are doing."""

import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

from rich import progress
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_WIDTH = 132  # columns of a table that goes to a file or a pipe
_EVERY = 30.0  # seconds between two lines of a log

T = TypeVar("T")


def table_console() -> Console:
    """Return a console of the terminal's width, and of a wide one's where the output goes elsewhere."""
    return Console(highlight=False, width=None if Console().is_terminal else _WIDTH)


def new_table(words: Iterable[str], numbers: Iterable[str], **options: Any) -> Table:
    """Return a table with columns of words, and of numbers, which stand right and do not wrap."""
    table = Table(box=SIMPLE, **options)
    for header in words:
        table.add_column(header)
    for header in numbers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def command_line() -> str:
    """Return the command that is running, as a shell takes it."""
    return shlex.join(["tiedconv", *sys.argv[1:]])


def log(line: str) -> None:
    """Print a line about what is going on."""
    Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


class Progress:
    """Show what is being done and how long it still takes: a bar in a terminal, elsewhere a line now and then.

    Call it with what is being done, how much of it is done, and the total; without a total, time alone is shown. The
    bar is there only until the total is reached, so that others can print in between.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=1,  # rarely enough not to disturb measurements
            speed_estimate_period=3600,  # steps may take minutes
            disable=not console.is_interactive,
        )
        self._last_line = -math.inf

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None:
        task = self._bars.tasks[0] if self._bars.tasks else None
        if task is None or task.description != escape(what):
            if task is not None:
                self._bars.remove_task(task.id)
            self._bars.add_task(escape(what), total=total)
            task = self._bars.tasks[0]
            self._last_line = -math.inf
        self._bars.update(task.id, completed=done, total=total)
        if done == total:
            self._stop()
        elif not self._bars.disable:
            self._bars.start()
        elif time.monotonic() - self._last_line >= _EVERY:
            self._last_line = time.monotonic()
            left = task.time_remaining
            estimate = "" if left is None else f", about {timedelta(seconds=round(left))} left"
            log(what if total is None else f"{what}: {done} of {total}{estimate}")

    def _stop(self) -> None:
        if not self._bars.disable:  # rich before 15 would print an empty line
            self._bars.stop()

    def each(self, what: str, items: Iterable[T], total: int) -> Iterator[T]:
        """Yield ``items``, of which there are ``total``, and show how many are done."""
        self(what, 0, total)
        for done, item in enumerate(items, start=1):
            yield item
            self(what, done, total)
