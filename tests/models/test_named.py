from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from tiedconv.export import save_pretrained
from tiedconv.models import build_model, check_model
from tiedconv.models.inputs import input_size
from tiedconv.models.named import is_random
from tiedconv.nn import SplitTiedConv2d, TiedConv2d
from tiedconv.tasks import ClassificationTask

pytestmark = pytest.mark.usefixtures("no_network")


def test_models_of_timm_torchvision_and_ours_are_built_by_name() -> None:
    with torch.device("meta"):
        theirs, timms, ours = (build_model(name) for name in ("torchvision/resnet18", "resnet18", "tiedresnet_tiny"))
    assert type(theirs) is torchvision.models.ResNet
    assert type(timms) is timm.models.ResNet
    assert any(isinstance(layer, SplitTiedConv2d) for layer in ours.modules())


def test_arguments_reach_the_library() -> None:
    with torch.device("meta"):
        timms = build_model("resnet_tiny", num_classes=7, in_chans=2, base_width=24)
        theirs = build_model("torchvision/resnet18", num_classes=7, in_chans=3)
    assert {(name, p.shape) for name, p in timms.named_parameters()} == {
        (name, p.shape)
        for name, p in timm.create_model("resnet_tiny", num_classes=7, in_chans=2, base_width=24).named_parameters()
    }
    assert theirs.get_submodule("fc").out_features == 7


