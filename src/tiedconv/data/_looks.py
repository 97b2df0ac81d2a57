"""Check many image files before a training starts, and remember the result."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from .._files import write_whole

_MANY = 2000  # files; a look at fewer takes no noticeable time, and is not remembered
_AT_ONCE = 16  # network disks answer late, but many requests at once


def look_at_files(
    folder: Path, names: Sequence[str], look: Callable[[int], str], about: Sequence[Any] = ()
) -> dict[str, list[str]]:
    """Look at files of a folder, and return the names of those that ``look`` remarks on, by remark.

    The result is remembered in the user's cache until ``names``, ``about``, or a file's size or time of change differ.

    Args:
        folder: where the names start.
        names: of the files.
        look: returns a remark or "" on the file of an index. Raises ``OSError`` or ``ValueError`` if it is unusable.
        about: what else ``look`` depends on, compared by ``repr``.

    Raises:
        OSError, ValueError: that of the first file that cannot be used, with the number of others.
    """
    if len(names) < _MANY:
        return _look_at_all(names, look)
    memory = _memory(folder, names, about)
    with suppress(OSError, ValueError):
        kinds = json.loads(memory.read_bytes())
        if isinstance(kinds, dict):
            return kinds
    kinds = _look_at_all(names, look)
    with suppress(OSError):  # a disk that cannot be written to costs time, not a training
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memory, json.dumps(kinds))
    return kinds


def _memory(folder: Path, names: Sequence[str], about: Sequence[Any]) -> Path:
    """Return the file that remembers a look at these files, for the present state of each."""
    with ThreadPool(_AT_ONCE) as pool:
        states = pool.map(lambda name: _state(folder / name), names, chunksize=256)
    text = repr((str(folder.resolve()), states, names, about))
    key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiedconv" / f"images-{key[:32]}.json"


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ()  # a look says what is wrong with it
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns  # a copy may keep the time of its original


def _look_at_all(names: Sequence[str], look: Callable[[int], str]) -> dict[str, list[str]]:
    def attempt(index: int) -> str | Exception:
        try:
            return look(index)
        except (OSError, ValueError) as error:
            return error

    with ThreadPool(_AT_ONCE) as pool:
        seen = pool.map(attempt, range(len(names)), chunksize=256)
    errors = [one for one in seen if isinstance(one, Exception)]
    if errors:
        more = f" {len(errors) - 1} more of the {len(names)} images cannot be used." if errors[1:] else ""
        raise type(errors[0])(f"{errors[0]}{more}") from errors[0]
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, one in zip(names, seen, strict=True):
        if isinstance(one, str) and one:
            kinds[one].append(name)
    return kinds
