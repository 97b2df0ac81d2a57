"""Paired timing: functions that are compared take turns, so that a busy machine slows all of them alike."""

import time
from collections.abc import Callable, Mapping

import torch


def interleaved(
    functions: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Call every function once a round and return the seconds of each call, by the functions' names.

    The order within a round is turned by one from round to round. On a GPU the clock stops when its work is done.
    """
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(warmup + rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            _synchronize()
            start = time.perf_counter()
            functions[name]()
            _synchronize()
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
