"""Annotations and indexes of shards with mistakes: data that is sound, or a refusal that names the file."""

import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from tests.data.test_shards import INDEX, SAMPLE, tar_file, with_shard
from tests.data.test_voc import CAT, voc_object, write_voc
from tests.data.test_voc_folder import annotate
from tests.data.test_yolo import BOX, image_file, write_yolo
from tests.fuzz.cases import attempt, damaged, fuzz, mutated

from tiedconv._coco import encode_mask
from tiedconv.data import Coco, StreamedImages, Voc, VocFolder, Yolo, index_shards

WIDTH, HEIGHT = 30, 20
CATEGORIES = [{"id": 9, "name": "cat"}, {"id": 0, "name": "ant"}]
SQUARE = [2, 3, 7, 3, 7, 9, 2, 9]


def thing(number: int, **changes: Any) -> dict[str, Any]:
    box = {"bbox": [2, 3, 5, 6], "area": 30, "iscrowd": 0, "segmentation": [SQUARE]}
    return {"id": number, "image_id": 7, "category_id": 9, **box, **changes}


CONTENT = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (3, 7)],
    "annotations": [
        thing(1),
        thing(2, image_id=3, category_id=0, segmentation={"size": [HEIGHT, WIDTH], "counts": [100, 40, 460]}),
        thing(3, bbox=[0, 0, 20, 20], segmentation=encode_mask(np.eye(HEIGHT, WIDTH))),
        thing(4, bbox=[0.5, 1.25, 40, 3], segmentation=[SQUARE, [1, 1, 2, 2, 3, 1]]),
    ],
    "categories": CATEGORIES,
}
TEXT = json.dumps(CONTENT).encode()
JUNK_TEXTS = [
    b"", b"\xef\xbb\xbf" + TEXT, TEXT.decode().encode("utf-16"), b"[" * 20_000, b'{"a":' * 5000, b"9" * 6000,
    b"NaN", b"null", b'"images"', TEXT.replace(b"30", b"9" * 5000), TEXT.replace(b"0.5", b"1e999"),
    TEXT.replace(b"0.png", b"\\ud800.png"), TEXT.replace(b'"7.png"', b'"a\\u0000b.png"'),
    TEXT.replace(b'"7.png"', b'"' + b"x" * 5000 + b'"'), TEXT.replace(b'"7.png"', b'"."'),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for number in (3, 7):
        Image.new("RGB", (WIDTH, HEIGHT), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "whole.json").write_bytes(TEXT)
    return tmp_path


def check_items(data: Any, train: bool, masks: bool) -> None:
    """Read every image of a split and check what a detector relies on."""
    for image, target in data.split(train):
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        if not train:
            continue
        boxes, count = target["boxes"], len(target["boxes"])
        height, width = image.shape[1:]
        assert torch.isfinite(boxes).all()
        assert (boxes[:, :2] < boxes[:, 2:]).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height] * 2)).all()
        assert ((target["labels"] >= 1) & (target["labels"] < data.num_classes)).all()
        assert not target["area"].isnan().any()
        assert not masks or target["masks"].shape == (count, height, width)


def read_coco(folder: Any, broken: str, masks: bool) -> None:
    files = {"train": "whole.json", "val": "whole.json", broken: "broken.json"}
    options = {"train_annotations": files["train"], "val_annotations": files["val"], "num_workers": 0}
    data = Coco(str(folder), **options, masks=masks, flip=0.5)
    for train in (False, True):
        check_items(data, train, masks)
    truth = data.ground_truth()
    assert all(isinstance(name, str) for name in data.classes)
    assert all(math.isfinite(a["area"]) for a in truth["annotations"])


COCO = st.one_of(
    mutated(CONTENT).map(lambda content: json.dumps(content).encode()),
    mutated(CONTENT).map(lambda content: json.dumps(content).encode()),
    damaged(TEXT),
    st.sampled_from(JUNK_TEXTS),
)


@fuzz(50, text=COCO, broken=st.sampled_from(["train", "val"]), masks=st.booleans())
def test_a_coco_file_is_read_or_refused(folder, text, broken, masks):
    (folder / "broken.json").write_bytes(text)
    attempt(lambda: read_coco(folder, broken, masks), "broken.json")


