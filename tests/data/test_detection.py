"""Annotations in COCO's form and the targets made of them, on images of 30 x 20 pixels."""

import copy
import json
import math
import os
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pycocotools import mask as coco_masks
from torch import Tensor
from torch.testing import assert_close

from tiedconv.data import Coco, _annotated, _looks

# pycocotools' decode calls what numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

HEIGHT, WIDTH = 20, 30
BOX = [2, 3, 5, 6]  # x, y, width, height
CATEGORIES = [{"id": 9, "name": "cat"}, {"id": 0, "name": "ant"}, {"id": 4, "name": "bee"}]


def region(x, y, width, height):
    """The pixels of a box as a mask."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def corners(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def run_lengths(mask):
    """The lengths of the runs of equal pixels, column by column, of zeros first: COCO's uncompressed counts."""
    flat = mask.T.flatten()
    starts = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *starts, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def uncompressed(mask):
    return {"size": list(mask.shape), "counts": run_lengths(mask)}


def compressed(mask):
    code = coco_masks.encode(np.asfortranarray(mask))
    return {"size": code["size"], "counts": code["counts"].decode()}


def thing(number, image=7, category=4, box=BOX, **more):
    """An annotation with its box as its outline."""
    x, y, width, height = box
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": list(box), "area": width * height}
    return {**entry, "segmentation": [corners(x, y, width, height)], **more}


def content(*things, images=(7,), categories=CATEGORIES):
    records = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in images]
    return copy.deepcopy({"images": records, "annotations": list(things), "categories": categories})


def pixels(image):
    """What an image of the folder shows: noise that its id decides."""
    return np.random.default_rng(image).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def coco(tmp_path):
    """A function that writes both splits, with their images, and opens them."""

    def write(train, val=None, **options):
        for part, found in (("train", train), ("val", content(thing(1)) if val is None else val)):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / f"{part}.json").write_text(json.dumps(found))
            for image in (3, 5, 7):
                Image.fromarray(pixels(image)).save(tmp_path / part / f"{image}.png")
        places = ("train.json", "train", "val.json", "val")
        return Coco(str(tmp_path), *places, **{"flip": 0.0, "num_workers": 0, **options})

    return write


def test_labels_follow_the_order_of_the_category_ids(coco):
    data = coco(content(thing(1, category=9), thing(2, category=0), thing(3, category=4)))
    assert data.category_ids == [0, 4, 9]
    assert data.classes == ["ant", "bee", "cat"]
    assert data.num_classes == 4
    _, target = data.split(train=True)[0]
    assert target["labels"].tolist() == [3, 1, 2]


def test_a_target_is_what_torchvisions_detectors_take(coco):
    things = [thing(11), thing(12, box=[10.5, 4.25, 8, 9], area=60.5), thing(13, box=[0, 0, WIDTH, HEIGHT])]
    image, target = coco(content(*things)).split(train=True)[0]
    assert_close(image, torch.from_numpy(pixels(7)).permute(2, 0, 1) / 255)
    assert {name: type(value) for name, value in target.items()} == {
        **dict.fromkeys(("boxes", "labels", "area", "iscrowd", "masks"), Tensor),
        "image_id": int,
    }
    assert type(image) is Tensor
    assert target["boxes"].tolist() == [[2, 3, 7, 9], [10.5, 4.25, 18.5, 13.25], [0, 0, 30, 20]]
    assert target["area"].tolist() == [30, 60.5, 600]
    assert target["iscrowd"].tolist() == [0, 0, 0]
    assert target["image_id"] == 7
    dtypes = {name: value.dtype for name, value in target.items() if name != "image_id"}
    assert dtypes == {
        "boxes": torch.float32,
        "labels": torch.int64,
        "area": torch.float32,
        "iscrowd": torch.int64,
        "masks": torch.uint8,
    }


