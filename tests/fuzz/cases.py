"""What the fuzz tests share: how many cases a test draws, what counts as a refusal, and valid input made invalid."""

import contextlib
import copy
import functools
import math
import os
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

PROFILE = os.environ.get("TIEDCONV_FUZZ", "ci")
_TIMES = {"ci": 1, "nightly": 26}[PROFILE]
_SECONDS = 120  # what takes longer is taken to hang, on a busy machine too

RAN: Counter[str] = Counter()
"""Cases that ran to their end, by the name of the test."""

REFUSALS = (ValueError, TypeError, RuntimeError, OSError)
"""What the library may raise. RecursionError, a RuntimeError too, is a crash."""


def fuzz(cases: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As hypothesis' ``given``, for ``cases`` examples in the profile "ci" and 26 times as many in "nightly".

    "ci" draws the same examples on every run; "nightly" draws new ones, keeps those that fail in ``.hypothesis`` and
    prints with them the decorator that repeats them.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> None:
            with _no_longer_than(_SECONDS), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch, timm and PIL warn of much that is then refused
                test(*args, **kwargs)
            RAN[test.__name__] += 1

        nightly = PROFILE == "nightly"
        chosen = settings(
            max_examples=cases * _TIMES,
            deadline=None,
            derandomize=not nightly,
            database=DirectoryBasedExampleDatabase(".hypothesis/examples") if nightly else None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        return chosen(given(**strategies)(counted))

    return decorate


@contextlib.contextmanager
def _no_longer_than(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise AssertionError(f"hangs: no result after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(call: Callable[[], Any], *names: str) -> tuple[Any, Exception | None]:
    """Return the result of a call or its refusal, whose message must be a sentence that has one of ``names`` in it."""
    try:
        return call(), None
    except REFUSALS as error:
        check_refusal(error, *names)
        return None, error


def check_refusal(error: Exception, *names: str) -> None:
    text = str(error)
    if isinstance(error, RecursionError | UnicodeError) or len(text) < 20 or not any(n in text for n in names or [""]):
        raise AssertionError(f"no message for a user: {type(error).__name__}: {text}") from error


JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 1.5, -0.0, math.nan, math.inf, 1e300, 2**31, 2**63, -(2**70),
    "", " ", "x", "NaN", "1", "../..", "<b>&\"'", "\u202eמספר", "\ud83d\ude00".encode("utf-16",
    "surrogatepass").decode("utf-16"),
    [], {}, [[]], [1], [None], {"a": 1}, [[1, 2]], {"size": [1, 1], "counts": "0"},
]  # fmt: skip
"""Values of every kind that JSON has."""


@st.composite
def mutated(draw: st.DrawFn, valid: Any, junk: list[Any] = JUNK) -> Any:
    """Draw a JSON value with one to three places changed: replaced by junk, left out, doubled, or swapped."""
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(content))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(["replace", "replace", "remove", "double", "swap", "nudge"]))
        if what == "remove":
            del holder[key]
        elif what == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif what == "swap":
            other, place = draw(st.sampled_from(places))
            value = copy.deepcopy(other[place]) if _has(other, place) else None
            holder[key] = value
        elif what == "nudge" and type(holder[key]) in (int, float):
            by = [-1, 1, 0.5, -1000, 1000, 10**9, 10**20, 10**400 if isinstance(holder[key], int) else 1e300]
            with contextlib.suppress(OverflowError):  # 10**400 is no float
                holder[key] += draw(st.sampled_from(by))
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(junk)))
    return content


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw the bytes of a file after an accident: cut off, emptied, with bytes changed, put in or taken out."""
    what = draw(st.sampled_from(["cut", "change", "change", "head", "insert", "remove", "random", "empty"]))
    place = draw(st.integers(0, len(valid) - 1))
    if what == "cut":
        return valid[:place]
    if what == "empty":
        return b"" if draw(st.booleans()) else bytes(len(valid))
    if what == "random":
        return draw(st.binary(max_size=64))
    if what == "insert":
        return valid[:place] + draw(st.binary(min_size=1, max_size=8)) + valid[place:]
    if what == "remove":
        return valid[:place] + valid[place + draw(st.integers(1, 64)) :]
    changed = bytearray(valid)
    for _ in range(draw(st.integers(1, 6))):  # the head says what a file is, so it is where most goes wrong
        at = draw(st.integers(0, min(len(valid), 300) - 1)) if what == "head" else draw(st.integers(0, len(valid) - 1))
        changed[at] = draw(st.integers(0, 255))
    return bytes(changed)
