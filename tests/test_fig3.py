"""benchmarks/fig3.py: what is compared has equally many operations and, where it should, the same outputs."""

import importlib.util
import sys
from pathlib import Path

import torch

_SPEC = importlib.util.spec_from_file_location("fig3", Path(__file__).parents[1] / "benchmarks" / "fig3.py")
assert _SPEC
assert _SPEC.loader
fig3 = sys.modules["fig3"] = importlib.util.module_from_spec(_SPEC)  # dataclasses look their module up
_SPEC.loader.exec_module(fig3)

CASE = fig3.Case(4, 2, "contiguous", channels=8, filters=4, size=4)


def test_all_ways_have_equally_many_operations():
    outputs = {
        name: way(torch.randn(2, 8, 4, 4), weight) for name, (way, weight) in fig3.ways(CASE, torch.randn).items()
    }
    channels = {name: output.shape[1] for name, output in outputs.items()}
    assert channels == {"standard": 4, "grouped": 16, "released": 16, "tied": 16}
    macs = {n: outputs[n].numel() * weight[0].numel() for n, (_, weight) in fig3.ways(CASE, torch.randn).items()}
    assert len(set(macs.values())) == 1
    assert CASE.shape == "3x3, 8→16 ch, 4²"


def test_every_way_is_timed():
    for train in (False, True):
        row = fig3.time_case(CASE, train=train, dtype=torch.float32, device="cpu", rounds=2)
        assert row.failed == {}
        assert {len(timing.seconds) for timing in row.timings.values()} == {2}
        assert set(row.timings) == set(fig3.WAYS)
