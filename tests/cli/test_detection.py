"""A user's path: images from another annotation tool, fit, test, predict."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from tiedconv.cli.main import main
from tiedconv.data.scenes import SceneOptions, write_scenes
from tiedconv.metrics.coco import coco_metrics

CONFIG = Path(__file__).parents[2] / "configs" / "coco" / "own.yaml"
SMALL = [
    "--model.backbone=resnet_tiny",
    "--model.backbone_kwargs={layers: [1, 1, 1, 1]}",
    "--model.widths={fpn: 16, box: 32, mask: 16, mask_convs: 1}",
    "--model.options={min_size: 48, max_size: 48, box_score_thresh: 0.0, box_detections_per_img: 5}",
    "--model.optimization.warmup_epochs=0",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--data.num_workers=0",
]


@pytest.fixture
def exported(tmp_path):
    """Scenes in the layout of a Roboflow export: its folders, ids from 0 with an unused category, no areas."""
    write_scenes(
        tmp_path / "scenes", SceneOptions(image_size=48, train_images=6, val_images=3, min_size=16, max_size=24)
    )
    for part, name in (("train", "train"), ("val", "valid")):
        content = json.loads((tmp_path / "scenes" / "annotations" / f"instances_{part}.json").read_text())
        content["categories"].insert(0, {"id": 0, "name": "digits", "supercategory": "none"})
        for number, annotation in enumerate(content["annotations"]):
            annotation["id"] = number
            del annotation["area"]
        (tmp_path / "scenes" / part).rename(tmp_path / name)
        (tmp_path / name / "_annotations.coco.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.slow
def test_fit_test_and_predict_with_one_line_changed(exported, monkeypatch, capsys):
    monkeypatch.chdir(exported)
    common = ["--config", str(CONFIG), "--data.root", str(exported), *SMALL]
    main(["fit", *common, "--trainer.max_epochs=1"])
    folder = exported / "runs" / "fit" / "version_0"
    assert len(list((folder / "checkpoints").glob("epoch=0-box_AP=*.ckpt"))) == 1
    last = str(folder / "checkpoints" / "last.ckpt")
    logged = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert {"train/loss", "train/loss_mask", "lr", "val/box_AP", "val/mask_AP75"} <= logged[0].keys()

    printed = capsys.readouterr().out
    assert printed.startswith("1 steps per epoch of 4 images, about 0.0 GB in float32 for the backbone\n")
    main(["test", *common, "--ckpt_path", last])
    assert "val/mask_AP_S" in capsys.readouterr().out
    results = json.loads((exported / "runs" / "test" / "version_0" / "results.json").read_text())
    truth = json.loads((exported / "valid" / "_annotations.coco.json").read_text())
    for annotation in truth["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    assert {result["image_id"] for result in results} <= {0, 1, 2}
    values = [float(row["val/box_AP50"]) for row in logged if row["val/box_AP50"]]
    assert values == [pytest.approx(coco_metrics(truth, results, "box")["AP50"], abs=1e-6)]

    (exported / "mine" / "deep").mkdir(parents=True)
    Image.new("L", (60, 40), 90).save(exported / "mine" / "deep" / "a b.png")
    Image.new("RGBA", (30, 50)).save(exported / "mine" / "c.webp")
    main(["predict", *common, "--ckpt_path", last, "--data.predict_path", "mine", "--model.min_score=0"])
    folder = exported / "runs" / "predict" / "version_0"
    listed = json.loads((folder / "predictions.json").read_text())
    assert [entry["image"] for entry in listed] == ["mine/c.webp", "mine/deep/a b.png"]
    for entry, (width, height) in zip(listed, ((30, 50), (60, 40)), strict=True):
        with Image.open(folder / entry["picture"]) as picture:
            assert picture.width * height == picture.height * width  # enlarged by a whole factor
        assert len(entry["detections"]) == 5
        for detection in entry["detections"]:
            x1, y1, x2, y2 = detection["box"]
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            assert detection["class"] in ("digits", *"0123456789")


def test_a_broken_annotation_ends_the_command_with_file_and_id(exported, monkeypatch):
    monkeypatch.chdir(exported)
    file = exported / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][2]["category_id"] = 77
    file.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"_annotations\.coco\.json: annotation 2 must have as its category_id one of"):
        main(["fit", "--config", str(CONFIG), "--data.root", str(exported), *SMALL, "--trainer.max_epochs=1"])


@pytest.mark.parametrize("name", ["Cityscapes", "Coco", "OcclusionScenes", "Voc", "VocFolder", "Yolo"])
def test_every_detection_data_is_built_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").write_text("")
    with pytest.raises(SystemExit, match="nothing"):  # read, found wanting and named
        main(["fit", "--data", name, "--data.root", "nothing", *SMALL, "--trainer.max_epochs=1"])


def test_training_needs_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"Coco: none of .* is in data/own\. Set root, or train_annotations"):
        main(["fit", "--config", str(CONFIG), *SMALL])
