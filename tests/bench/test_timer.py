import time
from types import SimpleNamespace

import pytest
import torch

from tiedconv.bench.timer import Quartiles, Timing, interleaved, try_interleaved


def record_calls(names, **options):
    calls = []
    times = interleaved({n: lambda n=n: calls.append(n) for n in names}, **options)
    size = len(names)
    return times, [tuple(calls[i : i + size]) for i in range(0, len(calls), size)]


def test_every_function_runs_once_a_round_in_an_order_that_is_drawn_anew():
    times, rounds = record_calls("abcd", rounds=20, warmup=3)
    assert len(rounds) == 23
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 10
    assert {order[0] for order in rounds} == set("abcd")
    assert list(times) == list("abcd")
    assert {len(timing.seconds) for timing in times.values()} == {20}


def test_clock_covers_the_call():
    [seconds] = interleaved({"sleep": lambda: time.sleep(0.02)}, rounds=1, warmup=0)["sleep"].seconds
    assert seconds >= 0.02


def test_functions_rest_before_each_call_outside_of_the_clock(monkeypatch):
    rests = []
    monkeypatch.setattr(time, "sleep", rests.append)
    times, _ = try_interleaved({"a": lambda: None, "b": lambda: None}, rounds=3, rest=9)
    assert rests == [9] * 10
    assert max(times["a"].seconds) < 9


def test_cuda_is_timed_by_its_own_clock_from_an_idle_device(monkeypatch):
    log = []

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self, stream):
            log.append(f"record on {stream}")

        def synchronize(self):
            log.append("wait")

        def elapsed_time(self, end):
            return 250.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append(f"idle {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    times = interleaved({"f": lambda: log.append("call")}, rounds=1, warmup=0, device="cuda:1")
    assert times["f"].seconds == (0.25,)
    assert log == ["idle cuda:1", "record on stream of cuda:1", "call", "record on stream of cuda:1", "wait"]


def test_a_function_that_raises_drops_out_and_the_others_go_on():
    calls = SimpleNamespace(good=0, bad=0)

    def good():
        calls.good += 1

    def bad():
        calls.bad += 1
        if calls.bad == 2:
            raise RuntimeError("no room")

    times, failed = try_interleaved({"bad": bad, "good": good}, rounds=4)
    assert failed == {"bad": "RuntimeError: no room"}
    assert list(times) == ["good"]
    assert len(times["good"].seconds) == 4
    assert (calls.good, calls.bad) == (6, 2)


def test_median_and_spread():
    timing = Timing((4.0, 1.0, 3.0, 2.0, 5.0))
    assert (timing.median, timing.spread) == (3.0, 1.0)
    assert timing.rate(60) == Quartiles(20.0, 15.0, 30.0)
    assert Quartiles.of([7.0]) == Quartiles(7.0, 7.0, 7.0)
    assert Quartiles.of([7.0]).spread == 0
    assert Quartiles.of([1.0, 2.0, 3.0, 4.0]) == Quartiles(2.5, 1.75, 3.25)


def test_speedup_is_taken_round_by_round():
    ours, theirs = Timing((1.0, 4.0, 2.0)), Timing((3.0, 8.0, 2.0))
    assert ours.speedup_over(theirs) == Quartiles(2.0, 1.5, 2.5)  # of 3, 2 and 1, while the medians' ratio is 1.5
    with pytest.raises(ValueError, match="shorter"):
        ours.speedup_over(Timing((1.0,)))
