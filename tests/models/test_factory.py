import re
import warnings
from typing import Any

import pytest
import timm
from torch import nn

import tiedconv
from tiedconv.models._factory import register

NAMES = {
    *("tiedresnet50", "tiedresnet101", "tiedresnet50_s", "tiedresnet101_s"),
    *("tiedresnet50_2s48w", "tiedresnet50_6s24w", "tiedresnet50_8s18w", "tiedresnet50_concat"),
    *("tiedresnext50_32x4d", "tiedresnext50_32x4d_s", "tiedresnext101_32x8d", "tiedresnext101_32x8d_s"),
    *("tiedseresnet50_b2", "tiedseresnet50_b4", "tiedseresnet50_b8"),
    *("tiedsenet50", "tiedsenet101", "tiedsenet101_s"),
    *("tiedresnest50_s", "tiedefficientnet_b0_b2", "tiedefficientnet_b0_b4"),
    *("tiedresnet50_4s16w", "tiedresnet101_4s16w", "tiedresnet50_lite"),
    *("tiedresnet_small", "resnet_small", "tiedresnet_tiny", "resnet_tiny"),
}


def test_all_names_are_there() -> None:
    assert set(tiedconv.list_models()) == NAMES


def test_list_models_is_sorted_and_filters() -> None:
    assert tiedconv.list_models() == sorted(NAMES)
    assert tiedconv.list_models("tiedsenet*") == ["tiedsenet101", "tiedsenet101_s", "tiedsenet50"]
    assert tiedconv.list_models("resnet50") == []


@pytest.mark.parametrize("name", sorted(NAMES))
def test_timm_knows_the_name_and_the_configuration(name: str) -> None:
    assert timm.is_model(name)
    cfg: Any = timm.create_model(name, device="meta").default_cfg
    assert cfg["architecture"] == name
    assert cfg["input_size"] == ((3, 32, 32) if name.endswith(("tiny", "small")) else (3, 224, 224))
    assert cfg["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_configuration_names_the_first_convolution_and_the_classifier(name: str) -> None:
    model = timm.create_model(name, device="meta", in_chans=5, num_classes=7)
    cfg: Any = model.default_cfg
    assert model.get_submodule(cfg["first_conv"]).in_channels == 5
    assert model.get_submodule(cfg["classifier"]).out_features == 7


def test_create_model_is_timms() -> None:
    ours = tiedconv.create_model("tiedresnet_tiny", num_classes=3, in_chans=1)
    theirs = timm.create_model("tiedresnet_tiny", num_classes=3, in_chans=1)
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [(n, p.shape) for n, p in theirs.named_parameters()]


def test_unknown_name_lists_the_nearest() -> None:
    message = "create_model: 'tiedresnet5' is not one of the 28 models of tiedconv. Nearest names: tiedresnet50, "
    with pytest.raises(ValueError, match=re.escape(message)):
        tiedconv.create_model("tiedresnet5")


def test_timms_own_name_is_sent_to_timm() -> None:
    with pytest.raises(ValueError, match=r"Nearest names: .*timm\.create_model builds it"):
        tiedconv.create_model("resnet50")


def test_unknown_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'blocks'"):
        tiedconv.create_model("tiedresnet_tiny", blocks=2)


def test_block_args_are_overridden_one_by_one() -> None:
    model = tiedconv.create_model("tiedresnet50_6s24w", device="meta", block_args={"mixer": "concatenate"})
    block: Any = model.get_submodule("layer1.0")
    assert block.mixer == "concatenate"
    assert block.conv2.blocks == (1, 1, 2, 2, 4, 4)


@pytest.mark.parametrize("taken", ["tiedresnet50", "resnet50"])
def test_a_taken_name_is_refused(taken: str) -> None:
    def builder(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        raise NotImplementedError

    builder.__name__ = taken
    with warnings.catch_warnings(), pytest.raises(ValueError, match=f"register: the name '{taken}' is taken by"):
        register()(builder)
    assert timm.model_entrypoint(taken) is not builder


def test_there_are_no_weights_to_load() -> None:
    assert timm.list_pretrained("tied*") == []


def test_a_name_is_a_text() -> None:
    with pytest.raises(TypeError, match=r"^the name of a model must be a string, got None \(NoneType\)\."):
        tiedconv.create_model(None)  # type: ignore[arg-type]


def test_what_timm_cannot_build_is_said_in_one_sentence():
    with pytest.raises(ValueError, match=r"create_model: tiedresnet_tiny cannot be built with \{'global_pool': 0\}: "):
        tiedconv.create_model("tiedresnet_tiny", global_pool=0)
