import pytest
import torch
import torchvision

from tiedconv.bench.named import build_model, check_model, with_released
from tiedconv.nn import SplitTiedConv2d, TiedConv2d


def test_models_of_timm_torchvision_and_ours_are_built_by_name():
    with torch.device("meta"):
        theirs, ours, twin = (
            build_model(name) for name in ("torchvision/resnet18", "tiedresnet_tiny", "tiedresnet_tiny (released)")
        )
    assert type(theirs) is torchvision.models.ResNet
    assert any(isinstance(layer, SplitTiedConv2d) for layer in ours.modules())
    assert not any(
        isinstance(m, SplitTiedConv2d) or (isinstance(m, TiedConv2d) and m.blocks > 1) for m in twin.modules()
    )
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in ours.parameters())


def test_twins_follow_the_tied_models():
    assert with_released(["torchvision/resnet18", "tiedresnet_tiny", "resnet_tiny"]) == [
        "torchvision/resnet18",
        "tiedresnet_tiny",
        "tiedresnet_tiny (released)",
        "resnet_tiny",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_tyni", "bench: no model is called 'resnet_tyni'"),
        ("resnet_tyni (released)", "bench: no model is called 'resnet_tyni'"),
        ("torchvision/resnet_tiny", "bench: torchvision has no classifier 'resnet_tiny'"),
        ("torchvision/fasterrcnn_resnet50_fpn", "bench: torchvision has no classifier 'fasterrcnn_resnet50_fpn'"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        check_model(name)


@pytest.mark.parametrize("name", ["resnet18", "tiedresnet50 (released)", "torchvision/resnet50"])
def test_known_names(name):
    check_model(name)
