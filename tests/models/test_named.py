import pytest
import timm
import torch
import torchvision
from torch import nn

from tiedconv.models import build_model, check_model
from tiedconv.models.named import native_input_size
from tiedconv.nn import SplitTiedConv2d


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
        ("resnet_tyni", r"somebody: no model is called 'resnet_tyni'\. `tiedconv list` prints"),
        ("torchvision/resnet_tiny", "somebody: torchvision has no classifier 'resnet_tiny'"),
        ("torchvision/fasterrcnn_resnet50_fpn", "somebody: torchvision has no classifier 'fasterrcnn_resnet50_fpn'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_model("somebody", name)
    with pytest.raises(ValueError, match=message.replace("somebody", "build_model")):
        build_model(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "tiedresnet50", "torchvision/resnet50"])
def test_known_names(name: str) -> None:
    check_model("somebody", name)


def test_channels_of_torchvisions_models_cannot_be_chosen() -> None:
    message = r"build_model: torchvision/resnet18 takes images of 3 channels, got in_chans=1\. Leave in_chans out"
    with pytest.raises(ValueError, match=message):
        build_model("torchvision/resnet18", in_chans=1)


@pytest.mark.parametrize(
    ("name", "kwargs", "size"),
    [
        ("tiedresnet_tiny", {"in_chans": 1}, (1, 32, 32)),
        ("tresnet_m", {}, (3, 224, 224)),  # its first convolution has 48 channels
        ("vit_tiny_patch16_224", {"img_size": 96}, (3, 96, 96)),
        ("torchvision/resnet18", {}, (3, 224, 224)),
    ],
)
def test_a_model_runs_on_its_native_input(name: str, kwargs: dict, size: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        model = build_model(name, **kwargs).eval()
        assert native_input_size(model) == size
        assert model(torch.empty(1, *size)).shape == (1, 1000)


def test_other_models_have_no_native_input() -> None:
    assert native_input_size(nn.Conv2d(3, 3, 1)) is None
