"""Files that are whole or not there, and names of files as text."""

import os
from pathlib import Path
from tempfile import TemporaryFile


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file, text as UTF-8, so that a kill or a power cut leaves the old one or the new one, never a half."""
    part = part_of(path)
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the name without the content
    part.replace(path)


def printable(text: str) -> str:
    r"""Return text that any UTF-8 file and any font takes: bytes of file names that are no UTF-8 are written out.

    Example:
        >>> print(printable("caf\udce9 π"))
        caf\udce9 π
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def check_writable(option: str, path: Path) -> None:
    """Make the folder of ``path`` and check that a file can be written there, before hours of measuring.

    Raises:
        ValueError: with the option's name and the reason, if it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):  # of no name that a file of the user's could have
            pass
        writable = not path.is_dir()
        reason = "it is a folder"
    except OSError as error:
        writable, reason = False, error.strerror or str(error)
    if not writable:
        raise ValueError(f"cannot write --{option} {path}: {reason}. Give another path.")


def part_of(path: Path) -> Path:
    """Return where a file is written before it takes its name."""
    return path.with_name(f"{path.name}.part")