TWO_PARTS = region(2, 3, 5, 6) | region(12, 10, 9, 4)
AT_THE_CORNER = region(0, 0, 4, 7)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([corners(*BOX)], region(*BOX)),
        ([corners(*BOX), corners(12, 10, 9, 4)], TWO_PARTS),
        ([corners(*BOX), [12, 10, 14, 10]], region(*BOX)),  # a line is no part of the outline
        ([corners(-5, -5, 12, 14)], region(0, 0, 7, 9)),
        (uncompressed(TWO_PARTS), TWO_PARTS),
        (uncompressed(AT_THE_CORNER), AT_THE_CORNER),
        (compressed(TWO_PARTS), TWO_PARTS),
        (compressed(AT_THE_CORNER), AT_THE_CORNER),
    ],
    ids=["polygon", "polygons", "line", "outside", "uncompressed", "from zero", "compressed", "compressed from zero"],
)
def test_masks_are_the_pixels_of_the_outline(coco, segmentation, expected):
    things = [thing(1, segmentation=segmentation), thing(2, box=[20, 1, 3, 2])]
    _, target = coco(content(*things)).split(train=True)[0]
    assert target["masks"].tolist() == [expected.tolist(), region(20, 1, 3, 2).tolist()]


def test_masks_in_memory_may_be_bytes_as_pycocotools_gives_them(coco, monkeypatch):
    written = content(thing(1, segmentation=compressed(TWO_PARTS)))
    in_memory = copy.deepcopy(written)
    in_memory["annotations"][0]["segmentation"]["counts"] = compressed(TWO_PARTS)["counts"].encode()
    read = Coco.read
    monkeypatch.setattr(Coco, "read", lambda self, train: read(self, train)._replace(annotations=in_memory))
    assert coco(written).split(train=True)[0][1]["masks"].tolist() == [TWO_PARTS.tolist()]


def test_without_masks_there_need_be_no_outlines(coco):
    without = thing(1)
    del without["segmentation"]
    _, target = coco(content(without, thing(2, segmentation=[[1, 2]])), masks=False).split(train=True)[0]
    assert set(target) == {"boxes", "labels", "area", "iscrowd", "image_id"}
    assert target["boxes"].tolist() == [[2, 3, 7, 9]] * 2


def test_boxes_are_clipped_to_the_image_and_those_outside_left_out(coco):
    boxes = [[-4, -3, 10, 8], [25, 15, 20, 20], [31, 2, 5, 5], [2, -9, 5, 6], [28.5, 18.5, 1.5, 1.5]]
    things = [thing(n, category=c, box=box) for n, (box, c) in enumerate(zip(boxes, (0, 4, 9, 9, 0), strict=True))]
    with pytest.warns(UserWarning, match=r"leaves out 2 boxes without area in their image \(in 7\.png\) of"):
        _, target = coco(content(*things)).split(train=True)[0]
    assert target["boxes"].tolist() == [[0, 0, 6, 5], [25, 15, 30, 20], [28.5, 18.5, 30, 20]]
    assert target["labels"].tolist() == [1, 2, 1]
    assert len(target["masks"]) == len(target["area"]) == len(target["iscrowd"]) == 3


def test_what_cannot_be_learned_from_is_left_out_and_counted_once(coco):
    things = [
        thing(1, image=3, iscrowd=1, segmentation=uncompressed(region(*BOX))),
        thing(2, image=3, box=[5, 5, 0, 4]),
        thing(3, image=3, box=[-5, 5, 4, 1]),
        thing(4, image=3, segmentation=[[1, 2, 3, 4], [5, 6]]),
        thing(6, image=5, iscrowd=1),
        thing(7, image=7, iscrowd=0),
    ]
    data = coco(content(*things, images=(3, 5, 7)))
    with pytest.warns(UserWarning, match=r"^Coco: ") as warned:
        split = data.split(train=True)
    (warning,) = warned
    listed, source = str(warning.message).removeprefix("Coco: training leaves out ").split(" of /")
    assert sorted(listed.split(", ")) == [
        "1 outlines of fewer than three points (in 3.png)",
        "2 boxes without area in their image (in 3.png)",
        "2 crowd regions",
        "2 images without objects",
    ]
    assert source.endswith("train.json.")
    assert len(split) == 1
    assert split[0][1]["image_id"] == 7


