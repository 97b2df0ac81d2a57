"""What a training says about its images goes with the weights: checkpoint, model by name, saved folder, prediction."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from tiedconv.cli.main import main
from tiedconv.data import ClassificationData, Digits, ImageFolder, write_shards
from tiedconv.export import from_pretrained, save_pretrained
from tiedconv.models import build_model
from tiedconv.models.inputs import check_images, eval_transform, input_size, label_names
from tiedconv.tasks import ClassificationTask

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
QUIET["enable_checkpointing"] = False


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for place in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (root / place).mkdir(parents=True)
        for i in range(2):
            noise = np.random.default_rng(i).integers(0, 256, (40, 56, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / place / f"{i}.png")
    return root


def trained(name: str, data: ClassificationData, folder: Path) -> Path:
    task = ClassificationTask(name, data.num_classes, data.in_chans)
    trainer = L.Trainer(**QUIET, max_epochs=1, limit_train_batches=1, limit_val_batches=0, default_root_dir=folder)
    trainer.fit(task, data)
    trainer.save_checkpoint(folder / "trained.ckpt")
    return folder / "trained.ckpt"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tiedresnet_tiny", {"image_size": 24}),
        ("torchvision/resnet18", {"image_size": 32, "crop_pct": 1.0}),
        ("tiedresnet_tiny", None),
    ],
)
def test_a_model_prepares_images_as_its_training_did(name, options, photos, tmp_path):
    data = Digits(20, 4) if options is None else ImageFolder(str(photos), **options, batch_size=2, num_workers=0)
    model = build_model(name, checkpoint=trained(name, data, tmp_path))
    photo = photos / "val" / "cat" / "1.png"
    expected = data.image_files(photo)[0][0]
    save_pretrained(model, tmp_path / "saved", architecture=name if name.startswith("torchvision") else None)
    for found in (model, from_pretrained(tmp_path / "saved")):
        assert input_size(found) == data.input_size
        assert label_names(found) == list(data.classes)
        with Image.open(photo) as image:
            prepared = eval_transform(found)(image.convert("L" if options is None else "RGB"))
        assert torch.allclose(prepared, expected, atol=1e-5)


def test_a_prediction_takes_the_trainings_size_unless_another_is_given(photos, tmp_path, monkeypatch, capsys):
    data = ImageFolder(str(photos), image_size=32, crop_pct=1.0, batch_size=2, num_workers=0)
    checkpoint = trained("tiedresnet_tiny", data, tmp_path)
    monkeypatch.chdir(tmp_path)
    line = f"predict --data ImageFolder --data.root {photos} --data.num_workers 0 --model.model tiedresnet_tiny"
    line += f" --ckpt_path {checkpoint} --trainer.accelerator cpu"
    main(line.split())
    printed = capsys.readouterr().out
    assert "--data.image_size is 32, as in the training.\n--data.crop_pct is 1.0, as in the training." in printed
    write_shards(data, str(tmp_path / "shards"))
    main(line.replace("ImageFolder", "StreamedImages").replace(str(photos), str(tmp_path / "shards")).split())
    assert "--data.image_size is 32, as in the training." in capsys.readouterr().out
    for size in (48, 224):  # 224 is the default
        with pytest.warns(UserWarning, match=rf"--data\.image_size is {size}; the network was trained with 32"):
            main([*line.split(), f"--data.image_size={size}"])


def test_data_unlike_those_of_the_training_are_said(photos, tmp_path):
    data = ImageFolder(str(photos), image_size=32, batch_size=2, num_workers=0)
    model = build_model("tiedresnet_tiny", checkpoint=trained("tiedresnet_tiny", data, tmp_path))
    check_images(model, data.pretrained_cfg)
    with pytest.warns(UserWarning, match=r"trained with input_size \(3, 32, 32\), the data have \(3, 48, 48\)"):
        check_images(model, ImageFolder(str(photos), image_size=48).pretrained_cfg)
    with pytest.raises(ValueError, match=r"classes cat, dog, the data have 0, 1, 2, 3 and 6 more\."):
        check_images(model, Digits().pretrained_cfg)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "'input_size'"),
        ({"input_size": (3, 0, 8)}, r"input_size must be three numbers of at least 1, got \(3, 0, 8\)"),
        (
            {"input_size": (1, 8, 8), "mean": (0.1, 0.2), "std": (1,)},
            r"mean must have a number per channel, 1, got \(0",
        ),
        ("tiny", "string indices"),
    ],
)
def test_a_checkpoint_that_says_it_wrongly_is_named(config, message, tmp_path):
    checkpoint = trained("tiedresnet_tiny", Digits(16, 4), tmp_path)
    torch.save({**torch.load(checkpoint), "pretrained_cfg": config}, checkpoint)
    with pytest.raises(ValueError, match=f"trained.ckpt describes its images in an invalid way: .*{message}"):
        build_model("tiedresnet_tiny", checkpoint=checkpoint)
