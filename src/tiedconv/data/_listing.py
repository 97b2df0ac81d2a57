"""Which files below a folder are images: one rule for training, validation and prediction, and nothing silent."""

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

_UNSEEN = ("__macosx", "thumbs.db", "desktop.ini")  # what systems hide although their names do not begin with a dot


class Listing:
    """Tells the images below a folder by their suffixes, and keeps the names of the files that it leaves out.

    Hidden files and folders are left out, since editors and systems keep copies and thumbnails in them: names that
    begin with a dot, and what Windows and macOS hide.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hidden: list[str] = []
        self._others: list[str] = []
        self._outside: list[str] = []

    def is_image(self, path: str) -> bool:
        """Whether a file below the folder is an image that is read."""
        name = path[len(str(self.folder)) :].lstrip(os.sep)
        known = path.lower().endswith(IMG_EXTENSIONS)
        if any(map(is_hidden, name.split(os.sep))):
            if known:
                self._hidden.append(name)
            return False
        if not known:
            self._others.append(name)
        return known

    def leave_out(self, name: str) -> None:
        """Count a file outside the folders of the classes, unless it is hidden."""
        if not is_hidden(name):
            self._outside.append(name)

    def warn(self, who: str) -> None:
        """Warn once of all that was left out."""
        parts = []
        if self._others:
            suffixes = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in self._others)
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
            parts.append(f"{len(self._others)} files of other suffixes ({kinds}: {few(self._others)})")
        if self._hidden:
            parts.append(f"{len(self._hidden)} hidden images ({few(self._hidden)})")
        if self._outside:
            parts.append(f"{len(self._outside)} files outside the folders of the classes ({few(self._outside)})")
        if parts:
            warnings.warn(
                f"{who}: {' and '.join(parts)} in {self.folder} are not read. Read are {', '.join(IMG_EXTENSIONS)}: "
                "convert pictures of other formats, or delete what is not needed.",
                stacklevel=3,
            )


def is_hidden(name: str) -> bool:
    """Whether a file or folder has a name that systems hide."""
    return name.startswith(".") or name.lower() in _UNSEEN


def few(values: Sequence[object]) -> str:
    """Return the first values as text, with dots for the others."""
    return ", ".join(map(str, values[:5])) + (" ..." if len(values) > 5 else "")


def counted(names: Mapping[str, Sequence[str]], usual: Sequence[str] = ()) -> str:
    """Return how many there are of each kind and, except for the usual ones, the names of the first few files."""
    return ", ".join(
        f"{len(files)} {kind}" + ("" if kind in usual else f" (in {few(list(dict.fromkeys(files)))})")
        for kind, files in names.items()
    )