def test_annotations_without_anything_to_learn_are_refused(coco):
    data = coco(content(thing(1, iscrowd=1)))
    message = r"Coco: .*train\.json has no object to train on\. Annotate some\."
    with pytest.raises(ValueError, match=message):
        data.split(train=True)


def test_a_flip_mirrors_image_boxes_and_masks(coco):
    notched = region(2, 3, 8, 9)
    notched[3:6, 2:5] = 0
    things = [thing(1, box=[2, 3, 8, 9], segmentation=compressed(notched)), thing(2, box=[-3, 12, 10.5, 20])]
    image, target = coco(content(*things), flip=0.0).split(train=True)[0]
    mirrored, mirrored_target = coco(content(*things), flip=1.0).split(train=True)[0]
    assert torch.equal(mirrored, image.flip(-1))
    assert torch.equal(mirrored_target["masks"], target["masks"].flip(-1))
    assert target["boxes"].tolist() == [[2, 3, 10, 12], [0, 12, 7.5, 20]]
    assert mirrored_target["boxes"].tolist() == [[20, 3, 28, 12], [22.5, 12, 30, 20]]
    for name in ("labels", "area", "iscrowd"):
        assert torch.equal(mirrored_target[name], target[name])


def test_a_batch_is_two_lists(coco):
    data = coco(content(thing(1), thing(2), thing(3, image=3), images=(3, 7)), batch_size=2)
    images, targets = next(iter(data.train_dataloader()))
    assert [image.shape for image in images] == [(3, HEIGHT, WIDTH)] * 2
    assert {target["image_id"]: len(target["boxes"]) for target in targets} == {3: 1, 7: 2}


def test_validation_has_every_image_and_only_its_id(coco):
    data = coco(content(thing(1)), content(thing(1, iscrowd=1), images=(7, 3, 5)), batch_size=2, flip=1.0)
    batches = list(data.val_dataloader())
    assert [len(images) for images, _ in batches] == [2, 1]
    found = [pair for batch in batches for pair in zip(*batch, strict=True)]
    assert [target for _, target in found] == [{"image_id": 7}, {"image_id": 3}, {"image_id": 5}]
    for image, target in found:
        assert type(image) is Tensor
        assert_close(image, torch.from_numpy(pixels(target["image_id"])).permute(2, 0, 1) / 255)
    assert data.ground_truth()["annotations"][0]["iscrowd"] == 1


def test_prediction_falls_back_to_the_validation_images_and_their_paths(coco, tmp_path):
    data = coco(content(thing(1)), content(thing(1), images=(5, 7)))
    images, paths, _ = next(iter(data.predict_dataloader()))
    assert paths == [str(tmp_path / "val" / "5.png"), str(tmp_path / "val" / "7.png")]
    assert torch.equal(images[1], data.split(train=False)[1][0])


