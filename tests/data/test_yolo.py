"""YOLO's text files and data.yaml, on images of 40 x 20 pixels."""

import os

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from tests.data.test_detection import inside, photograph

from tiedconv.data import Yolo, _looks

WIDTH, HEIGHT = 40, 20
BOX = "1 0.5 0.5 0.25 0.5"
PIXELS = [15, 5, 10, 10]  # x, y, width, height of BOX
YAML = "train: images/train\nval: images/val\nnames: [ant, bee]\n"


def image_file(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 0, 0)).save(path)


def label_file(path, text=BOX):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_yolo(root, text=BOX, yaml=YAML):
    """Write one image per split in the layout of Ultralytics, that of validation with a box."""
    for part, labels in (("train", text), ("val", BOX)):
        image_file(root / "images" / part / "a.png")
        label_file(root / "labels" / part / "a.txt", labels)
    (root / "data.yaml").write_bytes(yaml.encode())
    return root


def yolo(root, **options):
    return Yolo(str(root), **{"num_workers": 0, "flip": 0.0, **options})


def test_boxes_hold_exactly_the_objects_pixels(tmp_path):
    data = yolo(write_yolo(tmp_path, "0 0.25 0.3 0.2 0.2\n" + BOX))
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[4:8, 6:14] = 255
    Image.fromarray(pixels).save(tmp_path / "images" / "train" / "a.png")
    image, target = data.split(train=True)[0]
    x1, y1, x2, y2 = target["boxes"][0].round().int().tolist()
    assert image[:, y1:y2, x1:x2].min() == 1
    assert image.sum() == 3 * (x2 - x1) * (y2 - y1)
    assert_allclose(target["boxes"][1], [15, 5, 25, 15])
    assert_allclose(target["area"], [32, 100])
    assert target["labels"].tolist() == [1, 2]
    assert "masks" not in target
    assert (data.classes, data.category_ids, data.num_classes) == (["ant", "bee"], [0, 1], 3)
    assert data.ground_truth()["annotations"][0]["bbox"] == PIXELS


def test_outlines_are_masks_or_the_boxes_around_them(tmp_path):
    write_yolo(tmp_path, "0 0.25 0.1 0.75 0.1 0.75 0.6 0.5 0.6 0.5 0.3 0.25 0.3")
    (tmp_path / "labels" / "val" / "a.txt").write_text("1 -0.004 0 0.5 0 0.5 1.004 0 1")
    data = yolo(tmp_path, masks=True)
    expected = np.zeros((HEIGHT, WIDTH))
    expected[2:6, 10:30] = 1
    expected[6:12, 20:30] = 1
    for target in (data.split(train=True)[0][1], yolo(tmp_path).split(train=True)[0][1]):
        assert_allclose(target["boxes"], [[10, 2, 30, 12]])
        assert_allclose(target["area"], [expected.sum()])
    assert data.split(train=True)[0][1]["masks"][0].tolist() == expected.tolist()
    truth = data.ground_truth()["annotations"][0]
    assert (truth["bbox"], truth["area"]) == ([0, 0, 20, 20], 400)  # what rounding put outside is cut off


def test_an_image_without_a_label_file_is_a_background(tmp_path):
    write_yolo(tmp_path)
    for part in ("train", "val"):
        image_file(tmp_path / "images" / part / "b.png")
        label_file(tmp_path / "labels" / part / "c.txt", "")
        image_file(tmp_path / "images" / part / "c.png")
    data = yolo(tmp_path)
    with pytest.warns(UserWarning, match=r"leaves out 2 images without objects of .*data\.yaml"):
        assert len(data.split(train=True)) == 1
    assert len(data.split(train=False)) == 3


def test_labels_of_no_image_are_counted(tmp_path):
    write_yolo(tmp_path)
    label_file(tmp_path / "labels" / "train" / "lost.txt")
    label_file(tmp_path / "labels" / "train" / "classes.txt", "ant\nbee\n")
    with pytest.warns(UserWarning, match=r"Yolo: 1 label files have no image in .*images/train and .* \(lost\.txt\)"):
        yolo(tmp_path).split(train=True)


