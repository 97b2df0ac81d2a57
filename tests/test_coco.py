import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as reference

from tiedconv._coco import check_data_set, check_ground_truth, coco_json, decode_mask, encode_mask, read_json

RNG = np.random.default_rng(0)
MASKS = [RNG.random((7, 5)) < share for share in (0.0, 0.2, 0.5, 1.0)]


@pytest.mark.parametrize("mask", MASKS)
def test_encoded_masks_are_pycocotools(mask):
    theirs = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_mask(mask) == {"size": [7, 5], "counts": theirs["counts"].decode()}


@pytest.mark.parametrize("mask", MASKS)
def test_every_kind_of_rle_gives_the_mask_back(mask):
    runs = np.flatnonzero(np.diff(np.concatenate([[False], mask.ravel(order="F")])))
    counts = np.diff(np.concatenate([[0], runs, [mask.size]])).tolist()
    compressed = encode_mask(mask)
    for rle in (
        compressed,
        {**compressed, "counts": compressed["counts"].encode()},
        {"size": [7, 5], "counts": counts},
    ):
        assert (decode_mask(rle, (7, 5)) == mask).all()


def test_polygons_are_filled_as_pycocotools_does_and_united():
    polygons = [[1.5, 0.5, 8.2, 1.0, 6.0, 5.5], [10, 2, 14, 2, 14, 6, 10, 6], [0, 0, 3, 3]]
    theirs = reference.merge(reference.frPyObjects(polygons[:2], 9, 16))
    assert (decode_mask(polygons, (9, 16)) == reference.decode(theirs)).all()


def truth(**changes):
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1, **changes}
    image = {"id": 1, "height": 7, "width": 5, "file_name": "a.png"}
    return {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "a"}]}


@pytest.mark.parametrize("mask", [*MASKS, RNG.random((300, 400)) < 0.5, np.ones((2000, 1000), bool)])
def test_whole_masks_are_taken(mask):
    content = truth(segmentation=encode_mask(mask))
    content["images"][0] |= dict(zip(("height", "width"), mask.shape, strict=True))
    check_ground_truth(content, "segmentation")
    content["annotations"][0]["segmentation"]["counts"] += "1"
    with pytest.raises(ValueError, match="annotation 1 has an RLE whose counts are not run lengths"):
        check_ground_truth(content, "segmentation")


def test_outlines_far_away_are_refused():  # faster-coco-eval would walk along them for hours
    with pytest.raises(ValueError, match=r"annotation 1 must have as its segmentation .*, within a million pixels"):
        check_ground_truth(truth(segmentation=[[0, 0, 10**9, 0, 2, 2]]), "segmentation")


@pytest.mark.parametrize(
    "counts", ["", "0", "garbage!", "o", "oooooooooo0", "é", [5, 10], [36, -1], [35.0], None, 35, {}]
)
def test_run_lengths_that_fill_no_mask_are_refused(counts):  # faster-coco-eval loops without end over some
    content = truth(segmentation={"size": [7, 5], "counts": counts})
    message = r"^annotation 1 has an RLE whose counts are not run lengths of the 7 x 5 pixels of its image\. Encode"
    with pytest.raises(ValueError, match=message):
        check_ground_truth(content, "segmentation")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_id": []},
            r"annotation 1 must have as its image_id one of the 1 images of the ground truth; it is \[\]\.",
        ),
        ({"bbox": [0, 0, 1, 10**400]}, "annotation 1 must have as its bbox four finite numbers"),
        ({"iscrowd": "0"}, "annotation 1 must have as its iscrowd 0, 1 or none; it is '0'"),
        (
            {"area": "wide"},
            "annotation 1 must have as its area a finite number that is not negative, or none; it is 'wide'",
        ),
    ],
)
def test_values_of_another_kind_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_data_set(truth(**changes))


def test_json_too_deep_is_none(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"^this is not JSON: maximum recursion depth"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("size", [None, 7, "75", [5, 7]])
def test_a_mask_of_no_size_is_refused(size):
    content = truth(segmentation={"size": size, "counts": [35]})
    with pytest.raises(
        ValueError, match=r"annotation 1 has a mask of size .*, but its image has height and width \[7, 5"
    ):
        check_ground_truth(content, "segmentation")


@pytest.mark.parametrize("area", [-1, -1e-9, np.nan, np.inf, None, True])
def test_areas_that_metrics_would_pass_over_are_refused(area):  # a missed object of negative area would cost nothing
    with pytest.raises(ValueError, match=r"^annotation 1 must have as its area a finite number that is not negative"):
        check_ground_truth(truth(area=area), None)


def test_the_area_of_a_box_that_reaches_beyond_its_image_is_taken():
    check_data_set(truth(bbox=[-10, -10, 100, 100], area=10_000))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_of_windows_is_read(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('{\r\n"name": "Gerät"\r\n}\r\n'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"name": "Gerät"}


def test_a_data_set_in_memory_is_written_with_numpy_s_numbers_and_bytes():
    content = {"id": np.int64(3), "bbox": np.array([1.5, 2]), "counts": b"0ab", "path": Path("a/b")}
    assert json.loads(coco_json(content)) == {"id": 3, "bbox": [1.5, 2.0], "counts": "0ab", "path": str(Path("a/b"))}
