import io
import time

import pytest
from rich import console

from tiedconv.cli import _console
from tiedconv.cli._console import Progress


def test_a_log_has_a_line_per_step_and_now_and_then_how_long_it_still_takes(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr("rich.console.monotonic", lambda: now)
    with Progress() as progress:
        progress("writing [the] file")
        for _ in progress.each("timing", range(100), 100):
            now += 30 / 50
        progress("checking", 0, 2)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "writing [the] file",
        "timing: 0 of 100",
        "timing: 50 of 100, about 0:00:31 left",
        "checking: 0 of 2",
    ]


@pytest.fixture
def terminal(monkeypatch):
    """What is written to stderr, a terminal."""
    written = io.StringIO()
    monkeypatch.setattr(_console, "Console", lambda **_: console.Console(file=written, force_terminal=True, width=100))
    return written


def test_a_terminal_has_a_bar_that_is_gone_where_others_print(terminal, capsys):
    with Progress() as progress:
        for number in progress.each("reading", "ab", 2):
            progress._bars.refresh()
            assert f"{'ab'.index(number)}/2" in terminal.getvalue()
        assert terminal.getvalue().endswith("\x1b[2K")  # cleared
    assert capsys.readouterr().out == ""


def test_an_error_takes_the_bar_away(terminal):
    def fail():
        with Progress() as progress:
            progress("reading", 0, 2)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert terminal.getvalue().endswith("\x1b[2K")
