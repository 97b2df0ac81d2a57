import json
import statistics

import numpy as np
import pytest
from tests import coco_cases

from tiedconv.analysis.occlusion import OcclusionBin, analyze_occlusion
from tiedconv.metrics import occlusion_ratios
from tiedconv.metrics.coco import CocoMatches, coco_metrics


@pytest.fixture(scope="module")
def generated():
    """A ground truth and the detections of a good model and of two runs of a worse one."""
    truth, good = coco_cases.generate(3, images=30, noise=0.02)
    drop = [r for i, r in enumerate(good) if i % 3], [r for i, r in enumerate(good) if i % 4]
    return truth, {"good": good, "worse": list(drop)}


def test_bins_hold_the_metrics_of_their_images(generated):
    truth, results = generated
    report = analyze_occlusion(truth, results, edges=(0, 0.2, 0.6, 1), resamples=3)
    ratios = occlusion_ratios(truth)
    assert sum(bin_.images for bin_ in report.bins) == 30
    good, worse = report.models
    assert (good.label, good.runs, worse.label, worse.runs) == ("good", 1, "worse", 2)
    for i, bin_ in enumerate(report.bins):
        members = [image for image, r in ratios.items() if bin_.low <= r < bin_.high or r == bin_.high == 1]
        part = {
            **truth,
            "images": [image for image in truth["images"] if image["id"] in members],
            "annotations": [entry for entry in truth["annotations"] if entry["image_id"] in members],
        }
        crowds = sum(entry["iscrowd"] for entry in part["annotations"])
        assert bin_.images == len(members) > 1
        assert bin_.instances == len(part["annotations"]) - crowds
        of = [
            coco_metrics(part, [entry for entry in run if entry["image_id"] in members], "mask")
            for run in (results["good"], *results["worse"])
        ]
        for metric in ("AP", "AP75"):
            mean = statistics.fmean(metrics[metric] for metrics in of[1:])
            assert good.scores[metric][i].value == pytest.approx(of[0][metric])
            assert worse.scores[metric][i].value == pytest.approx(mean)
            assert worse.differences[metric][i].value == pytest.approx(mean - of[0][metric])
    assert good.differences == {}


def test_intervals_come_from_images_drawn_alike_for_all_models_and_runs(generated):
    truth, results = generated
    report = analyze_occlusion(truth, results, kind="box", edges=(0, 1), resamples=40, seed=7)
    draw = np.random.default_rng(7)
    good, *worse = (CocoMatches(truth, run, "box") for run in (results["good"], *results["worse"]))
    samples = [[good.images[i] for i in draw.integers(30, size=30)] for _ in range(40)]
    of_good = np.array([good.ap_by_iou(sample)[0.75] for sample in samples])
    of_worse = np.mean([[run.ap_by_iou(sample)[0.75] for sample in samples] for run in worse], axis=0)
    first, second = report.models
    for estimate, drawn in (
        (first.scores["AP75"][0], of_good),
        (second.scores["AP75"][0], of_worse),
        (second.differences["AP75"][0], of_worse - of_good),
    ):
        deviations = np.percentile(drawn - drawn.mean(), [2.5, 97.5])
        assert [estimate.low, estimate.high] == pytest.approx((estimate.value + deviations).tolist())
        assert estimate.low < estimate.value < estimate.high
    width = second.differences["AP75"][0].high - second.differences["AP75"][0].low
    assert width < second.scores["AP75"][0].high - second.scores["AP75"][0].low  # paired


