import copy
import json
import math
import random
from statistics import fmean

import pytest
from tests import coco_cases

from tiedconv.metrics.coco import METRICS, CocoMatches, coco_metrics, read_annotations, read_results


def matches_reference(metrics, reference):
    return list(metrics.values()) == pytest.approx(
        [math.nan if r == -1 else r for r in reference], abs=1e-6, nan_ok=True
    )


@pytest.fixture
def tiny():
    """One image, one object of 10 x 10 pixels, and a detection that covers 8 of its rows."""
    truth = {
        "images": [{"id": 1, "height": 20, "width": 20}],
        "categories": [{"id": 7}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "area": 100}],
    }
    return truth, [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 8], "score": 0.9}]


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_pycocotools(seed, kind):
    truth, results = coco_cases.generate(seed)
    before = copy.deepcopy((truth, results))
    metrics = coco_metrics(truth, results, kind)
    assert tuple(metrics) == METRICS
    assert all(type(value) is float for value in metrics.values())
    assert 0.05 < metrics["AP"] < 0.95
    assert matches_reference(metrics, coco_cases.reference(truth, results, kind))
    assert (truth, results) == before


def test_nothing_is_printed_or_logged(capfd, caplog):
    caplog.set_level("DEBUG")
    coco_metrics(*coco_cases.generate(0), "mask")
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


def test_a_size_without_objects_is_nan(tiny):
    assert coco_metrics(*tiny, "box") == pytest.approx(
        {"AP": 0.7, "AP50": 1, "AP75": 1, "AP_S": 0.7, "AP_M": math.nan, "AP_L": math.nan}, nan_ok=True
    )


def test_without_results_nothing_is_found(tiny):
    metrics = coco_metrics(tiny[0], [], "box")
    assert [metrics[name] for name in ("AP", "AP50", "AP75", "AP_S")] == [0.0] * 4
    assert math.isnan(metrics["AP_L"])


@pytest.mark.parametrize("part", ["annotations", "images"])
def test_without_objects_every_metric_is_nan(tiny, part):
    truth, results = tiny
    truth = {**truth, "annotations": [], part: []}
    assert all(map(math.isnan, coco_metrics(truth, results if part == "annotations" else [], "box").values()))


def test_an_unmatched_mask_goes_by_its_own_area_not_by_its_box(tiny):
    truth, _ = coco_cases.generate(0)
    truth["annotations"] = [annotation for annotation in truth["annotations"] if annotation["area"] < 32**2]
    image, category = truth["annotations"][0]["image_id"], truth["annotations"][0]["category_id"]
    thin = coco_cases.ellipse([10, 10, 20, 20])
    miss = {"image_id": image, "category_id": category, "segmentation": coco_cases.rle(thin), "score": 0.9}
    assert coco_metrics(truth, [miss], "mask") == pytest.approx(
        coco_metrics(truth, [{**miss, "bbox": [0, 0, 150, 130]}], "mask"), nan_ok=True
    )


# Two categories on three images; the detections of image 2 are wrong.
def three_images():
    truth = {"images": [{"id": i} for i in (1, 2, 3)], "categories": [{"id": 1}, {"id": 2}], "annotations": []}
    results = []
    for image, category in ((1, 1), (2, 1), (2, 2), (3, 2)):
        box = {"image_id": image, "category_id": category, "bbox": [0, 0, 10, 10]}
        truth["annotations"].append({**box, "id": len(results) + 1, "area": 100})
        shift = 50 if image == 2 else 0
        results.append({**box, "bbox": [shift, 0, 10, 10], "score": 1 - image / 10})
    return truth, results


@pytest.mark.parametrize(
    ("images", "ap"),
    [
        # Half of each category's objects are found: recall 0 to 0.5, at precision 1, and 1/2 behind a better false one.
        (None, 51 / 101 * (1 + 1 / 2) / 2),
        ([1], 1.0),  # one category is there, and found
        ([2], 0.0),
        ([1, 2], (51 / 101 + 0) / 2),
        ([1, 2, 2, 2, 3], 26 / 101 * (1 + 1 / 4) / 2),  # 1 of 4 objects is found: recall 0 to 0.25
        ([1, 1, 3], 1.0),
        ([], math.nan),
    ],
)
def test_average_precision_of_chosen_images_by_hand(images, ap):
    by_iou = CocoMatches(*three_images(), "box").ap_by_iou(images)
    assert list(by_iou.values()) == pytest.approx([ap] * 10, nan_ok=True)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(3))
def test_repeated_images_count_as_copies_under_new_ids(seed, kind):
    """Pins the use of the library's private list of matches to what the library and pycocotools say."""
    truth, results = coco_cases.generate(seed)
    matches = CocoMatches(truth, results, kind)
    chosen = random.Random(seed).choices(matches.images, k=15)
    copied = {**truth, "images": [], "annotations": []}
    found = []
    for number, image in enumerate(chosen, start=1000):
        copied["images"].append({"id": number, "height": coco_cases.HEIGHT, "width": coco_cases.WIDTH})
        copied["annotations"] += [{**a, "image_id": number} for a in truth["annotations"] if a["image_id"] == image]
        found += [{**r, "image_id": number} for r in results if r["image_id"] == image]
    by_iou = matches.ap_by_iou(chosen)
    for reference in (coco_metrics(copied, found, kind).values(), coco_cases.reference(copied, found, kind)):
        ap, ap50, ap75, *_ = reference
        assert [fmean(by_iou.values()), by_iou[0.5], by_iou[0.75]] == pytest.approx([ap, ap50, ap75], abs=1e-6)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_all_images_give_the_metrics_of_the_whole_set(kind):
    truth, results = coco_cases.generate(5)
    matches, metrics = CocoMatches(truth, results, kind), coco_metrics(truth, results, kind)
    assert matches.images == [image["id"] for image in truth["images"]]
    by_iou = matches.ap_by_iou()
    assert list(by_iou) == pytest.approx([0.5 + 0.05 * i for i in range(10)])
    assert [fmean(by_iou.values()), by_iou[0.75]] == pytest.approx([metrics["AP"], metrics["AP75"]])


