import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import coco_cases
from torchvision import tv_tensors

from tiedconv.metrics import occlusion_ratio, occlusion_ratios

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


def test_ratios_of_a_data_set_leave_crowds_out():
    truth = coco_cases.two_images()
    before = copy.deepcopy(truth)
    assert occlusion_ratios(truth) == {2: 0.0, 1: 0.5, 3: 0.0}
    assert occlusion_ratios(truth, "masks") == {2: 0.0, 1: 0.0, 3: 0.0}  # of what is seen, nothing overlaps
    assert truth == before


@pytest.mark.parametrize("form", ["polygon", "list", "text", "bytes"])
def test_amodal_masks_in_every_form(form):
    truth = coco_cases.two_images()
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
    truth = coco_cases.two_images()
    truth["annotations"][1].pop(remove, None)
    with pytest.raises(ValueError, match=f"occlusion_ratios: {message}"):
        occlusion_ratios(truth, regions)