def test_prediction_reads_the_users_own_images_in_their_sizes(coco, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    Image.new("RGBA", (40, 30), (255, 0, 0)).save(mine / "a.png")
    Image.new("L", (9, 8), 51).save(mine / "b.png")
    (images, paths, _), *others = coco(content(thing(1)), predict_path=str(mine)).predict_dataloader()
    assert others == []
    assert paths == [str(mine / "a.png"), str(mine / "b.png")]
    assert [image.shape for image in images] == [(3, 30, 40), (3, 8, 9)]
    assert_close(images[0][:, 5, 5], torch.tensor([1.0, 0, 0]))
    assert_close(images[1][:, 5, 5], torch.tensor([0.2, 0.2, 0.2]))


def test_order_and_flips_are_a_function_of_seed_and_epoch(coco):
    found = content(*(thing(n, image=n) for n in (3, 5, 7)), images=(3, 5, 7))

    def seen(seed, epoch, num_workers=0):
        L.seed_everything(seed, verbose=False)
        torch.rand(seed + epoch + num_workers)  # whatever else was drawn before must not matter
        loader = coco(found, flip=0.5, batch_size=1, num_workers=num_workers).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [(targets[0]["image_id"], targets[0]["boxes"].tolist(), images[0].sum(0)) for images, targets in loader]

    def same(first, second):
        pairs = zip(first, second, strict=True)
        return all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in pairs)

    assert same(seen(0, 3), seen(0, 3))
    assert same(seen(0, 3), seen(0, 3, num_workers=1))
    orders = [tuple(image for image, _, _ in seen(0, epoch)) for epoch in range(6)]
    assert len(set(orders)) > 1
    boxes = {(image, str(box)) for epoch in range(6) for image, box, _ in seen(0, epoch)}
    assert len(boxes) == 6  # each of the three images as it is and mirrored


def test_categories_must_be_the_same_in_both_splits(coco):
    data = coco(content(thing(1)), content(thing(1), categories=[{"id": i, "name": str(i)} for i in (4, 0, 5)]))
    differing = r"but only one of them has \(0, '0'\), \(0, 'ant'\), \(4, '4'\), \(4, 'bee'\), .* \.\.\.: correct"
    with pytest.raises(ValueError, match=f"Coco: both splits must have the same categories, {differing}"):
        data.split(train=True)


def broken(change):
    """A good file with one thing changed in place."""
    found = content(thing(21), thing(22), images=(7, 3))
    change(found)
    return found


BREAKS = {
    "no images": (lambda d: d.pop("images"), "must be a dictionary with the lists images, annotations and categories"),
    "file_name": (
        lambda d: d["images"][1].pop("file_name"),
        "image 3 must have as its file_name a text; there",
    ),
    "no height": (lambda d: d["images"][0].pop("height"), "image 7 must have as its height a number of pixels; there"),
    "image's id": (
        lambda d: d["images"][1].pop("id"),
        r"images\[1\] must have as its id a whole number of 64 bits; there",
    ),
    "bbox": (lambda d: d["annotations"][1].pop("bbox"), "annotation 22 must have as its bbox four finite numbers x, y"),
    "image_id": (
        lambda d: d["annotations"][0].pop("image_id"),
        "annotation 21 must have as its image_id one of the 2 images of the ground truth; there is none",
    ),
    "category_id": (
        lambda d: d["annotations"][0].pop("category_id"),
        "annotation 21 must have as its category_id one of the 3 categories of the ground truth; there is none",
    ),
    "name": (lambda d: d["categories"][2].pop("name"), "category 4 must have as its name a text; there is none"),
    "string": (
        lambda d: d["annotations"].append("a string"),
        r"annotations\[2\] must have as its id a whole number of 64 bits",
    ),
    "image twice": (lambda d: d["images"][1].update(id=7), r"id 7 comes twice in images\. Give each its own"),
    "category twice": (lambda d: d["categories"][0].update(id=4), "id 4 comes twice in categories"),
    "other type": (lambda d: d["annotations"][1].update(image_id="7"), "annotation 22 must have .*; it is '7'"),
    "nan": (lambda d: d["annotations"][1].update(bbox=[2, 3, math.nan, 6]), r"22 .* bbox .*; it is \[2, 3, nan, 6\]"),
    "three": (lambda d: d["annotations"][1].update(bbox=[2, 3, 5]), r"22 .* bbox .*; it is \[2, 3, 5\]"),
    "width": (lambda d: d["images"][0].update(width="30"), "image 7 must have as its width a number of pixels; it is"),
    "far": (lambda d: d["annotations"][1].update(bbox=[2, 3, 5, 10**7]), r"22 .* bbox .* within a million pixels"),
    "annotation twice": (lambda d: d["annotations"][1].update(id=21), "id 21 comes twice in annotations. Give"),
    "file twice": (lambda d: d["images"][1].update(file_name="7.png"), r"file_name 7\.png comes twice in images"),
    "crowd": (lambda d: d["annotations"][1].update(iscrowd=2), "annotation 22 must have as its iscrowd 0, 1 or none"),
    "negative area": (
        lambda d: d["annotations"][1].update(area=-30),
        "annotation 22 must have as its area a finite number that is not negative, or none; it is -30",
    ),
    "area too large": (
        lambda d: d["annotations"][1].update(area=700),
        r"annotation 22 has the area 700, but its image has only 20 x 30 pixels\. Give areas in pixels of",
    ),
}


