import csv
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image

from tiedconv.cli.main import main
from tiedconv.nn import TiedGlobalContext
from tiedconv.tasks import DetectionTask

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = str(CONFIGS / "digits" / "train.yaml")
QUICK = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_fit_validate_and_predict_on_the_users_own_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["--config", DIGITS, "--model.model=resnet_tiny", *QUICK]
    main(["fit", *common, "--trainer.max_epochs=1", "--trainer.limit_train_batches=4"])
    folder = tmp_path / "runs" / "fit" / "version_0"
    assert {path.name for path in folder.iterdir()} >= {"config.yaml", "metrics.csv", "checkpoints", "hparams.yaml"}
    assert list(folder.glob("events.out.tfevents*"))
    last = folder / "checkpoints" / "last.ckpt"
    assert len(list(last.parent.glob("epoch=0-top1=*.ckpt"))) == 1
    rows = read_csv(folder / "metrics.csv")
    assert {"train/loss", "val/loss", "val/top1", "val/top5", "lr"} <= rows[0].keys()

    capsys.readouterr()
    main(["validate", *common, "--ckpt_path", str(last)])
    assert "val/top1" in capsys.readouterr().out

    (tmp_path / "mine").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), 80 * i).save(tmp_path / "mine" / f"{i}.png")
    main(["predict", *common, "--ckpt_path", str(last), "--data.predict_path", "mine"])
    found = read_csv(tmp_path / "runs" / "predict" / "version_0" / "predictions.csv")
    assert [row["image"] for row in found] == ["mine/0.png", "mine/1.png", "mine/2.png"]
    assert all(row["class1"] in "0123456789" for row in found)
    assert all(float(row["probability1"]) >= float(row["probability5"]) > 0 for row in found)


def test_last_checkpoint_is_the_last_epoch_and_not_the_best(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    still = "--model.optimization.lr=1e-12"  # no epoch is better than the first
    short = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=1"]
    main(["fit", "--config", DIGITS, "--model.model=resnet_tiny", *QUICK, still, *short])
    folder = tmp_path / "runs" / "fit" / "version_0" / "checkpoints"
    best = next(folder.glob("epoch=*"))
    assert best.name.startswith("epoch=0")
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 2


@pytest.mark.parametrize("name", ["validate", "test", "predict"])
def test_evaluation_needs_weights(name):
    with pytest.raises(SystemExit, match=f"{name} needs trained weights. Give --ckpt_path"):
        main([name, "--config", DIGITS, *QUICK])


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_recipe_names_a_model_that_exists(path):
    recipe = yaml.safe_load(path.read_text())
    if "models" in recipe:
        assert all(timm.is_model(model["name"]) for model in recipe["models"])
    else:
        options = recipe["model"]["init_args"]
        assert timm.is_model(options.get("model") or options["backbone"])


@pytest.mark.parametrize(
    "name", ["imagenet/paper", "imagenet/large_batch", "imagenet/modern", "fashion_mnist/train", "cifar/train"]
)
def test_recipes_parse(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(CONFIGS / f"{name}.yaml"), "--print_config"])
    assert stop.value.code == 0
    parsed = yaml.safe_load(capsys.readouterr().out)
    assert parsed["model"]["init_args"]["optimization"]["optimizer"] == "sgd"


DETECTION = sorted(path for folder in ("coco", "cityscapes", "voc") for path in (CONFIGS / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", DETECTION, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_detection_recipe_parses_and_its_detector_is_built(path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(path), "--print_config"])
    assert stop.value.code == 0
    parsed = yaml.safe_load(capsys.readouterr().out)
    data, options = parsed["data"]["init_args"], parsed["model"]["init_args"]
    assert data.get("masks", False) == ("mask" in options["detector"])
    if options["weights"] is not None:  # a recipe of the paper's detectors
        assert options["weights"] == f"weights/{options['backbone']}.ckpt"
        assert path.name.startswith(options["detector"])
        assert max(options["optimization"]["milestones"]) < parsed["trainer"]["max_epochs"]

    with torch.device("meta"):  # shapes alone
        model = DetectionTask(**{**options, "weights": None})
    contexts = sum(isinstance(module, TiedGlobalContext) for module in model.modules())
    assert contexts == (13 if path.name == "mask_rcnn_1x.yaml" else 0)  # one in every bottleneck of stages c3 to c5


def test_the_modern_recipe_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--trainer.precision=bf16-mixed"]
    main(["fit", "--config", str(CONFIGS / "digits" / "modern.yaml"), *QUICK, *short])
    assert list(tmp_path.rglob("last.ckpt"))
