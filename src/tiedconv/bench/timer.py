"""Paired timing: functions that are compared take turns, so that a busy machine slows all of them equally."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and its total, if that is known."""


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of a figure measured several times, in the unit of the values."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quartiles":
        """Summarise at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q1, q3)

    @property
    def spread(self) -> float:
        """Half the interquartile range."""
        return (self.q3 - self.q1) / 2


@dataclass(frozen=True)
class Timing:
    """Seconds of every measured call of one function, in the order of the rounds.

    Example:
        >>> tied, dense = Timing((1.0, 2.0, 1.0)), Timing((2.0, 3.0, 4.0))
        >>> tied.median, tied.speedup_over(dense)
        (1.0, Quartiles(median=2.0, q1=1.75, q3=3.0))
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the interquartile range, in seconds."""
        return Quartiles.of(self.seconds).spread

    def rate(self, count: int) -> Quartiles:
        """Things per second, where each call computes ``count`` of them."""
        return Quartiles.of([count / s for s in self.seconds])

    def speedup_over(self, other: "Timing") -> Quartiles:
        """How many times as fast as ``other``, timed in the same rounds: its seconds divided by ours, round by round.

        The machine is in the same state for all calls of a round, so this varies less than the ratio of the medians.
        """
        return Quartiles.of([theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True)])


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    device: torch.device | str = "cpu",
    rest: float = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Call every function once per round and return the times of the calls, by the functions' names.

    The order is shuffled in every round. In a fixed order, a function that fills the caches would always slow down
    the same neighbour.

    Args:
        functions: what to time, by name.
        rounds: measured calls per function.
        warmup: rounds before those, not measured.
        device: where the functions compute. A CUDA device's own clock is used, from an idle device to the end of the
            work, launches included.
        rest: seconds to wait before each call, until the threads of other functions are idle.
        progress: called after each round with the number of rounds done and their total, warm-up included.
    """
    device = torch.device(device)
    clock = _cuda_seconds if device.type == "cuda" else _cpu_seconds
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(warmup + rounds):
        for name in order.sample(list(functions), len(functions)):
            time.sleep(rest)
            elapsed = clock(functions[name], device)
            if i >= warmup:
                seconds[name].append(elapsed)
        if progress:
            progress(i + 1, warmup + rounds)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def rates(
    functions: Mapping[str, Callable[[], object]],
    images: int,
    *,
    rounds: int = 10,
    device: torch.device | str = "cpu",
) -> dict[str, Quartiles]:
    """Return the images per second of functions, each of which computes ``images`` of them, measured in turns."""
    times = interleaved(functions, rounds=rounds, device=device)
    return {name: timing.rate(images) for name, timing in times.items()}


def try_interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device | str = "cpu",
    rest: float = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """As :func:`interleaved`, but a function that raises is not called again, and the others go on.

    Returns:
        The times of those that never failed, and the errors of the others as text, both by name.
    """
    failed: dict[str, str] = {}

    def call(name: str) -> None:
        if name not in failed:
            try:
                functions[name]()
            except Exception as error:  # whatever an engine or a compiler raises, the others are still timed
                failed[name] = describe_error(error)

    guarded = {name: partial(call, name) for name in functions}
    times = interleaved(guarded, rounds=rounds, device=device, rest=rest, progress=progress)
    return {name: timing for name, timing in times.items() if name not in failed}, failed


def describe_error(error: Exception) -> str:
    """Return the kind and message of an error."""
    return f"{type(error).__name__}: {error}"


def _cpu_seconds(function: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _cuda_seconds(function: Callable[[], object], device: torch.device) -> float:
    stream = torch.cuda.current_stream(device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    start.record(stream)
    function()
    end.record(stream)
    end.synchronize()
    return start.elapsed_time(end) / 1e3  # from milliseconds