@pytest.mark.parametrize(("change", "message"), BREAKS.values(), ids=BREAKS)
@pytest.mark.parametrize("train", [True, False], ids=["train", "val"])
def test_a_broken_file_is_named_with_the_entrys_id(coco, change, message, train):
    files = (broken(change), content(thing(1))) if train else (content(thing(1)), broken(change))
    with pytest.raises(ValueError, match=message) as refused:
        coco(*files).annotated(train)
    assert refused.match(rf"^Coco: .*/{'train' if train else 'val'}\.json")


SHAPELESS = r"must have as its segmentation an RLE or a list of polygons of three points and more, \[x1, y1, x2"
NO_RUNS = r"has an RLE whose counts are not run lengths of the 20 x 30 pixels of its image\."


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (
            uncompressed(np.ones((HEIGHT, WIDTH - 1), np.uint8)),
            r"has a mask of size \[20, 29\], but its image has height and width \[20, 30\]",
        ),
        (compressed(np.ones((WIDTH, HEIGHT), np.uint8)), r"has a mask of size \[30, 20\], but its image"),
        ({"size": [HEIGHT, WIDTH]}, NO_RUNS),
        ({"counts": [HEIGHT * WIDTH]}, r"has a mask of size None, but its image"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, HEIGHT * WIDTH]}, NO_RUNS),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 10]}, NO_RUNS),  # too short: no one knows what the other pixels are
        ({"size": [HEIGHT, WIDTH], "counts": [-5, 605]}, NO_RUNS),
        ({"size": [HEIGHT, WIDTH], "counts": "no counts"}, NO_RUNS),
        (None, SHAPELESS),
        ([], SHAPELESS),
        ("2 3 7 3 7 9", SHAPELESS),
        ([["a", "b", "c", "d", "e", "f"]], SHAPELESS),
        ([[True, 0, 9, 0, 9, 9]], SHAPELESS),
        (corners(*BOX), SHAPELESS),  # one polygon, but not in a list of polygons
        ([[2, 3, 7, 3, 7, 9, 2]], SHAPELESS),  # an x without its y
        ([corners(*BOX), [2, 3, 7]], SHAPELESS),
        ([[2, 3, math.nan, 3, 7, 9]], SHAPELESS),
        ([[2, 3, 7, 3, math.inf, 9]], SHAPELESS),
        ([[math.nan, 3, 7, 3, 7, 9]], SHAPELESS),
        ([[2, 3, 7, 3, 7, 10**400]], SHAPELESS),
        ([[2, 3, 7, 3, 7, -2_000_000]], SHAPELESS),
    ],
)
@pytest.mark.parametrize("train", [True, False], ids=["train", "val"])
def test_an_outline_that_cannot_be_read_is_named_before_the_first_epoch(coco, segmentation, reason, train):
    files = content(thing(1)), content(thing(1), thing(33, segmentation=segmentation))
    data, part = coco(*(files[::-1] if train else files)), "train" if train else "val"
    with pytest.raises(ValueError, match=rf"Coco: .*{part}\.json: annotation 33 {reason}.* For boxes alone, set masks"):
        data.setup("fit")


