import copy
import json
import statistics
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import coco_cases
from torchvision import tv_tensors

from tiedconv.analysis.coco import CocoMatches, coco_metrics
from tiedconv.analysis.occlusion import OcclusionBin, analyze_occlusion, occlusion_ratio, occlusion_ratios

SIZE = 12


def shared_area(masks):
    """Eq. 5 as it is worded: each object beside the union of the others."""
    areas, shared = 0, 0
    for i, mask in enumerate(masks):
        others = np.any([other for j, other in enumerate(masks) if j != i], axis=0) if len(masks) > 1 else False
        areas += mask.sum()
        shared += (mask & others).sum()
    return shared / areas if areas else 0.0


def raster(boxes):
    masks = np.zeros((len(boxes), SIZE, SIZE), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


sides = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted)
boxes_of_an_image = st.lists(st.tuples(sides, sides).map(lambda s: [s[0][0], s[1][0], s[0][1], s[1][1]]), max_size=6)


@given(boxes_of_an_image)
def test_boxes_and_masks_agree_with_the_definition_on_pixels(boxes):
    masks = raster(boxes)
    expected = shared_area(masks)
    assert occlusion_ratio(torch.tensor(boxes).reshape(-1, 4)) == pytest.approx(expected)
    assert occlusion_ratio(torch.from_numpy(masks)) == pytest.approx(expected)


@given(boxes_of_an_image, st.floats(0.01, 100), st.floats(-50, 50))
def test_the_ratio_of_boxes_knows_no_scale_and_place(boxes, scale, shift):
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    ratio = occlusion_ratio(scale * boxes + shift)
    assert 0 <= ratio <= 1
    assert ratio == pytest.approx(occlusion_ratio(boxes), abs=1e-9)


@pytest.mark.parametrize(
    ("boxes", "ratio"),
    [
        ([[0, 0, 10, 10]], 0),
        ([[0, 0, 10, 10], [10, 0, 20, 10]], 0),  # they touch
        ([[0, 0, 10, 10], [0, 0, 10, 10]], 1),
        ([[0, 0, 10, 10], [0, 0, 10, 5]], (50 + 50) / 150),
        ([[0, 0, 3, 1], [1, 0, 3, 1], [2, 0, 3, 1]], (2 + 2 + 1) / 6),  # all three overlap in the last third
        ([[0, 0, 0, 5], [0, 0, 5, 0]], 0),  # no area
    ],
)
def test_ratio_by_hand(boxes, ratio):
    assert occlusion_ratio(torch.tensor(boxes)) == pytest.approx(ratio)


def test_no_objects_no_occlusion():
    assert occlusion_ratio(torch.zeros(0, 4)) == 0.0
    assert occlusion_ratio(torch.zeros(0, 5, 7)) == 0.0


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_masks_of_any_type(dtype):
    masks = torch.ones(300, 1, 2, dtype=dtype)  # more objects than uint8 counts
    masks[:, :, 1] = 0
    masks[0, 0, 1] = 1
    assert occlusion_ratio(masks) == pytest.approx(300 / 301)
    assert occlusion_ratio(tv_tensors.Mask(masks)) == pytest.approx(300 / 301)


def test_boxes_of_torchvision():
    boxes = tv_tensors.BoundingBoxes([[0, 0, 10, 10], [0, 0, 10, 5]], format="XYXY", canvas_size=(10, 10))
    assert occlusion_ratio(boxes) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"occlusion_ratio: boxes must be \[x1, y1, x2, y2\], got XYWH\. Convert them"):
        occlusion_ratio(tv_tensors.wrap(boxes, like=boxes, format=tv_tensors.BoundingBoxFormat.XYWH))


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 2, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(RuntimeError, match=r"occlusion_ratio: expected masks \(N, H, W\) or boxes \(N, 4\), got \("):
        occlusion_ratio(torch.zeros(shape))


@pytest.mark.parametrize("box", [[5.0, 0.0, 3.0, 10.0], [0.0, float("nan"), 3.0, 10.0]])
def test_boxes_that_are_none_are_refused(box):
    with pytest.raises(
        ValueError, match=r"occlusion_ratio: boxes\[1\] = \[.*\] must be finite and have x1 <= x2 and y1"
    ):
        occlusion_ratio(torch.tensor([[0.0, 0.0, 1.0, 1.0], box]))


@pytest.mark.parametrize("value", [0.5, 255, float("nan")])
def test_masks_of_other_values_are_refused(value):
    with pytest.raises(
        ValueError, match=r"occlusion_ratio: masks must hold 0 and 1, got values from .* threshold first"
    ):
        occlusion_ratio(torch.full((2, 3, 3), value))


