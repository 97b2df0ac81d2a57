import json
import zipfile

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks

from tiedconv.data import Cityscapes
from tiedconv.data.cityscapes import write_instances
from tiedconv.detection import build_detector

# pycocotools' decode calls what numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SHAPE = (32, 64)
ROAD, PERSON, CAR, CARAVAN, BICYCLE = 7, 24, 26, 29, 33


def street():
    """Instance numbers as Cityscapes writes them, and the masks that must be read from them, in that order."""
    ids = np.full(SHAPE, ROAD, np.uint16)
    ids[2:12, 4:20] = PERSON * 1000
    ids[8:30, 10:40] = CAR * 1000 + 12  # covers a part of the person
    ids[8:30, 20:24] = BICYCLE * 1000 + 3  # parts the car in two
    ids[0:5, 50:64] = CAR  # a group of cars
    ids[20:32, 50:60] = CARAVAN * 1000  # no class of the benchmark
    wanted = [(CAR, CAR, 1)]
    wanted += [(1000 * c + n, c, 0) for c, n in ((PERSON, 0), (CAR, 12), (BICYCLE, 3))]
    return ids, [(ids == value, category, crowd) for value, category, crowd in wanted]


def write_cityscapes(root, split, names, ids):
    """Write images as the archives hold them; a name is a city and the numbers of sequence and frame."""
    for name in names:
        city = name.partition("_")[0]
        for tree, suffix, image in (
            ("leftImg8bit", "leftImg8bit", Image.new("RGB", SHAPE[::-1], "gray")),
            ("gtFine", "gtFine_instanceIds", Image.fromarray(ids)),
        ):
            folder = root / tree / split / city
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{name}_{suffix}.png")


def cityscapes(root, **options):
    return Cityscapes(str(root), **{"num_workers": 0, "flip": 0.0, **options})


def test_instances_are_what_was_drawn(tmp_path):
    ids, wanted = street()
    write_cityscapes(tmp_path, "val", ["ulm_000001_000019", "bonn_000000_000019"], ids)
    write_instances(tmp_path, "val")
    found = cityscapes(tmp_path).annotated(train=False)
    assert found.images == tmp_path / "leftImg8bit" / "val"
    names = [f"{name}_leftImg8bit.png" for name in ("bonn/bonn_000000_000019", "ulm/ulm_000001_000019")]
    assert [image["file_name"] for image in found.annotations["images"]] == names
    for image in found.annotations["images"]:
        assert (image["height"], image["width"]) == SHAPE
        read = [a for a in found.annotations["annotations"] if a["image_id"] == image["id"]]
        assert [(a["category_id"], a["iscrowd"]) for a in read] == [(c, crowd) for _, c, crowd in wanted]
        for annotation, (mask, _, _) in zip(read, wanted, strict=True):
            assert (coco_masks.decode(annotation["segmentation"]) == mask).all()
            assert annotation["area"] == mask.sum()
            x, y, width, height = annotation["bbox"]
            rows, columns = np.nonzero(mask)
            assert (x, x + width - 1) == (columns.min(), columns.max())
            assert (y, y + height - 1) == (rows.min(), rows.max())


def test_classes_are_known_before_the_files_are_there(tmp_path):
    data = cityscapes(tmp_path)
    assert data.classes == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert data.category_ids == [24, 25, 26, 27, 28, 31, 32, 33]
    assert data.num_classes == 9