@pytest.mark.parametrize("train", [True, False], ids=["train", "val"])
@pytest.mark.parametrize("kept", [0, 20, 600])
def test_an_image_that_is_cut_off_is_named(coco, tmp_path, train, kept):
    data, part = coco(content(thing(1))), "train" if train else "val"
    path = tmp_path / part / "7.png"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(OSError, match=rf"{part}/7\.png, image 7 of .*{part}\.json, cannot be read as an image: "):
        data.split(train)[0]


@pytest.mark.parametrize("train", [True, False], ids=["train", "val"])
def test_an_image_of_another_size_is_named(coco, tmp_path, train):
    data, part = coco(content(thing(1))), "train" if train else "val"
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / part / "7.png")
    message = rf"{part}/7\.png, image 7 of .*{part}\.json, has 20 x 30 pixels, not the annotated 30 x 20\. The boxes"
    with pytest.raises(ValueError, match=message):
        data.split(train)[0]


@pytest.mark.parametrize("flip", [-0.1, 1.1, math.nan])
def test_flip_is_a_probability(coco, flip):
    with pytest.raises(ValueError, match=rf"Coco: flip must be in 0-1, got {flip}\."):
        coco(content(thing(1)), flip=flip)


def test_nothing_is_warned_of_when_nothing_is_left_out(coco):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(coco(content(thing(1))).split(train=True)) == 1


