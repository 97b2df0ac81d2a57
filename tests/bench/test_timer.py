import time

import pytest

from tiedconv.bench._timer import interleaved


def test_functions_take_turns_and_every_round_starts_with_another():
    calls = []
    seconds = interleaved({n: lambda n=n: calls.append(n) for n in "abc"}, rounds=2, warmup=1)
    assert calls == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_clock_covers_the_call():
    seconds = interleaved({"sleep": lambda: time.sleep(0.02)}, rounds=1, warmup=0)
    assert seconds["sleep"][0] >= 0.02
    assert seconds["sleep"][0] == pytest.approx(0.02, abs=0.5)