XML = (
    f"<annotation><filename>000005.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>{CAT}"
    f"{voc_object('dog', 2.5, 3, 20, 30, difficult=1)}</annotation>"
)
PARTS = [
    "", "<a>", "</object>", "<name>cat</name>", "nan", "inf", "-5", "1e400", "9" * 400, "٣", "1_0", " 7 ",
    "0x10", "&lt;b&gt;",
    "&nope;", "<!-- -->", "\u202e", "<bndbox/>", "<xmin>1</xmin>", "\x00", "]]>", "cat\n",
]  # fmt: skip
HEADS = [
    '<?xml version="1.0" encoding="nope"?>', '<?xml version="1.0" encoding="utf-16"?>', "<!DOCTYPE a>", "\ufeff",
    '<!DOCTYPE a [<!ENTITY b "' + "c" * 99 + '"><!ENTITY d "' + "&b;" * 99 + '">]>', "<?xml?>", "\n",
]  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Draw an XML file with words of it replaced, a strange head, or damaged bytes."""
    text = XML
    for _ in range(draw(st.integers(1, 3))):
        words = list(re.finditer(r"<[^>]+>|[^<>]+", text))
        word = draw(st.sampled_from(words))
        text = text[: word.start()] + draw(st.sampled_from(PARTS)) + text[word.end() :]
    what = draw(st.sampled_from(["words", "words", "head", "bytes"]))
    if what == "head":
        text = draw(st.sampled_from(HEADS)) + text
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1"])), "replace")
    return draw(damaged(XML.encode())) if what == "bytes" else content


def read_both(data: Any, masks: bool = False) -> None:
    check_items(data, False, masks)
    check_items(data, True, masks)
    assert all(isinstance(name, str) for name in data.classes)
    assert all(math.isfinite(a["area"]) for a in data.ground_truth()["annotations"])


def read_voc(folder: Any) -> None:
    read_both(Voc(str(folder), num_workers=0))


@fuzz(40, text=documents())
def test_a_voc_file_is_read_or_refused(tmp_path, text):
    if not (tmp_path / "VOCdevkit").is_dir():
        write_voc(tmp_path, "trainval", {"000001": [CAT]})
        write_voc(tmp_path, "test", {"000005": [CAT]})
    (tmp_path / "VOCdevkit" / "VOC2007" / "Annotations" / "000005.xml").write_bytes(text)
    attempt(lambda: read_voc(tmp_path), "000005")


@fuzz(
    8, names=st.lists(st.sampled_from(["000005", "", " ", "../000005", "x y", "000005 1", "<b>", "\u202e"]), max_size=4)
)
def test_a_list_of_voc_images_is_read_or_refused(tmp_path, names):
    write_voc(tmp_path, "trainval", {"000005": [CAT]})
    write_voc(tmp_path, "test", {"000005": [CAT]})
    listed = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    listed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    attempt(lambda: read_voc(tmp_path), "Voc")


@fuzz(30, text=documents(), train=st.booleans())
def test_an_xml_file_of_ones_own_classes_is_read_or_refused(tmp_path, text, train):
    for part in ("train", "val"):
        annotate(tmp_path, f"{part}/{part}.xml", objects=[CAT])
    broken = "train" if train else "val"
    (tmp_path / broken / f"{broken}.xml").write_bytes(text)
    Image.new("RGB", (60, 40)).save(tmp_path / broken / f"{broken}.jpg")
    attempt(lambda: read_both(VocFolder(str(tmp_path), num_workers=0)), f"{broken}.xml", "XML files", str(tmp_path))


TREE_PARTS = ["train", "Val", "valid", "images", "a", "a.v1", "A", "b 1", ".hidden", "é", "\u202e"]
TREE_FILES = st.tuples(
    st.lists(st.sampled_from(TREE_PARTS), min_size=1, max_size=3),
    st.sampled_from([".xml", ".XML", ".jpg", ".JPG", ".png", ".txt"]),
)


@fuzz(30, files=st.lists(TREE_FILES, max_size=8), listed=st.lists(st.sampled_from(TREE_PARTS), max_size=3))
def test_a_tree_of_voc_files_is_read_or_refused(tmp_path_factory, files, listed):
    folder = tmp_path_factory.mktemp("tree")
    for parts, suffix in files:
        path = folder.joinpath(*parts).with_name(parts[-1] + suffix)
        if suffix.lower() == ".xml":
            annotate(folder, str(path.relative_to(folder)), "", objects=[CAT])
        elif suffix == ".txt":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(listed), encoding="utf-8")
        else:
            image_file(path, (60, 40))
    attempt(lambda: read_both(VocFolder(str(folder), num_workers=0)), str(folder))


NUMBERS = st.sampled_from(
    ["0", "1", "0.5", "0.25", "1e-3", "1.004", "-0.004", "1.5", "-1", "nan", "inf", "1e400", "9" * 400, "0x1", "",
     "1,5", "\u0663", "bee", "0.0"]
)  # fmt: skip
LINES = st.lists(NUMBERS, max_size=11).map(" ".join)
SPACES = st.sampled_from(["\n", "\r\n", "\n\n", "\x85", "\t\n"])
YOLO_TEXTS = st.one_of(
    st.tuples(st.lists(st.one_of(LINES, st.just(BOX)), max_size=4), SPACES).map(lambda t: t[1].join(t[0]).encode()),
    st.tuples(st.sampled_from(["utf-8-sig", "utf-16", "latin-1"]), LINES).map(lambda t: t[1].encode(t[0], "replace")),
    damaged(BOX.encode()),
    damaged(b"0 0.25 0.1 0.75 0.1 0.75 0.6 0.25 0.6\n"),
)


@fuzz(60, text=YOLO_TEXTS, masks=st.booleans())
def test_a_yolo_label_file_is_read_or_refused(tmp_path, text, masks):
    if not (tmp_path / "labels").is_dir():
        write_yolo(tmp_path)
        (tmp_path / "labels" / "val" / "a.txt").write_text("1 0.1 0.1 0.6 0.1 0.6 0.6")
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(text)
    data = Yolo(str(tmp_path), num_workers=0, masks=masks)
    attempt(lambda: read_both(data, masks), "a.txt", "data.yaml")


DATA_YAML = {"path": ".", "train": "images/train", "val": ["images/val"], "names": {"0": "ant", "1": "bee"}, "nc": 2}
YAMLS = st.one_of(
    mutated(DATA_YAML).map(lambda content: json.dumps(content).encode()),
    mutated(DATA_YAML).map(lambda content: json.dumps(content).encode()),
    damaged(b"path: .\ntrain: images/train\nval: images/val\nnames: [ant, bee]\n"),
    st.sampled_from(
        [*JUNK_TEXTS, b"a: &a [*a]\nnames: *a", b"!!python/object:os.system {}", b"names: [2020-01-01, x]"]
    ),
)


@fuzz(60, text=YAMLS)
def test_a_data_yaml_is_read_or_refused(tmp_path, text):
    folder = tmp_path / "1" / "2" / "3" / "4" / "5"  # so deep that "../.." in two places does not lead to other data
    if not folder.is_dir():
        write_yolo(folder)
    (folder / "data.yaml").write_bytes(text)
    attempt(lambda: read_both(Yolo(str(folder), num_workers=0)), "data.yaml", str(folder))


def read_shards(folder: Any) -> None:
    data = StreamedImages(str(folder), image_size=16, num_workers=0)
    for train in (True, False):
        for image, label in data.split(train):
            assert image.shape == (3, 16, 16)
            assert 0 <= label < data.num_classes


INDEXES = st.one_of(
    mutated(INDEX).map(lambda index: json.dumps(index).encode()),
    mutated(INDEX).map(lambda index: json.dumps(index).encode()),
    damaged(json.dumps(INDEX).encode()),
    st.sampled_from(JUNK_TEXTS),
)


@fuzz(50, text=INDEXES)
def test_an_index_of_shards_is_read_or_refused(tmp_path, text):
    if not (tmp_path / "train").is_dir():
        with_shard(tmp_path, tar_file(*SAMPLE))
    (tmp_path / "index.json").write_bytes(text)
    # An index can be wrong in ways that only the shards show, which are then named.
    attempt(lambda: read_shards(tmp_path), "index.json", "a.tar")


@fuzz(24, content=damaged(tar_file(*SAMPLE)))
def test_a_shard_is_read_or_refused(tmp_path, content):
    if not (tmp_path / "train").is_dir():
        with_shard(tmp_path, content)
    (tmp_path / "train" / "a.tar").write_bytes(content)
    attempt(lambda: (index_shards(str(tmp_path), ["black", "white"]), read_shards(tmp_path)), "train/a.tar")


@pytest.mark.filterwarnings("ignore:Coco. 2 images are in both splits:UserWarning")
def test_the_cases_start_from_what_is_sound(folder, tmp_path):
    index_shards(with_shard(tmp_path / "shards", tar_file(*SAMPLE)), ["black", "white"])
    read_shards(tmp_path / "shards")
    (folder / "broken.json").write_bytes(TEXT)
    for masks in (False, True):
        read_coco(folder, "val", masks)
    write_voc(tmp_path, "trainval", {"000001": [CAT]})
    folder = write_voc(tmp_path, "test", {"000005": []})
    (folder / "Annotations" / "000005.xml").write_text(XML)
    read_voc(tmp_path)
    annotate(tmp_path / "own", "train/a.xml", objects=[CAT])
    annotate(tmp_path / "own", "val/b.xml", objects=[CAT])
    read_both(VocFolder(str(tmp_path / "own"), num_workers=0))
    read_both(Yolo(str(write_yolo(tmp_path / "yolo")), num_workers=0))
    assert np.isclose(Voc(str(tmp_path)).ground_truth()["annotations"][0]["bbox"], [4, 4, 36, 31]).all()