# What turns a picture so that its camera's mark (EXIF) turns it back.
MARKS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photograph(path, orientation, size=(WIDTH, HEIGHT), box=BOX):
    """A photograph that shows a white box on black, stored as a camera does that was held in an orientation."""
    shown = np.zeros((size[1], size[0], 3), np.uint8)
    shown[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(shown).transpose(MARKS[orientation]).save(path, exif=exif)


def inside(image, box=BOX):
    """The mean of what is inside a box, and of what is around it."""
    x, y, width, height = box
    around = image.clone()
    around[:, y : y + height, x : x + width] = 0
    return image[:, y : y + height, x : x + width].mean().item(), around.mean().item()


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_photograph_that_was_annotated_upright_is_turned(coco, tmp_path, orientation, suffix):
    found = content(thing(1))
    found["images"][0]["file_name"] = f"7.{suffix}"
    data = coco(found, found)
    for part in ("train", "val"):
        photograph(tmp_path / part / f"7.{suffix}", orientation)
    for image in (data.split(train=True)[0][0], data.split(train=False)[0][0], data.with_targets()[0][0]):
        assert inside(image) == pytest.approx((1, 0), abs=0.05)


@pytest.mark.parametrize("orientation", MARKS)
def test_a_photograph_whose_size_does_not_tell_is_turned_everywhere_and_warned_of(coco, tmp_path, orientation):
    side = HEIGHT
    found = content(*(thing(n, image=i) for n, i in enumerate((3, 5, 7))), images=(3, 5, 7))
    found["images"][1].update(width=side)
    data = coco(found, found)
    for part in ("train", "val"):
        photograph(tmp_path / part / "5.png", orientation, size=(side, side))
    message = r"^Coco: cameras have marked .*{}\.json as .*: 1 turned upright, as prediction does \(in 5\.png\)\. If"
    with pytest.warns(UserWarning, match=message.format("train")):
        train = data.split(train=True)
    with pytest.warns(UserWarning, match=message.format("val")):
        val = data.split(train=False)
    images = [train[1][0], val[1][0], data.with_targets()[1][0], data.named()[1][0]]  # not warned of again
    images.append(data.image_files(tmp_path / "val" / "5.png")[0][0])
    for image in images:
        assert inside(image) == (1, 0)


def test_a_photograph_with_transparent_parts_is_turned_too(coco, tmp_path):
    found = content(thing(1))
    data = coco(found, found)
    photograph(tmp_path / "val" / "7.png", 6)
    with Image.open(tmp_path / "val" / "7.png") as file:
        seen, exif = file.convert("RGBA"), file.getexif()
    seen.putpixel((0, 0), (0, 0, 0, 128))
    seen.save(tmp_path / "val" / "7.png", exif=exif)
    assert inside(data.split(train=False)[0][0]) == pytest.approx((1, 0), abs=0.01)


def test_a_photograph_that_was_annotated_as_it_is_stored_is_kept_and_warned_of(coco, tmp_path):
    data = coco(content(thing(1)))
    photograph(tmp_path / "train" / "7.png", 6, size=(HEIGHT, WIDTH), box=(3, 23, 6, 5))
    with pytest.warns(UserWarning, match=r"1 kept as they are stored, since only then .* size \(in 7\.png\)"):
        split = data.split(train=True)
    assert inside(split[0][0], (23, 11, 5, 6)) == (1, 0)


def test_damaged_marks_of_a_camera_are_ignored(coco, tmp_path):
    data = coco(content(thing(1)))
    damaged = PngInfo()
    damaged.add_text("Raw profile type exif", "\nexif\n 2\nnot hexadecimal")
    Image.fromarray(pixels(7)).save(tmp_path / "train" / "7.png", pnginfo=damaged)
    assert data.split(train=True)[0][0].shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("side", [0, 1e-30, 1e-6, 1e-5, 0.009])
@pytest.mark.parametrize("across", [False, True])
def test_a_box_that_vanishes_in_float32_or_by_scaling_is_left_out(coco, side, across):
    thin = [2, 10.3, 5, side] if across else [22.3, 3, side, 5]
    found = content(thing(1), thing(2, box=thin))
    with pytest.warns(UserWarning, match=r"leaves out 1 boxes without area in their image \(in 7\.png\) of"):
        split = coco(found, masks=False).split(train=True)
    assert split[0][1]["boxes"].tolist() == [[2, 3, 7, 9]]


def test_a_box_that_only_touches_its_image_is_left_out(coco):
    found = content(thing(1), thing(2, box=[WIDTH - 1e-9, 3, 5, 5]), thing(3, box=[-5, 3, 5 + 1e-9, 5]))
    with pytest.warns(UserWarning, match=r"leaves out 2 boxes without area in their image"):
        split = coco(found, masks=False).split(train=True)
    assert len(split[0][1]["boxes"]) == 1


def test_thin_boxes_that_remain_keep_their_sides_in_every_scale(coco):
    found = content(thing(1, box=[28.3, 3, 0.011, 5]))
    boxes = coco(found, masks=False, flip=1.0).split(train=True)[0][1]["boxes"]
    for scale in (1e-3, 0.1, 3.3, 40):
        left, _, right, _ = (boxes * scale)[0].tolist()
        assert right > left


def test_a_mask_without_pixels_is_an_empty_one(coco):
    between_the_centres_of_two_rows = [[2, 3.6, 7, 3.6, 7, 3.9, 2, 3.9]]
    split = coco(content(thing(1), thing(2, segmentation=between_the_centres_of_two_rows))).split(train=True)
    assert split[0][1]["masks"].sum(dim=(1, 2)).tolist() == [30, 0]


def test_objects_that_metrics_must_count_as_missed_are_warned_of(coco):
    found = content(
        thing(1), thing(2, image=3), thing(3, image=3), thing(4, box=[5, 5, 0, 4]), thing(5, image=5, iscrowd=1),
        thing(6, image=5, iscrowd=1), thing(7, image=5, box=[WIDTH, 5, 4, 4]), thing(8, category=9), images=(3, 5, 7),
    )  # fmt: skip
    message = (
        r"Coco: .*val\.json has 1 objects that come twice \(in 3\.png\), 2 boxes without area in their image "
        r"\(in 7\.png, 5\.png\), which metrics count as missed whatever a detector finds\. Correct or remove them\."
    )
    with pytest.warns(UserWarning, match=message):
        coco(content(thing(1)), found).ground_truth()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, y, w, h: [x, y, x + w, y + h],
            r"Coco: 8 of 8 boxes of .*train\.json do not fit .* \(in 7\.png\)\. It seems that right and lower sides",
        ),
        (
            lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT],
            r"8 of 8 boxes of .*train\.json .* they are given as shares of the image\. Boxes must be x, y, width",
        ),
    ],
    ids=["corners", "shares"],
)
def test_boxes_in_other_units_are_warned_of(coco, change, message):
    boxes = [[14 + n, 9 + n, 6, 3] for n in range(8)]
    data = coco(content(*(thing(n, box=box) for n, box in enumerate(boxes))))
    assert len(data.split(train=True)) == 1
    data = coco(content(*(thing(n, bbox=change(*box)) for n, box in enumerate(boxes))), masks=False)
    with pytest.warns(UserWarning, match=message):
        data.split(train=True)


