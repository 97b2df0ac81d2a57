import json
import os

import pytest
import torch
from PIL import Image

from tiedconv.data import Coco

PLACES = ("annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017")


def fill(root, train_annotations, train_images, val_annotations, val_images):
    """One image a split, with an object that covers it; the training image is black, the other one white."""
    for number, (file, images) in enumerate(((train_annotations, train_images), (val_annotations, val_images))):
        image = root / images / "sub" / "0.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (255 * number,) * 3).save(image)
        box = {"id": 1, "image_id": 2, "category_id": 5, "bbox": [0, 0, 8, 6], "segmentation": [[0, 0, 8, 0, 8, 6]]}
        content = {
            "images": [{"id": 2, "file_name": "sub/0.png", "width": 8, "height": 6}],
            "annotations": [box],
            "categories": [{"id": 5, "name": "Gerät"}],
        }
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(root)


def means(data):
    return [data.split(train)[0][0].mean().item() for train in (True, False)]


def test_the_default_layout_is_that_of_coco_2017(tmp_path):
    data = Coco(fill(tmp_path, *PLACES), masks=False)
    assert means(data) == [0, 1]
    assert data.classes == ["Gerät"]


def test_the_default_root_is_relative_to_where_one_is(tmp_path, monkeypatch):
    fill(tmp_path / "data" / "coco", *PLACES)
    monkeypatch.chdir(tmp_path)
    assert means(Coco(masks=False)) == [0, 1]


def test_every_place_can_be_chosen(tmp_path):
    places = ("a.json", "images of a", "deep/er/b.json", "b")
    options = dict(zip(("train_annotations", "train_images", "val_annotations", "val_images"), places, strict=True))
    assert means(Coco(fill(tmp_path, *places), **options, masks=False)) == [0, 1]


def test_both_splits_may_share_a_folder_and_paths_may_be_absolute(tmp_path):
    fill(tmp_path / "here", "train.json", "all", "val.json", "other")
    places = ("train.json", "all", str(tmp_path / "here" / "val.json"), os.fspath(tmp_path / "here" / "all"))
    with pytest.warns(UserWarning, match=r"Coco: 1 images are in both splits \(.*here/all/sub/0\.png\)\. Metr"):
        assert means(Coco(str(tmp_path / "here"), *places, masks=False)) == [0, 0]


def test_a_split_is_read_only_when_it_is_needed(tmp_path):
    data = Coco(fill(tmp_path, *PLACES), num_workers=0)
    (tmp_path / PLACES[0]).unlink()
    assert data.num_classes == 2
    images, targets = next(iter(data.val_dataloader()))
    assert torch.equal(images[0], torch.ones(3, 6, 8))
    assert targets == [{"image_id": 2}]


@pytest.mark.parametrize(
    "places",
    [
        ("annotations/instances_train.json", "train", "annotations/instances_val.json", "val"),
        ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
    ],
    ids=["without the year", "Roboflow"],
)
def test_other_layouts_are_found_too(tmp_path, places):
    assert means(Coco(fill(tmp_path, *places), masks=False)) == [0, 1]


def test_a_root_of_no_known_layout_is_named_with_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    looked = {
        True: r"annotations/instances_train2017\.json, annotations/instances_train\.json, train/_annotations\.coco",
        False: r"annotations/instances_val2017\.json, annotations/instances_val\.json, valid/_annotations\.coco",
    }
    for train, files in looked.items():
        with pytest.raises(
            FileNotFoundError, match=rf"Coco: none of {files}\.json is in {tmp_path}\. Set root, or train_anno"
        ):
            Coco(str(tmp_path)).annotated(train)


@pytest.mark.parametrize("given", ["train_annotations", "val_annotations", "train_images"])
def test_the_files_of_both_splits_are_given_or_none(tmp_path, given):
    message = r"Coco: train_annotations and val_annotations belong together, and folders of images to them\. Give both"
    with pytest.raises(ValueError, match=message):
        Coco(str(tmp_path), **{given: "a.json"})


@pytest.mark.parametrize(("train", "part"), [(True, "train"), (False, "val")])
def test_a_missing_file_is_named_with_the_option_that_sets_it(tmp_path, train, part):
    data = Coco(fill(tmp_path, *PLACES), *PLACES)
    (tmp_path / f"annotations/instances_{part}2017.json").unlink()
    where = rf"instances_{part}2017\.json does not exist\. Set root and {part}_annotations to the JSON file\."
    with pytest.raises(FileNotFoundError, match=f"Coco: {tmp_path}/annotations/{where}"):
        data.annotated(train)


@pytest.mark.parametrize(("train", "part"), [(True, "train"), (False, "val")])
def test_a_missing_folder_is_named_with_the_option_that_sets_it(tmp_path, train, part):
    data = Coco(fill(tmp_path, *PLACES))
    (tmp_path / f"{part}2017").rename(tmp_path / "elsewhere")
    message = rf"Coco: {tmp_path}/{part}2017 is not a folder\. Set {part}_images to the folder of the images\."
    with pytest.raises(FileNotFoundError, match=message):
        data.annotated(train)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"this is not JSON: Expecting value: line 1"),
        (b'{"images": [', r"this is not JSON: Expecting value: line 1 column 13"),
        (b'{"images": []}\n}', r"this is not JSON: Extra data: line 2 column 1"),
        (b'{"name": "\xff"}', r"this is not JSON: 'utf-8' codec can't decode byte 0xff in position 10"),
        (b"[]", "the ground truth must be a dictionary with the lists"),
        (b"null", "the ground truth must be a dictionary with the lists"),
    ],
    ids=["empty", "cut off", "two", "bytes", "list", "null"],
)
def test_a_file_that_is_no_json_object_is_named(tmp_path, content, message):
    data = Coco(fill(tmp_path, *PLACES))
    (tmp_path / PLACES[2]).write_bytes(content)
    with pytest.raises(ValueError, match=rf"Coco: .*instances_val2017\.json: {message}"):
        data.ground_truth()
