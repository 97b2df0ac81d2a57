"""Models of timm and torchvision by name."""

from typing import Any

import timm
import torchvision
from torch import nn

from ._factory import check_model_name

TORCHVISION, HUB = "torchvision/", "hf-hub:"  # what names of other sources than timm begin with


def check_model(who: str, name: str) -> None:
    """Raise ValueError, in the name of ``who``, unless :func:`build_model` can build ``name``."""
    if not name.startswith(TORCHVISION):
        check_model_name(who, name)
    elif name.removeprefix(TORCHVISION) not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"{who}: torchvision has no classifier {name.removeprefix(TORCHVISION)!r}. "
            "torchvision.models.list_models(module=torchvision.models) lists them."
        )


def build_model(name: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a model, in train mode.

    Args:
        name: of a timm model, tied or not, or ``"torchvision/"`` and the name of a classifier of torchvision.
        pretrained: load the library's weights, from its cache or the network. Default: random weights.
        kwargs: ``num_classes``, ``in_chans`` and more arguments of the library. torchvision's models have 3 channels.

    Raises:
        ValueError: if the name is unknown, or ``in_chans`` is not 3 for a model of torchvision.

    Example:
        >>> build_model("torchvision/resnet18", num_classes=10).fc.out_features
        10
    """
    check_model("build_model", name)
    if not name.startswith(TORCHVISION):
        model: Any = timm.create_model(name, pretrained=pretrained, **kwargs)
        if hasattr(model, "pretrained_cfg"):
            channels = kwargs.get("in_chans", model.pretrained_cfg["input_size"][0])
            model.pretrained_cfg = model.default_cfg = for_channels(model.pretrained_cfg, channels)
        return model
    in_chans = kwargs.pop("in_chans", 3)
    if in_chans != 3:
        raise ValueError(
            f"build_model: {name} takes images of 3 channels, got in_chans={in_chans}. Leave in_chans out, or choose a "
            "model of timm."
        )
    weights = "DEFAULT" if pretrained else None
    return torchvision.models.get_model(name.removeprefix(TORCHVISION), weights=weights, **kwargs)


def for_channels(config: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return timm's configuration of data with the mean of the colours' statistics where it has not ``channels``."""
    found = {key: config[key] for key in ("mean", "std") if config.get(key)}
    return {**config, **{k: v if len(v) == channels else (sum(v) / len(v),) * channels for k, v in found.items()}}


def native_input_size(model: nn.Module) -> tuple[int, int, int] | None:
    """Return the (C, H, W) of the images that a model of timm or torchvision is made for; None for another model."""
    cfg: Any = getattr(model, "pretrained_cfg", None)
    if cfg is not None:
        channels, *size = cfg["input_size"]
        size = getattr(getattr(model, "patch_embed", None), "img_size", None) or size  # of a transformer built for it
        return int(getattr(model, "in_chans", channels)), int(size[0]), int(size[1])
    return (3, 224, 224) if type(model).__module__.startswith("torchvision.models.") else None