def test_the_report_is_the_same_for_the_same_seed_and_json(generated):
    truth, results = generated
    one, again, other = (analyze_occlusion(truth, results, resamples=5, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.models != other.models
    content = json.loads(one.to_json())
    assert content["bins"][0]["low"] == 0.0
    assert content["models"][1]["scores"]["AP"][0]["value"] == one.models[1].scores["AP"][0].value
    assert (content["kind"], content["regions"], content["resamples"], content["seed"]) == ("mask", "boxes", 5, 0)


def test_runs_are_taken_one_at_a_time(generated):
    truth, results = generated
    lazy = {label: iter(runs if label == "worse" else [runs]) for label, runs in results.items()}
    assert analyze_occlusion(truth, lazy, resamples=2) == analyze_occlusion(truth, results, resamples=2)


def test_bins_without_images_or_objects_are_kept_empty():
    truth = coco_cases.two_images()
    truth["annotations"] = truth["annotations"][:3]  # images 2 and 3, where nothing overlaps, show nothing
    result = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}
    report = analyze_occlusion(truth, {"a": [result], "none": []}, kind="box", edges=(0, 0.5, 0.9, 1), resamples=9)
    assert report.bins == [OcclusionBin(0, 0.5, 2, 0), OcclusionBin(0.5, 0.9, 1, 2), OcclusionBin(0.9, 1, 0, 0)]
    a, none = report.models
    for metric in ("AP", "AP75"):
        assert a.scores[metric][0] is a.scores[metric][2] is none.differences[metric][0] is None
        assert a.scores[metric][1].value == pytest.approx(51 / 101)
        assert (a.scores[metric][1].low, a.scores[metric][1].high) == (None, None)  # one image can not be drawn anew
        assert none.scores[metric][1].value == 0
        assert none.differences[metric][1].value == pytest.approx(-51 / 101)
    assert json.loads(report.to_json())["models"][0]["scores"]["AP"][0] is None


def test_full_occlusion_belongs_to_the_last_bin():
    truth = coco_cases.two_images()
    truth["annotations"][1]["bbox"] = truth["annotations"][0]["bbox"]
    report = analyze_occlusion(truth, {"a": []}, kind="box", edges=(0, 0.5, 1), resamples=0)
    assert [bin_.images for bin_ in report.bins] == [2, 1]
    assert report.models[0].scores["AP"][1].low is None


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        ({}, {}, "results must name at least one model, got none"),
        ({"a": iter([])}, {}, "'a' has no runs"),
        ({"a": []}, {"edges": (0, 0.5)}, r"edges must ascend from 0 to 1, got \[0, 0\.5\]"),
        ({"a": []}, {"edges": (0, 0.5, 0.5, 1)}, "edges must ascend from 0 to 1"),
        ({"a": []}, {"edges": (1,)}, "edges must ascend from 0 to 1"),
        ({"a": []}, {"edges": (0, float("nan"), 1)}, "edges must ascend from 0 to 1"),
        ({"a": []}, {"resamples": -1}, "resamples must be at least 0, got resamples=-1"),
    ],
)
def test_mistakes_in_the_arguments_are_named(results, options, message):
    with pytest.raises(ValueError, match=f"analyze_occlusion: {message}"):
        analyze_occlusion(coco_cases.two_images(), results, kind="box", **options)


def test_an_interval_lies_about_its_value_even_where_every_draw_is_above_it():
    """40 categories, each with one object, which is found behind three false detections in other images."""
    box, count = {"bbox": [0, 0, 10, 10]}, 40
    truth = {"images": [{"id": i} for i in range(count)], "categories": [{"id": i} for i in range(count)]}
    truth["annotations"] = [{"id": i, "image_id": i, "category_id": i, "area": 100, **box} for i in range(count)]
    found = [
        {"image_id": (i + shift) % count, "category_id": i, "score": 0.5 + shift / 10, **box}
        for i in range(count)
        for shift in range(4)
    ]
    draw, matches = np.random.default_rng(0), CocoMatches(truth, found, "box")
    draws = [np.mean([*matches.ap_by_iou(draw.integers(count, size=count).tolist()).values()]) for _ in range(50)]
    [model] = analyze_occlusion(truth, {"a": found}, kind="box", edges=(0, 1), resamples=50).models
    estimate = model.scores["AP"][0]
    assert min(draws) > estimate.value == pytest.approx(1 / 4)
    assert estimate.low < estimate.value < estimate.high
