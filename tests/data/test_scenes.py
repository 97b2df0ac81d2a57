import dataclasses
import gzip
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from tests.data.test_torchvision_sets import idx_file

from tiedconv.data import FashionMNIST, OcclusionScenes, SceneOptions, _cut_outs
from tiedconv.data.scenes import write_scenes

# pycocotools' decode calls what numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SMALL = SceneOptions(image_size=64, train_images=3, val_images=32, min_size=20, max_size=30)
FEW = dataclasses.replace(SMALL, train_images=2, val_images=2)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes of the options SMALL."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, SMALL)
    return root


def annotations(root, part="val"):
    return json.loads((root / "annotations" / f"instances_{part}.json").read_text())


def decoded(root):
    """Of every validation scene: its pixels, its annotations, and their visible and whole masks (N, H, W)."""
    found = annotations(root)
    for record in found["images"]:
        objects = [a for a in found["annotations"] if a["image_id"] == record["id"]]
        with Image.open(root / "val" / record["file_name"]) as image:
            pixels = np.asarray(image)
        keys = ("segmentation", "amodal_segmentation")
        visible, whole = (np.stack([coco_masks.decode(a[key]) for a in objects]).astype(bool) for key in keys)
        yield pixels, objects, visible, whole


def contents(root):
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_folder_has_what_was_asked_for(scenes):
    files = contents(scenes)
    assert len(files) == 3 + 32 + 3
    assert json.loads(files["scenes.json"]) == dataclasses.asdict(SMALL)
    for part, count in (("train", 3), ("val", 32)):
        found = annotations(scenes, part)
        assert [f"{part}/{record['file_name']}" in files for record in found["images"]] == [True] * count
        assert [(c["id"], c["name"]) for c in found["categories"]] == [(i + 1, str(i)) for i in range(10)]
        per_image = np.bincount([a["image_id"] for a in found["annotations"]], minlength=count)
        assert per_image.min() >= 2
        assert per_image.max() <= 5
        assert [a["id"] for a in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
    for pixels, *_ in decoded(scenes):
        assert pixels.shape == (64, 64, 3)


def test_the_same_options_give_the_same_bytes_and_another_seed_other_scenes(tmp_path):
    write_scenes(tmp_path / "one", FEW)
    write_scenes(tmp_path / "two", dataclasses.replace(FEW))
    write_scenes(tmp_path / "other", dataclasses.replace(FEW, seed=1))
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)
    images = [content for name, content in one.items() if name.endswith(".png")]
    assert len(set(images)) == len(images) == 4


def test_objects_overlap_as_much_as_was_asked(scenes):
    """The paper's r: of all pixels of all objects, the share that several objects cover."""
    asked, reached = [], []
    for number, (_, objects, _, _) in enumerate(decoded(scenes)):
        whole = [a["amodal_segmentation"] for a in objects]
        others = [[other for other in whole if other is not one] for one in whole]
        covered = sum(
            coco_masks.area(coco_masks.merge([one, coco_masks.merge(rest)], intersect=True))
            for one, rest in zip(whole, others, strict=True)
        )
        asked.append(0.8 * (number + 0.5) / 32)
        reached.append(float(covered) / sum(float(coco_masks.area(one)) for one in whole))
    assert np.mean(reached) == pytest.approx(0.4, abs=0.04)
    assert np.mean(np.abs(np.subtract(reached, asked))) < 0.06
    assert np.corrcoef(asked, reached)[0, 1] > 0.9


def test_no_overlap_and_much_of_it_are_reached_too(tmp_path):
    options = dataclasses.replace(SMALL, image_size=128, val_images=4, min_objects=2, max_objects=2)
    ratios = {}
    for overlap in (0.0, 0.9):
        write_scenes(tmp_path / str(overlap), dataclasses.replace(options, max_overlap=overlap))
        times = [whole.sum(0) for *_, whole in decoded(tmp_path / str(overlap))]
        ratios[overlap] = [t[t > 1].sum() / t.sum() for t in times]
    assert ratios[0.0] == [0, 0, 0, 0]
    assert ratios[0.9] == pytest.approx([0.1125, 0.3375, 0.5625, 0.7875], abs=0.1)


def test_visible_masks_are_disjoint_and_together_all_that_is_covered(scenes):
    for _, _, visible, whole in decoded(scenes):
        assert visible.sum(0).max() == 1
        assert np.array_equal(visible.any(0), whole.any(0))
        assert not (visible & ~whole).any()
        assert np.array_equal(visible[-1], whole[-1])  # the last one lies on top
        assert (visible.sum((1, 2)) >= 0.1 * whole.sum((1, 2))).all()


def test_boxes_and_areas_are_those_of_the_visible_masks(scenes):
    for part in ("train", "val"):
        for annotation in annotations(scenes, part)["annotations"]:
            segmentation = annotation["segmentation"]
            assert annotation["bbox"] == coco_masks.toBbox(segmentation).tolist()
            assert annotation["area"] == coco_masks.area(segmentation)
            assert annotation["area"] > 0
            assert annotation["iscrowd"] == 0


