"""Which files below a folder are images: one rule for training, validation and prediction, and nothing silent."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

_UNSEEN = ("__macosx", "thumbs.db", "desktop.ini")  # what systems hide although their names do not begin with a dot


def images_below(folder: Path, who: str, passed_over: Sequence[str] = ()) -> list[Path]:
    """Return the images below a folder and the folders that it links to, ordered by folder and name.

    Hidden ones are left out, since editors and systems keep copies and thumbnails there. A warning in the name of
    ``who`` counts them and the files of other suffixes, except for those that are ``passed_over``.
    """
    images: list[Path] = []
    hidden: list[Path] = []
    others: list[Path] = []
    for path, is_unseen in files_below(folder):
        if path.suffix.lower() in IMG_EXTENSIONS:
            (hidden if is_unseen else images).append(path)
        elif not is_unseen and path.suffix.lower() not in passed_over:
            others.append(path)
    parts = []
    if others:
        suffixes = Counter(path.suffix.lower() or "no suffix" for path in others)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
        parts.append(f"{len(others)} files of other suffixes ({kinds}: {few(_names(others, folder))})")
    if hidden:
        parts.append(f"{len(hidden)} hidden images ({few(_names(hidden, folder))})")
    if parts:
        warnings.warn(
            f"{who}: {' and '.join(parts)} in {folder} are not read. Read are {', '.join(IMG_EXTENSIONS)}: convert "
            "pictures of other formats, or delete what is not needed.",
            stacklevel=3,
        )
    return images


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders that stand for classes: all but the hidden ones, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def images_by_class(folder: Path, names: Sequence[str], who: str) -> dict[str, list[Path]]:
    """Return the images below the folders of classes. A warning counts those outside, which are not read.

    Raises:
        FileNotFoundError: if a class has no image.
    """
    found: dict[str, list[Path]] = {name: [] for name in names}
    outside: list[Path] = []
    for path in images_below(folder, who):
        found.get(path.parts[len(folder.parts)], outside).append(path)
    if outside:
        warnings.warn(
            f"{who}: {len(outside)} images outside the folders of the classes ({few(_names(outside, folder))}) in "
            f"{folder} are not read. Move or delete them.",
            stacklevel=3,
        )
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise FileNotFoundError(
            f"class folders of {folder} hold no image of their own: {few(empty)}. Put images into them or remove the "
            "folders, or links in other classes that lead to them."
        )
    return found


def files_below(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the files below a folder and whether they are hidden, each folder's once: a link may lead back up."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        place = Path(name)
        is_unseen = any(map(is_hidden, place.relative_to(folder).parts))
        yield from ((place / file, is_unseen or is_hidden(file)) for file in sorted(files))


def is_hidden(name: str) -> bool:
    """Whether a file or folder has a name that systems hide."""
    return name.startswith(".") or name.lower() in _UNSEEN


def _names(paths: Sequence[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def few(values: Sequence[object]) -> str:
    """Return the first values as text, with dots for the others."""
    return ", ".join(map(str, values[:5])) + (" ..." if len(values) > 5 else "")


def counted(names: Mapping[str, Sequence[str]], usual: Sequence[str] = ()) -> str:
    """Return how many there are of each kind and, except for the usual ones, the names of the first few files."""
    return ", ".join(
        f"{len(files)} {kind}" + ("" if kind in usual else f" (in {few(list(dict.fromkeys(files)))})")
        for kind, files in names.items()
    )
