import numpy as np
import pytest
import torch
from PIL import Image

from tiedconv.data import Voc
from tiedconv.detection import build_detector
from tiedconv.metrics.coco import coco_metrics

WIDTH, HEIGHT = 60, 40
PART = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"


def voc_object(name, xmin, ymin, xmax, ymax, difficult=0, more=""):
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox>{more}</object>"
    )


def write_voc(root, image_set, objects, year=2007, size=f"<width>{WIDTH}</width><height>{HEIGHT}</height>"):
    """Write an image set as the archives hold it: ``objects`` gives the XML of the objects of every image."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main" / f"{image_set}.txt").write_text("".join(f"{name}\n" for name in objects))
    for name, content in objects.items():
        size_and_depth = f"<size>{size}<depth>3</depth></size>"
        xml = f"<annotation><filename>{name}.jpg</filename>{size_and_depth}{''.join(content)}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(xml)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / f"{name}.jpg")
    return folder


def voc(root, **options):
    return Voc(str(root), num_workers=0, **options)


def test_boxes_hold_exactly_the_objects_pixels(tmp_path):
    # The white pixels are columns 10 to 29 and rows 5 to 24, which VOC counts from 1.
    folder = write_voc(tmp_path, "trainval", {"000005": [voc_object("chair", 11, 6, 30, 25)]})
    write_voc(tmp_path, "test", {"000001": [voc_object("dog", 1, 1, WIDTH, HEIGHT)]})
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[5:25, 10:30] = 255
    Image.fromarray(pixels).save(folder / "JPEGImages" / "000005.jpg", quality=100)

    data = voc(tmp_path, flip=0.0)
    image, target = data.split(train=True)[0]
    x1, y1, x2, y2 = target["boxes"][0].int().tolist()
    assert image[:, y1:y2, x1:x2].min() > 0.5
    image[:, y1:y2, x1:x2] = 0
    assert image.max() < 0.5
    assert target["labels"].tolist() == [data.classes.index("chair") + 1]
    assert target["area"].tolist() == [20 * 20]
    whole = data.ground_truth()["annotations"][0]
    assert whole["bbox"] == [0, 0, WIDTH, HEIGHT]


def test_classes_are_known_before_the_files_are_there(tmp_path):
    data = voc(tmp_path)
    assert (data.num_classes, len(set(data.classes))) == (21, 20)
    assert data.classes == sorted(data.classes)
    assert data.category_ids == list(range(1, 21))
    assert not data.masks


def test_images_come_in_the_order_of_the_image_set(tmp_path):
    objects = {
        "2008_000009": [voc_object("cow", 3.5, 4, 20.25, 9, more=PART), voc_object("sofa", 7, 7, 7, 7)],
        "2007_000027": [],
        "2011_000001": [voc_object("person", 2, 2, 9, 9, difficult=1)],
    }
    folder = write_voc(tmp_path, "val", objects, year=2012)
    found = voc(tmp_path, year=2012, train_set="train", val_set="val").annotated(train=False)
    assert found.images == folder / "JPEGImages"
    assert [image["file_name"] for image in found.annotations["images"]] == [f"{name}.jpg" for name in objects]
    names = {category["id"]: category["name"] for category in found.annotations["categories"]}
    read = [(a["image_id"], names[a["category_id"]], a["bbox"], a["iscrowd"]) for a in found.annotations["annotations"]]
    assert read == [
        (1, "cow", [2.5, 3, 17.75, 6], 0),
        (1, "sofa", [6, 6, 1, 1], 0),
        (3, "person", [1, 1, 8, 8], 1),
    ]


def test_difficult_objects_neither_train_nor_count(tmp_path):
    objects = {
        "000001": [voc_object("bus", 1, 1, 20, 20), voc_object("bus", 31, 1, 50, 20, difficult=1)],
        "000002": [voc_object("bus", 1, 1, 20, 20, difficult=1)],
    }
    for image_set in ("trainval", "test"):
        write_voc(tmp_path, image_set, objects)
    data = voc(tmp_path)
    with (
        pytest.warns(UserWarning, match="2 images are in both splits"),
        pytest.warns(UserWarning, match="leaves out 2 crowd regions, 1 images without objects of .*trainval.txt"),
    ):
        train = data.split(train=True)
    assert [target["boxes"].tolist() for _, target in train] in ([[[0, 0, 20, 20]]], [[[40, 0, 60, 20]]])

    bus = data.classes.index("bus") + 1
    easy = {"image_id": 1, "category_id": bus, "bbox": [0, 0, 20, 20], "score": 0.5}
    difficult = {**easy, "bbox": [30, 0, 20, 20], "score": 0.9}
    nothing = {**difficult, "bbox": [30, 22, 20, 18]}
    assert coco_metrics(data.ground_truth(), [easy, difficult], "box")["AP"] == pytest.approx(1)
    assert coco_metrics(data.ground_truth(), [easy], "box")["AP"] == pytest.approx(1)
    assert coco_metrics(data.ground_truth(), [easy, nothing], "box")["AP"] == pytest.approx(0.5)


def test_a_detector_trains_on_a_batch(tmp_path):
    objects = [voc_object("cat", 5, 5, 40, 35), voc_object("person", 20, 1, 60, 40)]
    write_voc(tmp_path, "train", {"000001": objects, "000002": objects})
    write_voc(tmp_path, "val", {"000003": objects})
    data = voc(tmp_path, train_set="train", val_set="val")
    images, targets = next(iter(data.train_dataloader()))
    assert [tuple(image.shape) for image in images] == [(3, HEIGHT, WIDTH)] * 2
    assert "masks" not in targets[0]
    model = build_detector("faster_rcnn", backbone="tiedresnet_tiny", num_classes=data.num_classes, min_size=64)
    losses = model(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_classifier"] > 0


CAT = voc_object("cat", 5, 5, 40, 35)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [CAT, voc_object("unicorn", 5, 5, 40, 35)],
            r"object 2 of .*000007\.xml has the name 'unicorn'\. Expected one of aeroplane",
        ),
        ([CAT.replace("<name>cat</name>", "")], r"object 1 of .*000007\.xml has the name ''"),
        ([voc_object("cat", 40, 5, 39, 35)], r"object 1 of .*xmin = '40', .*xmax = '39'.* Expected numbers with xmin"),
        ([voc_object("cat", 5, 5, 40, "")], r"object 1 of .*bndbox\.ymax = ''"),
        ([voc_object("cat", 5, 5, "inf", 35)], r"object 1 of .*bndbox\.xmax = 'inf'"),
        ([voc_object("cat", 5, 5, 40, 1e9)], r"object 1 of .*bndbox\.ymax = '1000000000\.0'.* within a million pixels"),
        ([voc_object("cat", "nan", 5, 40, 35)], r"object 1 of .*bndbox\.xmin = 'nan'"),
        ([CAT.replace(">0</difficult>", ">2</difficult>")], r"object 1 of .* has '2' as difficult\. Expected 0 or 1"),
        ([CAT, CAT.replace("bndbox", "box")], r"object 2 of .*bndbox\.xmin = None"),
        (["<object>"], r"000007\.xml is not XML: mismatched tag.*Replace the file or take it out"),
    ],
)
def test_a_broken_object_is_named(tmp_path, content, message):
    write_voc(tmp_path, "test", {"000005": [CAT], "000007": content})
    with pytest.raises(ValueError, match=message):
        voc(tmp_path).ground_truth()


@pytest.mark.parametrize(
    ("size", "given"),
    [
        ("<width>60</width>", r"size\.width = '60', size\.height = None"),
        ("<width>60</width><height>0</height>", r"size\.height = '0'"),
        ("<width>1e9</width><height>40</height>", r"size\.width = '1e9'"),
        ("<width>60.5</width><height>40</height>", r"size\.width = '60\.5'"),
    ],
)
def test_an_image_without_a_size_is_named(tmp_path, size, given):
    write_voc(tmp_path, "test", {"000005": [CAT]}, size=size)
    with pytest.raises(ValueError, match=rf"000005\.xml has .*{given}.* Expected whole numbers of pixels"):
        voc(tmp_path).ground_truth()


def test_missing_files_are_named_with_the_way_to_get_them(tmp_path):
    expected = r"VOC2007/ImageSets/Main/test\.txt does not exist.*JPEGImages/\*\.jpg.* unpack http.*VOCtest_06-Nov-2007"
    with pytest.raises(FileNotFoundError, match=expected):
        voc(tmp_path).ground_truth()
    folder = write_voc(tmp_path, "trainval", {"000005": [CAT]})
    with pytest.raises(FileNotFoundError, match=expected):  # the archive of the training images alone
        voc(tmp_path).ground_truth()
    (folder / "Annotations" / "000005.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"000005\.xml is missing; .*trainval\.txt names its image"):
        voc(tmp_path).annotated(train=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"year": 2010}, "year must be one of 2007, 2012, got 2010"),
        ({"year": 2012}, "val_set must be one of train, val, trainval in 2012, got 'test'. .* train on train"),
        ({"train_set": "all"}, "train_set must be one of train, val, trainval, test in 2007, got 'all'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Voc(**options)


def test_an_unknown_encoding_is_named(tmp_path):
    folder = write_voc(tmp_path, "test", {"000005": [CAT]})
    xml = folder / "Annotations" / "000005.xml"
    xml.write_text(f'<?xml version="1.0" encoding="nope"?>{xml.read_text()}')
    with pytest.raises(ValueError, match=r"000005\.xml is not XML: unknown encoding: nope\. Replace the file"):
        voc(tmp_path).ground_truth()


@pytest.mark.parametrize(
    "text",
    [
        "000005\n000007\n",
        "\ufeff000005\r\n\r\n000007\r\n\r\n",
        "000005  1\n000007 -1\n",
        "000005 0\n  000007\t1  \n",
        "000005.jpg\n000007.JPG",
    ],
    ids=["plain", "Windows", "flags", "blanks", "suffixes"],
)
def test_lists_are_read_as_what_they_mean(tmp_path, text):
    folder = write_voc(tmp_path, "test", {"000005": [CAT], "000007": [CAT]})
    (folder / "ImageSets" / "Main" / "test.txt").write_bytes(text.encode())
    split = voc(tmp_path).split(train=False)
    assert [split[i][1]["image_id"] for i in range(len(split))] == [1, 2]


def test_files_of_windows_are_found(tmp_path):
    folder = write_voc(tmp_path, "test", {"a b 2.v1": [CAT], "7": [CAT], "9": [CAT]})
    (folder / "ImageSets" / "Main" / "test.txt").write_text("a b 2.v1 1\nSub\\7.jpg -1\n9 1\n")
    for part, suffix, upper in (("Annotations", ".xml", ".XML"), ("JPEGImages", ".jpg", ".JPG")):
        (folder / part / "sub").mkdir()
        (folder / part / f"7{suffix}").rename(folder / part / "sub" / f"7{upper}")
    (folder / "JPEGImages" / "9.jpg").unlink()
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / "9.PNG")
    xml = folder / "Annotations" / "9.xml"
    xml.write_bytes(b"\xef\xbb\xbf" + xml.read_bytes().replace(b"><", b">\r\n<"))
    named = voc(tmp_path).named()
    assert [named[i][1] for i in range(3)] == [
        str(folder / "JPEGImages" / name) for name in ("a b 2.v1.jpg", "sub/7.JPG", "9.PNG")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\r\n \r\n", r"test\.txt names no image\. Give an image set with one name per line"),
        (b"000005 1\n000005 0\n", r"test\.txt names 000005 2 times\. Keep one of these lines"),
        (b"caf\xe9\n", r"test\.txt is not a text in UTF-8: .* Save it as such"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(tmp_path, text, message):
    folder = write_voc(tmp_path, "test", {"000005": [CAT]})
    (folder / "ImageSets" / "Main" / "test.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        voc(tmp_path).ground_truth()


def test_a_number_at_the_end_of_a_name_is_no_flag(tmp_path):
    write_voc(tmp_path, "test", {"photo 1": [CAT], "photo 2": [CAT]})
    images = voc(tmp_path).ground_truth()["images"]
    assert [image["file_name"] for image in images] == ["photo 1.jpg", "photo 2.jpg"]
