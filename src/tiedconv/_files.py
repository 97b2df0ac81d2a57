"""Files that are whole or not there."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, never a half."""
    part = _part(path)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def check_writable(option: str, path: Path, who: str) -> None:
    """Make the folder of ``path`` and check that a file can be written there, before hours of measuring.

    Raises:
        ValueError: in the name of ``who``, with the option's name and the reason, if it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part(path)
        part.touch()
        part.unlink()
        writable = not path.is_dir()
        reason = "it is a folder"
    except OSError as error:
        writable, reason = False, error.strerror or str(error)
    if not writable:
        raise ValueError(f"{who}: cannot write --{option} {path}: {reason}. Give another path.")


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")
