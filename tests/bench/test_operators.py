import json
from dataclasses import asdict

import pytest
import torch

from tiedconv.bench import Quartiles, Timing, operators
from tiedconv.bench.operators import Case, OperatorRow, candidates, cases, time_case


def tiny(*, kernel=3, memory_format="contiguous"):
    return Case(8, 4, kernel, blocks=4, batch=2, memory_format=memory_format)


def test_there_is_every_shape_with_every_number_of_blocks_and_format():
    swept = cases()
    assert len(swept) == len(set(swept)) == len(operators.SHAPES) * 3 * 2
    assert {(case.blocks, case.memory_format) for case in swept} == {
        (blocks, memory_format) for blocks in (2, 4, 8) for memory_format in ("contiguous", "channels_last")
    }
    assert swept[0].shape == "3x3, 64 ch, 56²"
    assert len(swept) == 48
    assert swept[0].flops == 2 * 8 * 56 * 56 * 64 * 64 * 9 // 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": [3]}, r"bench: channels=64 is not divisible by blocks \* groups = 3 \* 1 = 3"),
        ({"blocks": [0]}, "bench: blocks must be at least 1, got blocks=0"),
        ({"batch": 0}, "bench: batch must be at least 1, got batch=0"),
        ({"blocks": []}, "bench: blocks and memory_formats must name at least one each"),
    ],
)
def test_cases_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        cases(**options)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_every_tied_candidate_computes_the_same(kernel, memory_format):
    case = tiny(kernel=kernel, memory_format=memory_format)
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=operators.FORMATS[memory_format])
    ways = candidates(case, x, torch.randn)
    outputs = {name: convolve(x, weight) for name, (convolve, weight) in ways.items()}
    expected = {"dense", "view", "grouped", "depth", "released", "tied"} | ({"matmul"} if kernel == 1 else set())
    assert set(outputs) == expected
    assert outputs.pop("dense").shape == (2, 8, 4, 4)
    for output in outputs.values():
        torch.testing.assert_close(output, outputs["tied"])


@pytest.mark.parametrize("train", [False, True])
def test_a_case_is_timed_and_recorded(train):
    row = time_case(tiny(), train=train, dtype=torch.float64, rounds=3)
    assert row.chosen in ("view", "grouped", "depth")
    assert row.failed == {}
    assert {"released", "tied", "dense"} < set(row.timings)
    record = json.loads(json.dumps(row.record()))
    assert (record["case"], record["train"], record["chosen"]) == (asdict(row.case), train, row.chosen)
    for name, timing in row.timings.items():
        assert len(timing.seconds) == 3
        assert record["candidates"][name]["seconds"] == list(timing.seconds)


def test_figures_of_a_row_by_hand():
    case = tiny()
    assert case.flops == 2 * (2 * 8 * 4 * 4) * (8 // 4) * 9 == 9216
    row = OperatorRow(case, False, "view", {"dense": Timing((2.0, 6.0)), "tied": Timing((1.0, 2.0))})
    assert row.gflops("tied") == pytest.approx(9216 / 1.5 / 1e9)
    assert row.gflops("dense") == pytest.approx(4 * 9216 / 4 / 1e9)
    assert row.speedup("tied") == Quartiles(2.5, 2.25, 2.75)
    assert row.speedup("dense") == Quartiles(1.0, 1.0, 1.0)
    assert row.share_of_best is None  # view itself was not timed
    trained = OperatorRow(case, True, "view", row.timings)
    assert trained.gflops("tied") == pytest.approx(3 * row.gflops("tied"))
    record = row.record()["candidates"]["tied"]
    assert (record["median_ms"], record["spread_ms"]) == (1500, 250)
    assert record["speedup"] == {"median": 2.5, "q1": 2.25, "q3": 2.75}


def test_share_of_the_best_path_that_the_chosen_one_reaches():
    seconds = {"dense": 1.0, "tied": 2.0, "view": 5.0, "depth": 4.0}
    timings = {name: Timing((median,)) for name, median in seconds.items()}
    row = OperatorRow(tiny(), False, "view", timings)
    assert row.share_of_best == row.record()["share_of_best"] == 0.8  # dense and tied are no paths
    assert OperatorRow(tiny(), False, "depth", timings).share_of_best == 1
    assert OperatorRow(tiny(), False, "grouped", timings).share_of_best is None


@pytest.mark.parametrize("train", [False, True])
def test_a_candidate_that_fails_is_named_and_the_others_are_timed(monkeypatch, train):
    def refuse(*_, **__):
        raise RuntimeError("not on this machine")

    monkeypatch.setattr(operators, "released_tied_conv2d", refuse)
    row = time_case(tiny(), train=train, rounds=2)
    assert row.failed == {"released": "RuntimeError: not on this machine"}
    assert "tied" in row.timings
    assert "released" not in row.timings
    assert row.record()["failed"] == row.failed


def test_a_case_without_room_for_its_tensors_is_a_row_that_failed(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("out of memory\ntried to allocate much")

    monkeypatch.setattr(operators, "candidates", refuse)
    row = time_case(tiny(), rounds=2)
    assert row.timings == {}
    assert row.failed == {"tensors": "RuntimeError: out of memory\ntried to allocate much"}
    assert row.failures() == ["3x3, 8 ch, 4², B=4, contiguous, tensors: RuntimeError: out of memory"]


def test_without_the_reference_there_is_no_speedup():
    row = OperatorRow(tiny(), False, "view", {"tied": Timing((1.0,))}, {"dense": "RuntimeError: no"})
    assert row.speedup("tied") is None
    assert row.record()["candidates"]["tied"]["speedup"] is None