def test_masks_lie_where_the_objects_are(scenes):
    """An object has colours between two, but for the noise: they lie on a line, if all pixels are of that object."""
    distances, of_others = [], []
    for pixels, _, visible, _ in decoded(scenes):
        for mask in visible:
            if mask.sum() < 80:
                continue
            colours = pixels[mask].astype(float)
            mean = colours.mean(0)
            line = np.linalg.svd(colours - mean, full_matrices=False)[2][:1]

            def distance(some, mean=mean, line=line):
                away = some - mean
                return np.sqrt(((away - away @ line.T @ line) ** 2).sum(1)).mean()

            distances.append(distance(colours))
            of_others.append(distance(pixels[~mask]))
    assert len(distances) > 50
    assert max(distances) < 12  # the noise: 6 a channel
    assert np.mean(of_others) > 5 * np.mean(distances)


def test_both_splits_are_read_as_any_coco_folder(scenes):
    data = OcclusionScenes(str(scenes), SMALL, batch_size=3)
    assert data.num_classes == 11
    images, targets = next(iter(data.train_dataloader()))
    assert [image.shape for image in images] == [(3, 64, 64)] * 3
    found = annotations(scenes, "train")
    for target in targets:
        objects = [a for a in found["annotations"] if a["image_id"] == target["image_id"]]
        assert target["labels"].tolist() == [a["category_id"] for a in objects]
        assert target["masks"].sum((1, 2)).tolist() == [a["area"] for a in objects]
    assert len(data.split(train=False)) == 32
    assert data.ground_truth() == annotations(scenes)


def test_classes_are_known_before_the_scenes_are_there(tmp_path):
    digits = OcclusionScenes(str(tmp_path / "nothing"))
    clothes = OcclusionScenes(str(tmp_path / "nothing"), SceneOptions(objects="fashion_mnist"))
    assert digits.classes == list("0123456789")
    assert clothes.classes[:2] == ["T-shirt/top", "Trouser"]
    assert digits.category_ids == clothes.category_ids == list(range(1, 11))
    assert digits.num_classes == 11
    assert not (tmp_path / "nothing").exists()


def test_scenes_are_generated_once(tmp_path):
    data = OcclusionScenes(str(tmp_path / "new" / "scenes"), FEW)
    data.prepare_data()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").rglob("*")}
    data.prepare_data()
    OcclusionScenes(str(tmp_path / "new" / "scenes"), FEW).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "new").rglob("*")} == before


@pytest.mark.parametrize("scenes", [1, 2, 4])
def test_a_killed_generation_is_redone_with_the_same_options(scenes, tmp_path):
    """``scenes``: written before the kill, of two in each split."""
    write_scenes(tmp_path / "whole", FEW)

    def die(done, total):
        if done == scenes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "killed", FEW, progress=die)
    assert not (tmp_path / "killed" / "scenes.json").exists()
    (tmp_path / "killed" / "train" / "000001.png").write_bytes(b"half an image")
    (tmp_path / "killed" / "annotations" / "instances_train.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"killed holds other scenes: seed = 0 there, 1 now\. Choose another root"):
        write_scenes(tmp_path / "killed", dataclasses.replace(FEW, seed=1))
    write_scenes(tmp_path / "killed", FEW)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["annotations/instances_train.json", "a.jpg"])
def test_a_folder_that_is_not_empty_is_left_as_it_is(name, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("precious")
    message = rf"write_scenes: {tmp_path} is not empty, it holds {name.split('/')[0]}\. Choose another folder"
    for _ in range(2):  # the refusal leaves nothing that a second start would take for its own
        with pytest.raises(ValueError, match=message):
            OcclusionScenes(str(tmp_path), FEW).prepare_data()
        assert contents(tmp_path) == {name: b"precious"}


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"seed": 0}', "[" * 100_000])
def test_damaged_options_are_named(text, tmp_path):
    (tmp_path / "scenes.json").write_text(text)
    message = (
        rf"write_scenes: {tmp_path}/scenes.json is damaged or of another version: .*seed\. Remove {tmp_path}, and the"
    )
    with pytest.raises(ValueError, match=message):
        OcclusionScenes(str(tmp_path), FEW).prepare_data()
    assert contents(tmp_path) == {"scenes.json": text.encode()}


def test_a_folder_of_other_options_is_refused(tmp_path):
    write_scenes(tmp_path, FEW)
    before = contents(tmp_path)
    message = (
        rf"{tmp_path} holds other scenes: val_images = 2 there, 3 now; seed = 0 there, 7 now\. Choose another root"
    )
    with pytest.raises(ValueError, match=f"write_scenes: {message}"):
        OcclusionScenes(str(tmp_path), dataclasses.replace(FEW, val_images=3, seed=7)).prepare_data()
    assert contents(tmp_path) == before


