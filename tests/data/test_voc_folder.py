"""XML files of VOC's form with classes of one's own, in the layouts that tools write."""

import pytest
from numpy.testing import assert_allclose
from PIL import Image
from tests.data.test_voc import HEIGHT, WIDTH, voc_object

from tiedconv.data import VocFolder

BEE, ANT = voc_object("bee", 5, 5, 40, 35), voc_object("red ant", 1, 2, 11, 12)
SIZE = f"<width>{WIDTH}</width><height>{HEIGHT}</height>"


def annotate(root, xml, image=None, objects=(BEE,), size=SIZE, filename=""):
    """Write an XML file and, unless it is "", its image, which by default is beside it."""
    path = root / xml
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{filename}</filename><size>{size}</size>{''.join(objects)}</annotation>")
    if image != "":
        photo = root / (image or path.with_suffix(".jpg"))
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(photo)


def voc(root, **options):
    return VocFolder(str(root), **{"num_workers": 0, "flip": 0.0, **options})


def files(data, train):
    return [image["file_name"] for image in data.annotated(train).annotations["images"]]


def test_classes_are_those_of_both_splits_and_corners_are_taken_as_they_are(tmp_path):
    annotate(tmp_path, "train/a.xml", objects=[ANT, voc_object("bee", 0, 0.5, WIDTH, HEIGHT)])
    annotate(tmp_path, "val/b.xml", objects=[voc_object("Wasp", 5, 5, 40, 35)])
    data = voc(tmp_path)
    data.setup("fit")
    assert (data.classes, data.category_ids, data.num_classes) == (["Wasp", "bee", "red ant"], [1, 2, 3], 4)
    image, target = data.split(train=True)[0]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert_allclose(target["boxes"], [[1, 2, 11, 12], [0, 0.5, WIDTH, HEIGHT]])
    assert_allclose(target["area"], [100, WIDTH * (HEIGHT - 0.5)])
    assert target["labels"].tolist() == [3, 2]


@pytest.mark.parametrize(
    "places",
    [
        {"train/a.xml": "train/a.jpg", "valid/b.xml": "valid/b.jpg"},
        {"annotations/train/a.xml": "images/train/a.jpg", "annotations/val/a.xml": "images/val/a.jpg"},
        {"xml/a.XML": "Train/a.JPG", "xml/b.xml": "validation/b.png"},
        {"Train/sub/a.xml": "img/a.jpg", "VAL/b.xml": "img/B.jpg"},
    ],
    ids=["side by side", "apart", "split by images", "split by XML"],
)
def test_folders_are_splits(tmp_path, places):
    for xml, image in places.items():
        annotate(tmp_path, xml, image)
    data = voc(tmp_path)
    train, val = places.values()
    assert (files(data, True), files(data, False)) == ([train], [val])


@pytest.mark.parametrize("folder", ["ImageSets/Main", "imagesets/main", ""])
def test_lists_are_splits(tmp_path, folder):
    for name in ("a", "b 2.v1", "c"):
        annotate(tmp_path, f"Annotations/{name}.xml", f"JPEGImages/{name}.jpg")
    lists = tmp_path / folder
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_bytes("\ufeffSub\\B 2.v1.jpg\r\n\r\na\r\n".encode())
    (lists / "val.txt").write_text("c  1\n")
    data = voc(tmp_path)
    assert (files(data, True), files(data, False)) == (
        ["JPEGImages/b 2.v1.jpg", "JPEGImages/a.jpg"],
        ["JPEGImages/c.jpg"],
    )


def test_splits_may_be_given(tmp_path):
    for name in ("one/a", "one/b", "two/c"):
        annotate(tmp_path, f"{name}.xml")
    (tmp_path / "test.txt").write_text("b\n")
    data = voc(tmp_path, train="two", val="test.txt")
    assert (files(data, True), files(data, False)) == (["two/c.jpg"], ["one/b.jpg"])
    assert files(voc(tmp_path, val="two"), True) == ["one/a.jpg"]  # the others, but not those of the test
    with pytest.raises(FileNotFoundError, match=r"VocFolder: .*three does not exist\. Set val to a text file of names"):
        voc(tmp_path, val="three").classes  # noqa: B018
    with pytest.raises(ValueError, match=r"1 XML files are in both splits \(.*b\.xml\)\. Take them out of one"):
        voc(tmp_path, train="one", val="test.txt").classes  # noqa: B018


def test_test_images_are_not_trained_on(tmp_path):
    for name in ("imgs/a", "imgs/b", "imgs/c", "test/d"):
        annotate(tmp_path, f"{name}.xml")
    assert sorted(files(voc(tmp_path), True) + files(voc(tmp_path), False)) == [f"imgs/{n}.jpg" for n in "abc"]
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb\n")
    assert sorted(files(voc(tmp_path), True) + files(voc(tmp_path), False)) == ["imgs/a.jpg", "imgs/b.jpg"]


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train/train/a", "train/car/b", "val/train/c"):
        annotate(tmp_path / "splits", f"{name}.xml")
    data = voc(tmp_path / "splits")
    assert (files(data, True), files(data, False)) == (["train/car/b.jpg", "train/train/a.jpg"], ["val/train/c.jpg"])
    for name in ("train/a", "car/b", "car/c"):
        annotate(tmp_path / "classes", f"{name}.xml")
    with pytest.raises(ValueError, match=r"2 XML files are beside .*car/b\.xml, .* set train to '\.', which"):
        voc(tmp_path / "classes").classes  # noqa: B018
    data = voc(tmp_path / "classes", train=".")
    assert sorted(files(data, True) + files(data, False)) == ["car/b.jpg", "car/c.jpg", "train/a.jpg"]