@pytest.mark.parametrize(
    ("name", "on_disk"),
    [("sub\\7.png", "sub/7.png"), ("SUB\\a\\7.PNG", "sub/a/7.png"), ("7.png", "7.PNG"), ("sub\\7.png", "sub\\7.png")],
)
def test_names_of_windows_lead_to_the_images(coco, tmp_path, name, on_disk):
    found = content(thing(1))
    found["images"][0]["file_name"] = name
    data = coco(found, found)
    for part in ("train", "val"):
        path = tmp_path / part / on_disk
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part / "7.png").rename(path)
    data.setup("fit")
    assert data.split(train=True)[0][0].shape == (3, HEIGHT, WIDTH)
    assert data.named()[0][1] == str(tmp_path / "val" / on_disk)


def test_a_name_that_two_files_answer_to_is_not_guessed(coco, tmp_path):
    found = content(thing(1))
    found["images"][0]["file_name"] = "A.png"
    data = coco(found)
    for name in ("a.PNG", "a.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "train" / name)
    with pytest.raises(FileNotFoundError, match=r"train/A\.png, image 7 of .* is missing"):
        data.split(train=True)


@pytest.mark.parametrize("part", ["train", "val"])
def test_missing_images_of_both_splits_are_found_before_the_first_epoch(coco, tmp_path, part):
    found = content(*(thing(n, image=n) for n in (3, 5, 7)), images=(3, 5, 7))
    data = coco(found, found)
    (tmp_path / part / "3.png").unlink()
    (tmp_path / part / "7.png").write_text("not an image")
    message = rf"{part}/3\.png, image 3 of .*{part}\.json, is missing\. .* 1 more of the 3 images cannot be"
    with pytest.raises(FileNotFoundError, match=message):
        data.setup("fit")


def test_that_many_images_are_sound_is_remembered_until_something_changes(coco, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_looks, "_MANY", 1)
    looked = []
    look = _annotated._look
    monkeypatch.setattr(_annotated, "_look", lambda *given: looked.append(given) or look(*given))
    data = coco(content(thing(1)))
    photograph(tmp_path / "train" / "7.png", 3)

    def open_again():
        again = Coco(str(tmp_path), "train.json", "train", "val.json", "val", num_workers=0)
        with pytest.warns(UserWarning, match=r"1 turned upright, as prediction does \(in 7\.png\)"):
            again.split(train=True)

    for _ in range(2):
        open_again()
        assert len(looked) == 1
    (memory,) = (tmp_path / "cache" / "tiedconv").iterdir()
    memory.write_text("damaged")
    open_again()
    assert len(looked) == 2
    os.utime(tmp_path / "train", (1, 1))
    (tmp_path / "train" / "7.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train/7\.png, image 7 of .* is missing"):
        data.split(train=True)


def test_an_area_that_is_not_given_is_the_boxs(coco):
    without = thing(1)
    del without["area"]
    data = coco(content(without), content(thing(2, area=None)))
    assert data.split(train=True)[0][1]["area"].tolist() == [BOX[2] * BOX[3]]
    assert data.ground_truth()["annotations"][0]["area"] == BOX[2] * BOX[3]
