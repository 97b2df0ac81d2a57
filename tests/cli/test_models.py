from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform
from torch import nn
from torchvision.transforms import functional as F

from tiedconv.cli._models import eval_transform, input_size, is_random, load_model
from tiedconv.export import save_pretrained
from tiedconv.nn import TiedConv2d
from tiedconv.tasks import ClassificationTask

pytestmark = pytest.mark.usefixtures("no_network")


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in mine.items())


def checkpoint(folder: Path, model: str = "tiedresnet_tiny", **kwargs: Any) -> tuple[Path, nn.Module]:
    """A checkpoint as a training leaves it, and its network."""
    task = ClassificationTask(model, **kwargs)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1
    )
    trainer.strategy.connect(task)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt", task.model


@pytest.mark.parametrize("name", ["tiedresnet_tiny", "resnet18", "torchvision/resnet18"])
def test_models_by_name_have_random_weights_and_are_in_eval_mode(name: str) -> None:
    model = load_model(name, num_classes=7)
    assert not any(module.training for module in model.modules())
    assert is_random(name, None, {"num_classes": 7})
    assert model.get_submodule("fc").out_features == 7


def test_a_tasks_checkpoint_says_how_the_model_is_built(tmp_path: Path) -> None:
    path, net = checkpoint(tmp_path, num_classes=9, in_chans=1, model_kwargs={"base_width": 24})
    model = load_model("tiedresnet_tiny", path)
    assert same_weights(model, net)
    assert not model.training
    assert input_size(model) == (1, 32, 32)
    assert not is_random("tiedresnet_tiny", path, {})


@pytest.mark.parametrize("name", ["resnet_tiny", "torchvision/resnet18"])
def test_a_tasks_model_is_tied_as_it_was(name: str, tmp_path: Path) -> None:
    path, net = checkpoint(tmp_path, name, num_classes=9, tied={"layer3.*": 2})
    model = load_model(name, path)
    assert same_weights(model, net)
    assert any(isinstance(layer, TiedConv2d) for layer in model.modules())


def test_a_tasks_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, num_classes=9)
    message = rf"load_model: {path} holds tiedresnet_tiny, not resnet_tiny\. Give that name, or another checkpoint\."
    with pytest.raises(ValueError, match=message):
        load_model("resnet_tiny", path)


def test_a_detectors_checkpoint_is_refused(tmp_path: Path) -> None:
    content = {
        "pytorch-lightning_version": "2.0",
        "state_dict": {"model.backbone.body.conv1.weight": torch.zeros(1)},
        "hyper_parameters": {"backbone": "resnet_tiny", "num_classes": 3},
    }
    torch.save(content, tmp_path / "last.ckpt")
    message = r"last\.ckpt holds a detector, with the backbone resnet_tiny, and only classifiers can be loaded here\."
    with pytest.raises(ValueError, match=message):
        load_model("resnet_tiny", tmp_path / "last.ckpt")


@pytest.mark.parametrize("name", ["resnet_tiny", "test_efficientnet"])
def test_classes_and_channels_are_taken_from_a_plain_file(name: str, tmp_path: Path) -> None:
    net = timm.create_model(name, num_classes=5, in_chans=2)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    model = load_model(name, tmp_path / "net.safetensors")
    assert same_weights(model, net)
    assert input_size(model)[0] == 2


def test_classes_of_torchvisions_model_are_taken_from_the_file(tmp_path: Path) -> None:
    net = torchvision.models.resnet18(num_classes=5)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    assert same_weights(load_model("torchvision/resnet18", tmp_path / "net.pth"), net)


def test_what_is_given_counts_more_than_the_file(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet_tiny", num_classes=5).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"load_model: .*Only the classifier differs: the file has num_classes=5\."):
        load_model("resnet_tiny", tmp_path / "net.pth", num_classes=6)


def test_a_folder_is_loaded_and_a_checkpoint_goes_into_its_model(tmp_path: Path) -> None:
    net, other = (timm.create_model("resnet_tiny", num_classes=5, in_chans=1) for _ in range(2))
    folder = save_pretrained(net, tmp_path / "saved")
    torch.save(other.state_dict(), tmp_path / "other.pth")
    assert same_weights(load_model(str(folder)), net)
    assert same_weights(load_model(str(folder), pretrained=False), net)
    assert same_weights(load_model(str(folder), tmp_path / "other.pth"), other)
    assert not is_random(str(folder), None, {})


def test_a_name_is_a_name_even_where_there_is_such_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = timm.create_model("resnet_tiny", num_classes=5)
    for folder in ("resnet18", "resnet_tiny.mine"):
        save_pretrained(net, folder)
    assert is_random("resnet18", None, {})
    assert [same_weights(load_model(name), net) for name in ("./resnet18", "resnet_tiny.mine")] == [True, True]
    assert not is_random("./resnet18", None, {})


def test_libraries_weights_are_not_random() -> None:
    assert not is_random("resnet18", None, {"pretrained": True})
    assert not is_random("hf-hub:somebody/net", None, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_tyni", r"load_model: no model is called 'resnet_tyni'\."),
        ("torchvision/resnet_tiny", "load_model: torchvision has no classifier 'resnet_tiny'"),
        ("runs/net", r"load_model: there is no folder runs/net\. A repository of the Hub is called hf-hub:runs/net\."),
    ],
)
@pytest.mark.parametrize("with_file", [False, True])
def test_unknown_names(name: str, message: str, with_file: bool, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        load_model(name, tmp_path / "net.pth" if with_file else None)


def test_two_sources_of_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"load_model: got pretrained=True and the weights in net\.pth\. Give one"):
        load_model("resnet18", Path("net.pth"), pretrained=True)


def picture(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (40, 52, 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode) if mode != "RGBA" else Image.fromarray(values)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pictures_of_every_mode_become_a_timm_models_input(mode: str) -> None:
    model = timm.create_model("tiedresnet_tiny", num_classes=3).eval()
    expected = create_transform((3, 32, 32), interpolation="bilinear", crop_pct=1.0)(picture(mode).convert("RGB"))
    assert torch.equal(eval_transform(model)(picture(mode)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_model_of_one_channel_sees_grey(mode: str) -> None:
    model = timm.create_model("tiedresnet_tiny", num_classes=3, in_chans=1).eval()
    grey = F.center_crop(F.resize(picture(mode).convert("L"), 32), [32, 32])
    expected = (F.to_tensor(grey) - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3)
    image = eval_transform(model)(picture(mode))
    torch.testing.assert_close(image, expected)
    assert model(image[None]).shape == (1, 3)


def test_pictures_become_a_torchvision_models_input() -> None:
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    model = torchvision.models.resnet18(weights=None)
    image = eval_transform(model)(picture("RGB"))
    assert image.shape == input_size(model) == (3, 224, 224)
    torch.testing.assert_close(image, weights.transforms(antialias=True)(picture("RGB")), atol=0.03, rtol=0)


def test_a_model_of_its_own_class_says_no_input_size() -> None:
    for question in (input_size, eval_transform):
        with pytest.raises(ValueError, match=r"^Sequential does not say which images .* Give --input_size C,H,W\."):
            question(nn.Sequential())
