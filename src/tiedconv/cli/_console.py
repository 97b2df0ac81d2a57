"""Where the commands print their tables."""

from rich.console import Console

_WIDTH = 132  # columns of a table that goes to a file or a pipe


def table_console() -> Console:
    """Return a console of the terminal's width, and of a wide one's where the output goes elsewhere."""
    return Console(highlight=False, width=None if Console().is_terminal else _WIDTH)