@pytest.mark.parametrize(
    "yaml",
    [
        YAML,
        "path: .\n" + YAML + "nc: 2\n",
        "path: ../elsewhere\n" + YAML,
        "path: C:\\Users\\me\\bees\n" + YAML,
        "train: ../images/train\nval: [../images/val]\nnames: {0: ant, 1: bee}\n",
        "train: /content/bees/images/train\nvalidation: ./images/val/\nnames: {'1': bee, '0': ant}\n",
        "train: D:\\bees\\images\\train\nval: Images\\VAL\nnames: [ant, bee]\nkpt_shape: null\n",
        "\ufeff" + YAML.replace("\n", "\r\n\r\n"),
        YAML.replace("images/train", "train.txt").replace("images/val", "[val.txt]"),
    ],
    ids=["plain", "path", "no path", "Windows path", "Roboflow", "absolute", "backslashes", "BOM", "lists"],
)
def test_paths_are_read_as_what_they_mean(tmp_path, yaml):
    write_yolo(tmp_path, yaml=yaml)
    (tmp_path / "train.txt").write_bytes("\ufeff./images/train/a.png\r\n\r\n".encode())
    (tmp_path / "val.txt").write_text("data\\images\\val\\A.PNG\n")
    data = yolo(tmp_path)
    assert data.classes == ["ant", "bee"]
    assert data.named()[0][1] == str(tmp_path / "images" / "val" / "a.png")
    assert len(data.split(train=True)[0][1]["boxes"]) == 1


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("train/a.JPG", "train/a.txt"),
        ("images/train/sub/a.b.jpg", "labels/train/sub/a.b.TXT"),
        ("train/images/images/a.bmp", "train/images/labels/a.txt"),
        ("images/train/a.jpg", "images/train/a.txt"),
    ],
)
def test_labels_are_found_in_every_layout(tmp_path, image, label):
    write_yolo(tmp_path, yaml=YAML.replace("images/train", image.rpartition("/")[0]))
    (tmp_path / "labels" / "train" / "a.txt").unlink()
    (tmp_path / "images" / "train" / "a.png").unlink()
    image_file(tmp_path / image)
    label_file(tmp_path / label, f"\ufeff\r\n{BOX}\r\n\r\n")
    data = yolo(tmp_path)
    data.setup("fit")
    assert_allclose(data.split(train=True)[0][1]["boxes"], [[15, 5, 25, 15]])


def test_several_folders_and_other_splits(tmp_path):
    write_yolo(
        tmp_path, yaml="train: [images/train, more/images]\nval: images/val\ntest: images/train\nnames: [a, b]\n"
    )
    image_file(tmp_path / "more" / "images" / "a.png", (80, 40))
    label_file(tmp_path / "more" / "labels" / "a.txt")
    data = yolo(tmp_path, val_set="test")
    with pytest.warns(UserWarning, match=r"Yolo: 1 images are in both splits \(.*images/train/a\.png\)\. Metrics"):
        split = data.split(train=True)
    assert [target["boxes"].tolist() for _, target in split] == [[[15, 5, 25, 15]], [[30, 10, 50, 30]]]
    assert data.named()[0][1] == str(tmp_path / "images" / "train" / "a.png")


def test_keypoints_are_left_out(tmp_path):
    write_yolo(tmp_path, BOX + " 0.1 0.2 0.3 0.4 0.5 0.6", YAML + "kpt_shape: [3, 2]\n")
    assert_allclose(yolo(tmp_path).split(train=True)[0][1]["boxes"], [[15, 5, 25, 15]])


def test_shares_are_of_the_upright_photograph(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "images" / "train" / "a.png").unlink()
    photograph(tmp_path / "images" / "train" / "a.jpg", 6, (WIDTH, HEIGHT), PIXELS)  # stored as 20 x 40 pixels
    image, target = yolo(tmp_path).split(train=True)[0]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert_allclose(target["boxes"], [[15, 5, 25, 15]])
    shown, around = inside(image, PIXELS)
    assert shown > 0.9
    assert around < 0.1


