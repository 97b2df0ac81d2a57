import json
import statistics
from dataclasses import asdict

import pytest

from tiedconv.compare.results import Comparison, ModelResult, Quartiles, Run, Sample, metric_name, read_run, to_json


def make_run(seed=0, top1=0.5):
    details = {"confusion": [[1, 0], [1, 2]], "predictions": [[1, 0.75]]}
    return Run(seed, 1.5, [{"epoch": 0, "train_loss": 2.0}], {"top1": top1, "top5": None}, details)


def test_a_file_has_all_numbers_of_a_comparison():
    model = ModelResult("a", "resnet_tiny", {"base_width": 61}, 10, 20, None, 7, [make_run()], Quartiles(1, 2, 3))
    comparison = Comparison("t", "tiedconv", {"Data": {"x": "y"}}, [0], [model], ["top1"], [Sample("png", 1)], ["no"])
    assert json.loads(to_json(comparison)) == asdict(comparison)


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
    assert model.values("top1") == values
    assert model.mean("top1") == pytest.approx(statistics.fmean(values))
    assert model.sd("top1") == pytest.approx(0.125)
    assert ModelResult("a", "m", {}, 1, 1, runs=[make_run()]).sd("top1") is None
    assert model.values("top5") == []
    assert model.mean("top5") is None


def test_metrics_have_names():
    assert [metric_name(metric) for metric in ("top1", "box_AP", "mask_AP_S")] == ["top-1", "box AP", "mask AP_S"]
