"""The images that a model of timm or torchvision is made for."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from .weights import classifiers

if TYPE_CHECKING:
    from PIL import Image  # torchvision brings it; this package needs its name alone

_MODES = {1: "L", 3: "RGB"}


def native_input_size(model: nn.Module) -> tuple[int, int, int] | None:
    """Return the (C, H, W) of the images that a model of timm or torchvision is made for; None for another model."""
    cfg: Any = getattr(model, "pretrained_cfg", None)
    if cfg is not None:
        channels, *size = cfg["input_size"]
        size = getattr(getattr(model, "patch_embed", None), "img_size", None) or size  # of a transformer built for it
        return int(getattr(model, "in_chans", channels)), int(size[0]), int(size[1])
    return (3, 224, 224) if type(model).__module__.startswith("torchvision.models.") else None


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Return the (C, H, W) of the images that a model is made for.

    Raises:
        ValueError: if it is neither timm's nor torchvision's.
    """
    size = native_input_size(model)
    if size is None:
        raise ValueError(f"{type(model).__name__} does not say which images it is made for. Give --input_size C,H,W.")
    return size


def eval_transform(model: nn.Module) -> "Callable[[Image.Image], Tensor]":
    """Return the transform by which a picture of any mode becomes the (C, H, W) tensor that a model is evaluated on.

    A model of one channel sees the picture in grey, normalised by the mean of the colours' statistics.

    Raises:
        ValueError: if the model is neither timm's nor torchvision's.
    """
    channels, height, width = input_size(model)
    # timm's defaults are torchvision's, except for the interpolation.
    options = {} if hasattr(model, "pretrained_cfg") else {"interpolation": "bilinear"}
    config = for_channels(resolve_data_config(options, model=model), channels)
    steps = create_transform(**{**config, "input_size": (channels, height, width)})
    mode = _MODES.get(channels)
    return lambda picture: steps(picture if mode is None else picture.convert(mode))


def set_images(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Let a model say which images it is for, as timm's models do by ``pretrained_cfg``, also one of torchvision.

    Args:
        model: changed.
        config: ``input_size``, ``mean``, ``std`` and others of timm's words, such as ``label_names``.

    Raises:
        KeyError, TypeError, ValueError: if ``config`` does not hold them.
    """
    channels, height, width = map(int, config["input_size"])
    if min(channels, height, width) < 1:
        raise ValueError(f"input_size must be three numbers of at least 1, got {config['input_size']}")
    for name in ("mean", "std"):
        if len([float(value) for value in config[name]]) != channels:
            raise ValueError(f"{name} must have a number per channel, {channels}, got {config[name]}")
    before = getattr(model, "pretrained_cfg", None) or {"classifier": classifiers(model)}
    found: Any = {**before, **config, "input_size": (channels, height, width)}
    model.pretrained_cfg = model.default_cfg = found


def check_images(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Warn if a model says that it was trained on other images than those of ``config``.

    Raises:
        ValueError: if the names of the classes differ.
    """
    names = label_names(model)
    if not names:
        return  # its training did not say
    if names != list(config["label_names"]):
        raise ValueError(
            f"the network was trained on the classes {some(names)}, the data have {some(config['label_names'])}. Give "
            "the data that it was trained on."
        )
    before: Any = model.pretrained_cfg
    for name in ("input_size", "crop_pct", "mean", "std"):
        if name in before and name in config and before[name] != config[name]:
            warnings.warn(
                f"the network was trained with {name} {before[name]}, the data have {config[name]}.", stacklevel=2
            )


def label_names(model: nn.Module) -> list[str]:
    """Return the names of a model's classes; empty if it does not know them."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return list(config.get("label_names") or [])


def some(names: Sequence[str]) -> str:
    """List the first few names: ``a, b, c, d and 6 more``."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def as_seen(model: nn.Module, images: Tensor) -> Tensor:
    """Return images of :func:`eval_transform`, (N, C, H, W), in 0-1, where black is 0 and white is 1."""
    transform = eval_transform(model)
    black, white = (
        transform(to_pil_image(torch.full((3, 64, 64), value))).mean(dim=(1, 2))[:, None, None] for value in (0.0, 1.0)
    )
    return ((images - black) / (white - black)).clamp(0, 1)


def for_channels(config: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return timm's data configuration; where its mean and std are not one number per channel, they are averaged."""
    found = {key: config[key] for key in ("mean", "std") if config.get(key)}
    return {**config, **{k: v if len(v) == channels else (sum(v) / len(v),) * channels for k, v in found.items()}}