def test_sizes_of_many_images_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_looks, "_MANY", 1)
    write_yolo(tmp_path)
    first = yolo(tmp_path).ground_truth()
    with monkeypatch.context() as patch:
        patch.setattr("tiedconv.data.yolo.upright_size", None)  # which a look would call
        assert yolo(tmp_path).ground_truth() == first
    image_file(tmp_path / "images" / "val" / "a.png", (2 * WIDTH, 2 * HEIGHT))  # in place: the folder stays as it was
    os.utime(tmp_path / "images" / "val" / "a.png", (1, 1))  # whatever the clock's steps are
    changed = yolo(tmp_path).ground_truth()
    assert changed["images"][0]["width"] == 2 * WIDTH


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.25 0.5", r"line 2 of .*train/a\.txt has the class 2\. .*data\.yaml names the classes 0 to 1"),
        ("-1 0.5 0.5 0.25 0.5", "has the class -1"),
        ("0.5 0.5 0.5 0.25 0.5", "has the class 0.5"),
        ("nan 0.5 0.5 0.25 0.5", "has the class nan"),
        ("bee 0.5 0.5 0.25 0.5", r"line 2 of .* Expected five numbers, class x y width height, or a class and"),
        ("1 0.5 0.5 0.25", "Expected five numbers"),
        ("1 0.5 0.5 0.25 0.5 0.9", "Expected five numbers"),  # a confidence, which annotations do not have
        ("1 0.1 0.1 0.5 0.1 0.5 0.5 0.1", "Expected five numbers"),
        ("1,0.5,0.5,0.25,0.5", "Expected five numbers"),
        ("1 20 10 10 10", r"line 2 of .* is '1 20 10 10 10'\. Expected shares .* divide pixels by its size"),
        ("1 0.5 0.5 -0.005 0.5", "Expected shares"),
        ("1 0.5 nan 0.25 0.5", "Expected shares"),
        ("1 0.5 inf 0.25 0.5", "Expected shares"),
        ("1 0.1 0.1 0.5 0.1 0.5 1.02", "Expected shares"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        yolo(write_yolo(tmp_path, f"{BOX}\n{line}\n")).split(train=True)


def test_masks_need_outlines(tmp_path):
    with pytest.raises(ValueError, match=r"line 1 of .*a\.txt is a box, but masks need outlines\. Set masks to false"):
        yolo(write_yolo(tmp_path), masks=True).split(train=True)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("[ant, bee]", r"data\.yaml: it must have keys such as names, train and val, got \['ant', 'bee'\]"),
        ('path: "C:\\Users"', r"data\.yaml: it is not YAML: .*line 1.* Write paths with / or without quotation marks"),
        (YAML.replace("[ant, bee]", "ant"), "has 'ant' as names. Expected a list of the classes"),
        (YAML.replace("[ant, bee]", "[]"), r"has \[\] as names"),
        (YAML.replace("[ant, bee]", "{0: ant, 2: bee}"), "by the numbers 0, 1, 2 and so on without gaps"),
        (YAML.replace("ant", "yes"), "has True among its names. .* put yes, no, on and off into quotes"),
        (YAML + "nc: 3", "has nc: 3, but 2 names"),
        (b"names: [caf\xe9]", r"data\.yaml: it is not YAML"),
    ],
)
def test_a_broken_data_yaml_is_named(tmp_path, yaml, message):
    (tmp_path / "data.yaml").write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
    with pytest.raises(ValueError, match=f"Yolo: .*{message}"):
        yolo(tmp_path)


def test_another_yaml_file_is_read_if_it_is_given(tmp_path):
    (write_yolo(tmp_path) / "data.yaml").rename(tmp_path / "bees.yml")
    with pytest.raises(FileNotFoundError, match=r"data\.yaml: it does not exist\. There is bees\.yml\. Set root to"):
        yolo(tmp_path)
    assert yolo(tmp_path / "bees.yml").classes == ["ant", "bee"]


@pytest.mark.parametrize(
    ("yaml", "error", "message"),
    [
        (
            YAML.replace("train: ", "images: "),
            ValueError,
            r"has None as train\. .* Its keys are images, val, names: set",
        ),
        (YAML.replace("images/train", "3"), ValueError, "has 3 as train. Expected a folder"),
        (YAML.replace("images/train", "/a/b/c"), FileNotFoundError, r"yaml: /a/b/c is missing; this file names it as"),
        (YAML.replace("images/train", "empty"), FileNotFoundError, r"data\.yaml: its train, empty, has no image"),
        (
            YAML.replace("images/train", "list.txt"),
            FileNotFoundError,
            r"b\.png is missing; line 2 of .*list\.txt names",
        ),
        (YAML.replace("images/train", "bare/images"), FileNotFoundError, r"none of the 1 images of train in .* Expect"),
    ],
)
def test_missing_parts_are_named(tmp_path, yaml, error, message):
    write_yolo(tmp_path, yaml=yaml)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("images/train/a.png\nimages/train/b.png\n")
    image_file(tmp_path / "bare" / "images" / "a.png")
    with pytest.raises(error, match=message):
        yolo(tmp_path).split(train=True)


def test_a_damaged_image_is_named_before_training(tmp_path):
    (write_yolo(tmp_path) / "images" / "val" / "a.png").write_bytes(b"")
    with pytest.raises(OSError, match=r"val/a\.png cannot be read as an image"):
        yolo(tmp_path).setup("fit")