def two_images():
    """Image 1 has two objects of 10 x 10 that share a half, and a crowd over both; image 2 has one object."""
    annotations = [
        {"id": 1, "image_id": 1, "bbox": [0, 0, 10, 10], "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]},
        {"id": 2, "image_id": 1, "bbox": [5, 0, 10, 10], "segmentation": [[10, 0, 15, 0, 15, 10, 10, 10]]},
        {"id": 3, "image_id": 1, "bbox": [0, 0, 20, 20], "iscrowd": 1},
        {"id": 4, "image_id": 2, "bbox": [0, 0, 10, 10], "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]},
    ]
    for entry in annotations:
        entry.update(category_id=1, area=entry["bbox"][2] * entry["bbox"][3])
    images = [{"id": i, "height": 20, "width": 20} for i in (2, 1, 3)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}]}


def test_ratios_of_a_data_set_leave_crowds_out():
    truth = two_images()
    before = copy.deepcopy(truth)
    assert occlusion_ratios(truth) == {2: 0.0, 1: 0.5, 3: 0.0}
    assert occlusion_ratios(truth, "masks") == {2: 0.0, 1: 0.0, 3: 0.0}  # of what is seen, nothing overlaps
    assert truth == before


@pytest.mark.parametrize("form", ["polygon", "list", "text", "bytes"])
def test_amodal_masks_in_every_form(form):
    truth = two_images()
    for entry in truth["annotations"]:
        mask = np.zeros((20, 20), dtype=np.uint8)
        x, y, width, height = entry["bbox"]
        mask[y : y + height, x : x + width] = 1
        text = coco_cases.rle(mask)["counts"]
        flat = mask.T.reshape(-1)
        borders = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
        runs = np.diff(borders, prepend=0).tolist()  # lengths of zeros, ones, zeros, ...
        counts = {"list": runs, "text": text, "bytes": text.encode()}
        entry["amodal_segmentation"] = (
            [coco_cases.corners(entry["bbox"])] if form == "polygon" else {"size": [20, 20], "counts": counts[form]}
        )
    assert occlusion_ratios(truth, "amodal") == {2: 0.0, 1: 0.5, 3: 0.0}


@pytest.mark.parametrize("seed", range(2))
def test_ratios_of_masks_are_those_of_the_decoded_masks(seed):
    truth, _ = coco_cases.generate(seed)
    ratios = occlusion_ratios(truth, "masks")
    assert list(ratios) == [image["id"] for image in truth["images"]]
    assert max(ratios.values()) > 0.3
    for image, ratio in ratios.items():
        masks = [
            coco_cases.rectangle(entry["bbox"])
            if isinstance(entry["segmentation"], list)
            else coco_cases.ellipse(entry["bbox"])
            for entry in truth["annotations"]
            if entry["image_id"] == image and not entry["iscrowd"]
        ]
        assert ratio == pytest.approx(shared_area(np.array(masks, dtype=bool)))


@pytest.mark.parametrize(
    ("regions", "remove", "message"),
    [
        (
            "amodal",
            "",
            "annotation 1 must have as its amodal_segmentation an RLE or a list of polygons of three points and more",
        ),
        (
            "masks",
            "segmentation",
            "annotation 2 must have as its segmentation an RLE or a list of polygons of three points and more",
        ),
        ("boxes", "bbox", "annotation 2 must have as its bbox four finite numbers"),
        ("shapes", "", r"regions must be one of boxes, masks, amodal, got 'shapes'\."),
    ],
)
def test_what_a_data_set_lacks_is_named(regions, remove, message):
    truth = two_images()
    truth["annotations"][1].pop(remove, None)
    with pytest.raises(ValueError, match=f"occlusion_ratios: {message}"):
        occlusion_ratios(truth, regions)


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
    of_good = np.array([good.ap(sample, 0.75) for sample in samples])
    of_worse = np.mean([[run.ap(sample, 0.75) for sample in samples] for run in worse], axis=0)
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
    truth = two_images()
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
    truth = two_images()
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
        analyze_occlusion(two_images(), results, kind="box", **options)


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
    draws = [matches.ap(draw.integers(count, size=count).tolist()) for _ in range(50)]
    [model] = analyze_occlusion(truth, {"a": found}, kind="box", edges=(0, 1), resamples=50).models
    estimate = model.scores["AP"][0]
    assert min(draws) > estimate.value == pytest.approx(1 / 4)
    assert estimate.low < estimate.value < estimate.high


def test_importing_the_package_loads_no_optional_library():
    heavy = ("matplotlib", "lightning", "pycocotools", "faster_coco_eval", "captum")
    code = (
        "import sys, torch, tiedconv.analysis\n"
        "assert tiedconv.analysis.occlusion_ratio(torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2]])) == 1\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr
