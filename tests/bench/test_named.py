import pytest
import torch

from tiedconv.bench.named import build_model, check_model, with_released
from tiedconv.nn import SplitTiedConv2d, TiedConv2d


def test_twins_in_the_released_formulation_are_built_by_name():
    with torch.device("meta"):
        ours, twin = (build_model(name) for name in ("tiedresnet_tiny", "tiedresnet_tiny (released)"))
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


@pytest.mark.parametrize("name", ["resnet_tyni", "resnet_tyni (released)"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="bench: no model is called 'resnet_tyni'"):
        check_model(name)


@pytest.mark.parametrize("name", ["resnet18", "tiedresnet50 (released)", "torchvision/resnet50"])
def test_known_names(name):
    check_model(name)
