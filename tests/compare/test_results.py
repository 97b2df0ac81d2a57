import json
import statistics

import pytest

from tiedconv.analysis import Histogram
from tiedconv.compare.results import (
    Comparison,
    Epoch,
    ModelResult,
    Quartiles,
    Run,
    Sample,
    read_comparison,
    read_run,
    to_json,
)


def make_run(seed=0, top1=0.5):
    return Run(
        seed=seed,
        top1=top1,
        top5=1.0,
        seconds=1.5,
        history=[Epoch(0, 2.0, 1.9, top1)],
        confusion=[[1, 0], [1, 2]],
        predictions=[(1, 0.75)],
        similarity=[Histogram("layer1", [-1.0, 0.0, 1.0], [3, 4], 0.25)],
    )


def test_comparison_survives_the_file(tmp_path):
    model = ModelResult("a", "resnet_tiny", {"base_width": 61}, 10, 20, Quartiles(1, 2, 3), None, 7.5, [make_run()])
    described = {"machine": {"cpu": "x"}, "data": {"name": "y"}, "budget": {"epochs": "1"}}
    comparison = Comparison(
        "title", "tiedconv", **described, classes=["no", "yes"], seeds=[0], samples=[Sample("png", 1)], models=[model]
    )
    path = tmp_path / "results.json"
    path.write_text(to_json(comparison))
    assert read_comparison(path) == comparison


def test_run_survives_the_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(to_json(make_run()))
    assert read_run(path) == make_run()


def test_results_are_strict_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(make_run(top1=float("nan")))
    json.loads(to_json(make_run()))


def test_mean_and_sample_deviation_over_seeds():
    values = [0.5, 0.75, 0.625]
    model = ModelResult("a", "m", {}, 1, 1, runs=[make_run(i, v) for i, v in enumerate(values)])
    assert model.mean("top1") == pytest.approx(statistics.fmean(values))
    assert model.sd("top1") == pytest.approx(0.125)
    assert ModelResult("a", "m", {}, 1, 1, runs=[make_run()]).sd("top1") is None


def test_spread_is_median_and_quartiles():
    assert Quartiles.of([5, 1, 4, 2, 3]) == Quartiles(3, 2, 4)
    assert Quartiles.of([7]) == Quartiles(7, 7, 7)