def test_scenes_of_clothes_need_their_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Missing(FashionMNIST):
        def __init__(self):
            super().__init__(source=str(tmp_path / "nothing"))

    monkeypatch.setitem(_cut_outs.BUILT_IN, "fashion_mnist", Missing)
    message = (
        r"write_scenes: the images of fashion_mnist are missing\. On Debian: apt-get install dataset-fashion-mnist"
    )
    with pytest.raises(FileNotFoundError, match=message):
        write_scenes(tmp_path / "scenes", dataclasses.replace(FEW, objects="fashion_mnist"))
    assert not (tmp_path / "scenes" / "scenes.json").exists()


def test_scenes_of_clothes_use_each_splits_own_images(tmp_path, monkeypatch):
    """Images of the training split are discs, of the validation split squares: the masks tell them apart."""
    monkeypatch.chdir(tmp_path)
    rows, columns = np.mgrid[:28, :28]
    disc = 255 * ((rows - 14) ** 2 + (columns - 14) ** 2 < 144)
    square = np.full((28, 28), 255)
    (tmp_path / "archives").mkdir()
    for prefix, image, label in (("train", disc, 3), ("t10k", square, 8)):
        arrays = {"images-idx3": np.stack([image] * 6).astype(np.uint8), "labels-idx1": np.full(6, label, np.uint8)}
        for kind, array in arrays.items():
            (tmp_path / "archives" / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx_file(array)))

    class Here(FashionMNIST):
        def __init__(self):
            super().__init__(source=str(tmp_path / "archives"))

    monkeypatch.setitem(_cut_outs.BUILT_IN, "fashion_mnist", Here)
    write_scenes(tmp_path / "scenes", dataclasses.replace(FEW, objects="fashion_mnist"))

    shares = {}
    for part, category in (("train", 4), ("val", 9)):
        found = annotations(tmp_path / "scenes", part)
        assert {a["category_id"] for a in found["annotations"]} == {category}
        whole = [a["amodal_segmentation"] for a in found["annotations"]]
        shares[part] = [coco_masks.area(w) / np.prod(coco_masks.toBbox(w)[2:]) for w in whole]
    assert max(shares["train"]) < 0.9  # of a square, a disc fills pi / 4
    assert min(shares["val"]) > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_images": 0}, r"train_images must be at least 1, got 0\."),
        ({"val_images": -2}, r"val_images must be at least 1, got -2\."),
        ({"min_objects": 0}, r"min_objects must be at least 1, got 0\."),
        ({"min_objects": 3, "max_objects": 2}, r"min_objects = 3 is more than max_objects = 2\. Set min_objects to at"),
        ({"max_objects": 101}, r"max_objects must be at most 100, got 101\."),
        ({"min_size": 11}, r"min_size must be at least 12, got 11\."),
        ({"min_size": 40, "max_size": 30}, r"min_size = 40 is more than max_size = 30\."),
        (
            {"image_size": 50},
            r"max_size = 52 .* image_size = 50\. .* most 50, or image_size to at least 52",
        ),
        ({"objects": None}, r"objects must be a folder, got None\. Name one, or leave objects out\."),
        ({"backgrounds": ""}, r"backgrounds must be a folder, got ''\."),
        ({"max_overlap": 1.0}, r"max_overlap must be in \[0, 1\), got 1\.0\."),
        ({"max_overlap": -0.1}, r"max_overlap must be in \[0, 1\), got -0\.1\."),
        ({"max_overlap": float("nan")}, r"max_overlap must be in \[0, 1\), got nan\."),
        ({"val_share": 1}, r"val_share must be in \[0, 1\), got 1\."),
        ({"rotation": 181}, r"rotation must be from 0 to 180 degrees, got 181\."),
        ({"flip": -0.5}, r"flip must be from 0 to 1, got -0\.5\."),
        ({"min_visible": 0}, r"min_visible must be in \(0, 1\], got 0\."),
        ({"noise": float("nan")}, r"noise must be from 0 to 100, got nan\."),
        ({"file_type": "gif"}, r"file_type must be png or jpg, got 'gif'\."),
        ({"mask_format": "png"}, r"mask_format must be rle or polygons, got 'png'\."),
        ({"seed": -1}, r"seed must be at least 0, got -1\."),
    ],
)
def test_options_are_checked_where_they_are_written(options, message):
    with pytest.raises(ValueError, match=f"SceneOptions: .*{message}"):
        SceneOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": 1.5}, "seed must be an int, got 1.5"), ({"flip": np.float32(1)}, r"flip must be a number, got .*1\.0")],
)
def test_numbers_of_another_type_are_refused(options, message):
    with pytest.raises(TypeError, match=f"SceneOptions: {message}"):
        SceneOptions(**options)


def test_the_largest_objects_that_are_allowed_fit(tmp_path):
    options = SceneOptions(image_size=24, train_images=1, val_images=3, min_size=24, max_size=24, max_objects=2)
    write_scenes(tmp_path, options)
    assert all(whole.any((1, 2)).all() for *_, whole in decoded(tmp_path))