def test_an_unknown_image_is_refused(tiny):
    matches = CocoMatches(*tiny, "box")
    with pytest.raises(ValueError, match=r"CocoMatches: image 9 is not among the 1 of the ground truth\. Choose"):
        matches.ap_by_iou([1, 9])


def test_files_are_read_back(tmp_path, tiny):
    truth, results = tiny
    for name, content in {"truth": truth, "results": results, "empty": []}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert read_annotations(tmp_path / "truth.json") == truth
    assert read_results(tmp_path / "results.json", truth) == results
    assert read_results(tmp_path / "empty.json", truth, "mask") == []


@pytest.mark.parametrize("content", ['{"images": [', "\xff"])
def test_a_file_that_is_no_json_is_named(tmp_path, tiny, content):
    file = tmp_path / "broken.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"read_annotations: .*broken\.json: this is not JSON: .*COCO's format"):
        read_annotations(file)
    with pytest.raises(ValueError, match=r"read_results: .*broken\.json: this is not JSON"):
        read_results(file, tiny[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "the ground truth must be a dictionary with the lists images, annotations and categories"),
        ({"categories": None}, "the ground truth must be a dictionary with the lists"),
        ({"images": [{"id": 10**30}]}, r"image 10+ must have as its id a whole number of 64 bits; it is 1000"),
        ({"images": [{"id": "a"}]}, r"image a must have as its id a whole number of 64 bits; it is 'a'\."),
        ({"images": [{"id": 1}, {"id": 1}]}, "id 1 comes twice in images"),
        (
            {"categories": [{"id": 7}, "dog"]},
            r"categories\[1\] must have as its id a whole number of 64 bits; there is none\.",
        ),
        (
            {"annotations": [{"id": 3, "image_id": 1, "category_id": 7, "area": 1}]},
            r"annotation 3 must have as its bbox four finite numbers x, y, width, height.*; there is none\.",
        ),
        (
            {"annotations": [{"id": 3, "image_id": 1, "category_id": 8, "area": 1, "bbox": [0, 0, 1, 1]}]},
            r"annotation 3 must have as its category_id one of the 1 categories of the ground .*; it is 8",
        ),
    ],
)
def test_what_annotations_lack_is_named(tmp_path, tiny, change, message):
    file = tmp_path / "truth.json"
    file.write_text(json.dumps({**tiny[0], **change} if isinstance(change, dict) else change))
    with pytest.raises(ValueError, match=rf"read_annotations: .*truth\.json: {message}"):
        read_annotations(file)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "box",
            {"image_id": 4},
            r"must have as its image_id one of the 1 images of the ground truth; it is 4\. Correct",
        ),
        (
            "box",
            {"category_id": 4},
            "must have as its category_id one of the 1 categories of the ground truth; it is 4",
        ),
        ("box", {"bbox": [1, 2, 3]}, r"must have as its bbox four finite numbers .*; it is \[1, 2, 3\]"),
        ("box", {"bbox": [1, 2, 3, -1]}, r"must have as its bbox .*, the last two not negative; it is \[1, 2, 3, -1\]"),
        ("box", {"score": math.nan}, "must have as its score a finite number; it is nan"),
        ("mask", {}, "must have as its segmentation a compressed RLE: size, and counts as text; there is none"),
        ("mask", {"segmentation": [[0, 0, 5, 0, 5, 5]]}, "must have as its segmentation a compressed RLE"),
        (
            "mask",
            {"segmentation": {"size": [10, 10], "counts": "0d3"}},
            r"has a mask of size \[10, 10\], but its image has height and width \[20, 20\]\. Encode masks at the size",
        ),
    ],
)
def test_what_a_result_lacks_is_named(tmp_path, tiny, kind, change, message):
    truth, [good] = tiny
    truth["annotations"][0]["segmentation"] = [[0, 0, 10, 0, 10, 10, 0, 10]]
    segmentation = {} if kind == "box" else {"segmentation": {"size": [20, 20], "counts": "0`<"}}
    results = [{**good, **segmentation}, {**good, **change}]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=rf"read_results: .*results\.json: results\[1\] {message}"):
        read_results(file, truth, kind)
    with pytest.raises(ValueError, match=rf"coco_metrics: results\[1\] {message}"):
        coco_metrics(truth, results, kind)


def test_results_must_be_a_list(tiny):
    with pytest.raises(ValueError, match=r"coco_metrics: results must be a list of detections, got a dict\."):
        coco_metrics(tiny[0], tiny[0], "box")


def test_masks_need_masks_and_sizes_in_the_ground_truth(tmp_path, tiny):
    truth, _ = tiny
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=r"annotation 1 must have as its segmentation an RLE or a list of polygons"):
        coco_metrics(truth, [], "mask")
    with pytest.raises(
        ValueError, match=r"read_annotations: .*truth\.json: annotation 1 must have as its segmentation"
    ):
        read_annotations(file, "mask")
    truth["annotations"][0]["segmentation"] = [[0, 0, 10, 0, 10, 10, 0, 10]]
    del truth["images"][0]["height"]
    with pytest.raises(ValueError, match=r"image 1 must have as its height a number of pixels; there is none"):
        coco_metrics(truth, [], "mask")


def test_the_kind_is_box_or_mask(tiny):
    with pytest.raises(ValueError, match=r"coco_metrics: kind must be 'box' or 'mask', got 'bbox'\."):
        coco_metrics(*tiny, "bbox")