def test_a_detector_trains_on_a_batch(tmp_path):
    ids, wanted = street()
    for split in ("train", "val"):
        write_cityscapes(tmp_path, split, ["ulm_000001_000019", "bonn_000000_000019"], ids)
    data = cityscapes(tmp_path)
    data.prepare_data()
    with pytest.warns(UserWarning, match="training leaves out 2 crowd regions of .*instances_train.json"):
        images, targets = next(iter(data.train_dataloader()))
    assert images[0].shape == (3, *SHAPE)
    masks, categories, _ = zip(*wanted[1:], strict=True)
    assert (targets[0]["masks"].numpy() == np.stack(masks)).all()
    assert [data.category_ids[label - 1] for label in targets[0]["labels"]] == list(categories)
    model = build_detector("mask_rcnn", backbone="tiedresnet_tiny", num_classes=data.num_classes, min_size=64)
    losses = model(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_mask"] > 0


def test_what_was_collected_is_kept_for_the_next_run(tmp_path):
    ids, _ = street()
    for split in ("train", "val"):
        write_cityscapes(tmp_path, split, ["bonn_000000_000019"], ids)
    cityscapes(tmp_path).prepare_data()
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
    assert set(kept) == {"instances_train.json", "instances_val.json"}
    for path in (tmp_path / "gtFine").rglob("*.png"):
        path.unlink()
    data = cityscapes(tmp_path)
    data.prepare_data()
    assert data.ground_truth() == json.loads((tmp_path / "instances_val.json").read_text())
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()} == kept


class Nothing(L.LightningModule):
    def validation_step(self, batch, batch_idx):
        pass

    def predict_step(self, batch, batch_idx):
        return batch[1]


def test_an_evaluation_needs_no_training_images_and_a_prediction_for_other_images_none(tmp_path):
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(**quiet, enable_checkpointing=False)
    Image.new("RGB", SHAPE[::-1]).save(tmp_path / "mine.png")
    mine = cityscapes(tmp_path, predict_path=str(tmp_path / "mine.png"))
    assert trainer.predict(Nothing(), mine) == [[str(tmp_path / "mine.png")]]
    write_cityscapes(tmp_path, "val", ["bonn_000000_000019"], street()[0])
    trainer.validate(Nothing(), cityscapes(tmp_path), verbose=False)
    with pytest.raises(FileNotFoundError, match="does not hold the split train"):
        cityscapes(tmp_path).prepare_data()


def test_archives_are_unpacked(tmp_path):
    write_cityscapes(tmp_path / "written", "val", ["bonn_000000_000019"], street()[0])
    for tree in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(tmp_path / f"{tree}_trainvaltest.zip", "w") as archive:
            for path in (tmp_path / "written" / tree).rglob("*.png"):
                archive.write(path, path.relative_to(tmp_path / "written"))
    write_instances(tmp_path, "val")
    assert len(cityscapes(tmp_path).ground_truth()["annotations"]) == 4


def test_an_image_that_does_not_hold_instance_numbers_is_named(tmp_path):
    write_cityscapes(tmp_path, "val", ["bonn_000000_000019"], np.full(SHAPE, PERSON, np.uint8))
    with pytest.raises(OSError, match=r"gtFine_instanceIds\.png cannot be read as an image: its mode is L\. Expected"):
        write_instances(tmp_path, "val")
    next(tmp_path.rglob("*instanceIds.png")).write_bytes(b"no image")
    with pytest.raises(OSError, match=r"gtFine_instanceIds\.png cannot be read as an image: .*identify.* Replace"):
        write_instances(tmp_path, "val")
    assert not list(tmp_path.glob("instances*"))


def test_missing_files_are_named_with_the_way_to_get_them(tmp_path):
    expected = (
        r"does not hold the split val.*gtFine/val/<city>/\*_gtFine_instanceIds\.png there.*cityscapes-dataset\.com"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        write_instances(tmp_path, "val")
    for tree in ("leftImg8bit", "gtFine"):
        (tmp_path / tree / "val").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=expected):
        write_instances(tmp_path, "val")
    write_cityscapes(tmp_path, "val", ["bonn_000000_000019"], street()[0])
    next(tmp_path.rglob("*instanceIds.png")).unlink()
    with pytest.raises(FileNotFoundError, match=r"gtFine_instanceIds\.png is missing\. Check the folder"):
        write_instances(tmp_path, "val")