def test_weights_of_torchvision_are_loaded_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: asked.append(weights) or nn.Identity())
    build_model("torchvision/resnet18")
    build_model("torchvision/resnet18", pretrained=True)
    assert asked == [None, "DEFAULT"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_tyni", r"^no model is called 'resnet_tyni'\. Did you mean resnet_tiny\? `tiedconv list` prints"),
        ("torchvision/resnet_tiny", "^torchvision has no classifier 'resnet_tiny'"),
        ("torchvision/fasterrcnn_resnet50_fpn", "^torchvision has no classifier 'fasterrcnn_resnet50_fpn'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_model(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "tiedresnet50", "torchvision/resnet50"])
def test_known_names(name: str) -> None:
    check_model(name)


def test_channels_of_torchvisions_models_cannot_be_chosen() -> None:
    message = r"build_model: torchvision/resnet18 takes images of 3 channels, got in_chans=1\. Leave in_chans out"
    with pytest.raises(ValueError, match=message):
        build_model("torchvision/resnet18", in_chans=1)


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
def test_models_by_name_have_random_weights_and_are_in_train_mode(name: str) -> None:
    model = build_model(name, num_classes=7)
    assert all(module.training for module in model.modules())
    assert is_random(name)
    assert model.get_submodule("fc").out_features == 7


def test_a_tasks_checkpoint_says_how_the_model_is_built(tmp_path: Path) -> None:
    path, net = checkpoint(tmp_path, num_classes=9, in_chans=1, model_kwargs={"base_width": 24})
    model = build_model("tiedresnet_tiny", checkpoint=path)
    assert same_weights(model, net)
    assert all(module.training for module in model.modules())
    assert input_size(model) == (1, 32, 32)
    assert not is_random("tiedresnet_tiny", path)


@pytest.mark.parametrize("name", ["resnet_tiny", "torchvision/resnet18"])
def test_a_tasks_model_is_tied_as_it_was(name: str, tmp_path: Path) -> None:
    path, net = checkpoint(tmp_path, name, num_classes=9, tied={"layer3.*": 2})
    model = build_model(name, checkpoint=path)
    assert same_weights(model, net)
    assert any(isinstance(layer, TiedConv2d) for layer in model.modules())


def test_a_tasks_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, num_classes=9)
    message = rf"build_model: {path} holds tiedresnet_tiny, not resnet_tiny\. Give that name, or another checkpoint\."
    with pytest.raises(ValueError, match=message):
        build_model("resnet_tiny", checkpoint=path)


def test_a_detectors_checkpoint_is_refused(tmp_path: Path) -> None:
    content = {
        "pytorch-lightning_version": "2.0",
        "state_dict": {"model.backbone.body.conv1.weight": torch.zeros(1)},
        "hyper_parameters": {"backbone": "resnet_tiny", "num_classes": 3, "optimization": {}},
    }
    torch.save(content, tmp_path / "last.ckpt")
    message = r"last\.ckpt holds a detector, with the backbone resnet_tiny, and only classifiers can be loaded here\."
    with pytest.raises(ValueError, match=message):
        build_model("resnet_tiny", checkpoint=tmp_path / "last.ckpt")


@pytest.mark.parametrize("name", ["resnet_tiny", "test_efficientnet"])
def test_classes_and_channels_are_taken_from_a_plain_file(name: str, tmp_path: Path) -> None:
    net = timm.create_model(name, num_classes=5, in_chans=2)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    model = build_model(name, checkpoint=tmp_path / "net.safetensors")
    assert same_weights(model, net)
    assert input_size(model)[0] == 2


def test_classes_of_torchvisions_model_are_taken_from_the_file(tmp_path: Path) -> None:
    net = torchvision.models.resnet18(num_classes=5)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    assert same_weights(build_model("torchvision/resnet18", checkpoint=tmp_path / "net.pth"), net)


def test_what_is_given_counts_more_than_the_file(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet_tiny", num_classes=5).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"build_model: .*Only the classifier differs: the file has num_classes=5\."):
        build_model("resnet_tiny", checkpoint=tmp_path / "net.pth", num_classes=6)


def test_a_folder_is_loaded_and_a_checkpoint_goes_into_its_model(tmp_path: Path) -> None:
    net, other = (timm.create_model("resnet_tiny", num_classes=5, in_chans=1) for _ in range(2))
    folder = save_pretrained(net, tmp_path / "saved")
    torch.save(other.state_dict(), tmp_path / "other.pth")
    assert same_weights(build_model(str(folder)), net)
    assert same_weights(build_model(str(folder), pretrained=True), net)
    assert all(module.training for module in build_model(str(folder)).modules())
    assert same_weights(build_model(str(folder), checkpoint=tmp_path / "other.pth"), other)
    assert not is_random(str(folder))


def test_a_name_is_a_name_even_where_there_is_such_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = timm.create_model("resnet_tiny", num_classes=5)
    for folder in ("resnet18", "resnet_tiny.mine"):
        save_pretrained(net, folder)
    assert is_random("resnet18")
    assert [same_weights(build_model(name), net) for name in ("./resnet18", "resnet_tiny.mine")] == [True, True]
    assert not is_random("./resnet18")


def test_libraries_weights_are_not_random() -> None:
    assert not is_random("resnet18", pretrained=True)
    assert not is_random("hf-hub:somebody/net")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_tyni", r"^no model is called 'resnet_tyni'\."),
        ("runs/net", r"build_model: there is no folder runs/net\. A repository of the Hub is called hf-hub:runs/net\."),
    ],
)
@pytest.mark.parametrize("with_file", [False, True])
def test_names_of_no_model(name: str, message: str, with_file: bool, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        build_model(name, checkpoint=tmp_path / "net.pth" if with_file else None)


def test_two_sources_of_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"build_model: got pretrained=True and the weights in net\.pth\. Give one"):
        build_model("resnet18", checkpoint=Path("net.pth"), pretrained=True)


def test_layers_are_tied_after_the_model_is_built(tmp_path: Path) -> None:
    model = build_model("resnet_tiny", tied={"layer3.*": 2}, num_classes=5)
    assert any(isinstance(layer, TiedConv2d) for layer in model.get_submodule("layer3").modules())
    assert not any(isinstance(layer, TiedConv2d) for layer in model.get_submodule("layer2").modules())
    torch.save(model.state_dict(), tmp_path / "net.pth")
    assert same_weights(build_model("resnet_tiny", checkpoint=tmp_path / "net.pth", tied={"layer3.*": 2}), model)