def test_a_share_validates_and_stays_as_images_are_added(tmp_path):
    for i in range(10):
        annotate(tmp_path, f"{i}.xml")
    data = voc(tmp_path, val_share=0.3)
    train, val = files(data, True), files(data, False)
    assert (len(train), len(val)) == (7, 3)
    assert sorted(train + val) == [f"{i}.jpg" for i in range(10)]
    assert files(voc(tmp_path, val_share=0.3), False) == val
    annotate(tmp_path, "10.xml")
    assert len(set(files(voc(tmp_path, val_share=0.3), False)) & set(val)) >= 2


def test_an_image_of_another_name_is_found_by_the_filename(tmp_path):
    annotate(tmp_path, "train/one.xml", "train/photo 1.PNG", filename="C:\\photos\\photo 1.PNG")
    annotate(tmp_path, "train/two.xml", "train/two.png", filename="two.jpg")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "train" / "two.jpg")
    annotate(tmp_path, "val/b.xml")
    with pytest.warns(UserWarning, match=r"1 images have no XML file and are not read \(.*two\.png\)\. Annotate them"):
        assert files(voc(tmp_path), True) == ["train/photo 1.PNG", "train/two.jpg"]
    annotate(tmp_path, "train/two.xml", "")
    with pytest.raises(ValueError, match=r"two\.xml may belong to .*two\.jpg, .*two\.png\. Give each image a name"):
        voc(tmp_path).classes  # noqa: B018


def test_hidden_copies_are_not_read(tmp_path):
    annotate(tmp_path, "train/a.xml")
    annotate(tmp_path, "val/b.xml")
    annotate(tmp_path, "__MACOSX/train/._a.xml", "", objects=["<broken"])
    assert files(voc(tmp_path), True) == ["train/a.jpg"]


@pytest.mark.parametrize("size", ["<width>0</width><height>0</height>", "", "<width/><height> </height>"])
def test_a_size_that_is_not_said_is_the_images(tmp_path, size):
    annotate(tmp_path, "train/a.xml", size=size)
    annotate(tmp_path, "val/b.xml")
    assert voc(tmp_path).split(train=True)[0][0].shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objects": [BEE, BEE.replace("bee", " ")]},
            r"object 2 of .*train/a\.xml has the name ''\. Expected the name of",
        ),
        ({"objects": [voc_object("bee", 5, "nan", 40, 35)]}, r"object 1 of .*train/a\.xml has .*bndbox\.ymin = 'nan'"),
        ({"objects": [voc_object("bee", 41, 5, 40, 35)]}, "Expected numbers with xmin <= xmax"),
        ({"objects": [BEE.replace(">0</diff", ">maybe</diff")]}, "has 'maybe' as difficult. Expected 0 or 1"),
        ({"size": "<width>60</width>"}, r"train/a\.xml has size\.width = '60', size\.height = None"),
        ({"objects": ["<object>"]}, r"train/a\.xml is not XML: mismatched tag"),
    ],
)
def test_what_is_broken_is_named(tmp_path, options, message):
    annotate(tmp_path, "train/a.xml", **options)
    annotate(tmp_path, "val/b.xml")
    with pytest.raises(ValueError, match=f"VocFolder: .*{message}"):
        voc(tmp_path).classes  # noqa: B018


def test_other_xml_files_are_refused(tmp_path):
    annotate(tmp_path, "train/a.xml")
    (tmp_path / "train" / "a.xml").write_text("<project/>")
    annotate(tmp_path, "val/b.xml")
    with pytest.raises(ValueError, match=r"a\.xml starts with <project>\. Expected VOC's <annotation>"):
        voc(tmp_path).classes  # noqa: B018


def test_given_classes_are_all_there_are(tmp_path):
    annotate(tmp_path, "train/a.xml", objects=[ANT])
    annotate(tmp_path, "val/b.xml")
    assert voc(tmp_path, class_names=["red ant", "wasp", "bee"]).classes == ["red ant", "wasp", "bee"]
    with pytest.raises(ValueError, match=r"object 1 of .*b\.xml has the name 'bee'\. Expected one of red ant, wasp"):
        voc(tmp_path, class_names=["red ant", "wasp"]).classes  # noqa: B018


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"VocFolder: .*nowhere is not a folder\. Set root"):
        voc(tmp_path / "nowhere").classes  # noqa: B018
    with pytest.raises(FileNotFoundError, match=r"no XML file is below .*\. Set root"):
        voc(tmp_path).classes  # noqa: B018
    annotate(tmp_path, "train/a.xml")
    with pytest.raises(ValueError, match=r"of 1 XML files below .* 0 are for training and 1 for validation"):
        voc(tmp_path).classes  # noqa: B018
    annotate(tmp_path, "val/b.xml", "")
    with pytest.raises(FileNotFoundError, match=r"val/b\.xml has no image of its name below .*\. Add the image"):
        voc(tmp_path).classes  # noqa: B018
    annotate(tmp_path, "val/b.xml")
    (tmp_path / "val.txt").write_text("b\nc\n")
    with pytest.raises(FileNotFoundError, match=r"val\.txt names c, but there is no c\.xml\. Correct the list"):
        voc(tmp_path).classes  # noqa: B018
    with pytest.raises(ValueError, match=r"val_share must be between 0 and 1, got 1\.0"):
        voc(tmp_path, val_share=1.0)
