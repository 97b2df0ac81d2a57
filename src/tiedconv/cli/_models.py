"""Models as the commands are given them: a name or a folder, and a file of weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torchvision import transforms

from ..convert import tie_
from ..models import build_model, check_model
from ..models.named import HUB, TORCHVISION, for_channels, native_input_size
from ..models.weights import load_state, read_checkpoint, sizes

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as all of torchvision's classifiers have it
_MODES = {1: "L", 3: "RGB"}


def load_model(name: str, checkpoint: Path | None = None, **kwargs: Any) -> nn.Module:
    """Build a model in eval mode, from names and files alone; the network is used for ``hf-hub:`` and ``pretrained``.

    Args:
        name: of a timm model, tied or not; ``torchvision/<name>``; a folder that ``save_pretrained`` wrote; or
            ``hf-hub:<repository>``. What is both a name and a folder is the name: write ``./<folder>``.
        checkpoint: weights to load, as :func:`tiedconv.models.read_weights` reads them. Default: those of the folder or
            repository, and random ones for a name.
        kwargs: ``num_classes``, ``in_chans``, ``pretrained`` and more arguments of the model. Default: what the
            checkpoint has.

    Raises:
        FileNotFoundError: if the checkpoint does not exist.
        ValueError: if there is no such model, or the checkpoint is of another one or of a detector.
    """
    if checkpoint is None:
        return _build(name, kwargs).eval()
    if kwargs.get("pretrained"):
        raise ValueError(f"load_model: got pretrained=True and the weights in {checkpoint}. Give one of the two.")
    state, arguments = read_checkpoint(checkpoint, who="load_model")
    if _is_name(name):
        _check_name(name)
        kwargs = {**_from_task(name, checkpoint, arguments), **kwargs}
        with torch.device("meta"):
            like = build_model(name, **{k: v for k, v in kwargs.items() if k != "in_chans"})
        kwargs = {**sizes(like, state), **kwargs}
    model = _build(name, kwargs)
    if arguments.get("tied") is not None:
        tie_(model, arguments["tied"], init="random")
    load_state(model, state, checkpoint, who="load_model")
    return model.eval()


def is_random(name: str, checkpoint: Path | None, kwargs: Mapping[str, Any]) -> bool:
    """Whether :func:`load_model` would draw the weights."""
    return checkpoint is None and _is_name(name) and not kwargs.get("pretrained")


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Return the (C, H, W) of the images that a model is made for.

    Raises:
        ValueError: if it is neither timm's nor torchvision's.
    """
    size = native_input_size(model)
    if size is None:
        raise ValueError(f"{type(model).__name__} does not say which images it is made for. Give --input_size C,H,W.")
    return size


def eval_transform(model: nn.Module) -> Callable[[Image.Image], Tensor]:
    """Return what makes of a picture of any mode the (C, H, W) tensor that a model is evaluated on.

    A model of one channel sees the picture in grey, normalised by the mean of the colours' statistics.

    Raises:
        ValueError: if the model is neither timm's nor torchvision's.
    """
    channels, height, width = input_size(model)
    if hasattr(model, "pretrained_cfg"):
        config = for_channels(resolve_data_config(model=model), channels)
        steps = create_transform(**{**config, "input_size": (channels, height, width)})
    else:
        steps = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop((height, width)),
                transforms.ToTensor(),
                transforms.Normalize(_MEAN, _STD),
            ]
        )
    mode = _MODES.get(channels)
    return lambda picture: steps(picture if mode is None else picture.convert(mode))


def _is_name(name: str) -> bool:
    """Whether ``name`` means a model of a library, and no folder or repository."""
    if name.startswith((TORCHVISION, HUB)):
        return name.startswith(TORCHVISION)
    # "resnet50.a1_in1k" is a name with a tag, unless there is a folder of that name.
    return (timm.is_model(name) and "." not in name) or not Path(name).is_dir()


def _build(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    if _is_name(name):
        _check_name(name)
        return build_model(name, **kwargs)
    from ..export.hub import from_pretrained

    return from_pretrained(name, **{k: v for k, v in kwargs.items() if k != "pretrained"})  # as it is


def _check_name(name: str) -> None:
    if "/" in name and not name.startswith(TORCHVISION):
        raise ValueError(f"load_model: there is no folder {name}. A repository of the Hub is called {HUB}{name}.")
    check_model("load_model", name)


def _from_task(name: str, checkpoint: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the task that wrote ``checkpoint`` built its model."""
    if "backbone" in arguments:
        raise ValueError(
            f"load_model: {checkpoint} holds a detector, with the backbone {arguments['backbone']}, and only "
            "classifiers can be loaded here. Give the checkpoint of a classifier."
        )
    if "model" not in arguments:
        return {}  # of no task of ours: the weights alone say what it is
    trained = str(arguments["model"])
    if trained.partition(".")[0] != name.partition(".")[0]:  # the tag of timm's weights says nothing about the network
        raise ValueError(
            f"load_model: {checkpoint} holds {trained}, not {name}. Give that name, or another checkpoint."
        )
    options = ("num_classes", "in_chans")
    return {**(arguments.get("model_kwargs") or {}), **{k: arguments[k] for k in options if k in arguments}}
