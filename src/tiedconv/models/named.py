"""Any model by name: of timm or torchvision, or saved in a folder or on the Hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from .. import _checks
from ..convert import tie_
from ..nn import TIED_LAYERS
from ._factory import check_model_name
from .inputs import for_channels, set_images
from .saved import CONFIG, HUB, WEIGHTS, build_arguments, own_entry, read_config, saved_folder
from .weights import load_state, load_weights, match_names, read_checkpoint, sizes

TORCHVISION = "torchvision/"  # before the name of a model of torchvision


def build_model(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    tied: int | Mapping[str, int] | None = None,
    pretrained: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Build a model by name, in train mode. Only ``hf-hub:`` and ``pretrained`` use the network.

    Args:
        name: of a timm model, tied or not; ``torchvision/<name>`` of a classifier; a folder that
            :func:`tiedconv.export.save_pretrained` wrote; or ``hf-hub:<repository>``. A name wins over a folder
            of that name: write ``./<folder>``.
        checkpoint: weights to load, as :func:`read_weights` reads them. Default: those of the folder or repository, and
            random ones for a name.
        tied: number of blocks with which layers are tied after the model is built, as in :func:`tiedconv.tie_`, with
            new random weights. Default: as the training that wrote the checkpoint tied them.
        pretrained: load the library's weights, from its cache or the network; without effect on a saved model.
        kwargs: ``num_classes``, ``in_chans`` and other arguments of the model. Default: those of the checkpoint.
            torchvision's models take 3 channels.

    Raises:
        FileNotFoundError: if the checkpoint or the saved model does not exist.
        ValueError: if there is no such model, ``in_chans`` is not 3 for a model of torchvision, or the checkpoint is of
            another model or of a detector.

    Example:
        >>> build_model("torchvision/resnet18", num_classes=10).fc.out_features
        10
    """
    named = is_name(name)
    if named:
        if "/" in name and not name.startswith(TORCHVISION):
            raise ValueError(f"build_model: there is no folder {name}. A repository of the Hub is called {HUB}{name}.")
        check_model(name)
    state, arguments = None, dict[str, Any]()
    if checkpoint is not None:
        if pretrained:
            raise ValueError(f"build_model: got pretrained=True and the weights in {checkpoint}. Give one of the two.")
        with _checks.named("build_model"):
            state, arguments = read_checkpoint(checkpoint)
        if named:
            kwargs = {**_from_task(name, checkpoint, arguments), **kwargs}
            with torch.device("meta"):
                like = _create(name, False, {k: v for k, v in kwargs.items() if k != "in_chans"})
            state = match_names(state, checkpoint, like.state_dict())
            kwargs = {**sizes(like, state), **kwargs}
        tied = arguments.get("tied") if tied is None else tied
    model = _create(name, pretrained, kwargs) if named else from_pretrained(name, **kwargs)
    if checkpoint is not None and arguments.get("pretrained_cfg") is not None:
        try:
            set_images(model, arguments["pretrained_cfg"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"build_model: {checkpoint} describes its images in an invalid way: {error}.") from error
    if tied is not None:
        tie_(model, tied, init="random")
    if state is not None and checkpoint is not None:
        with _checks.named("build_model"):
            load_state(model, state, checkpoint)
    return model.train()


def is_random(name: str, checkpoint: str | Path | None = None, pretrained: bool = False) -> bool:
    """Say whether :func:`build_model` gives random weights."""
    return checkpoint is None and not pretrained and is_name(name)


def check_model(name: str) -> None:
    """Raise ValueError unless timm or torchvision has a model called ``name``."""
    if not name.startswith(TORCHVISION):
        check_model_name(name)
    elif name.removeprefix(TORCHVISION) not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"torchvision has no classifier {name.removeprefix(TORCHVISION)!r}. "
            "torchvision.models.list_models(module=torchvision.models) lists them."
        )


@_checks.named("from_pretrained")
def from_pretrained(
    source: str | Path, *, model: nn.Module | None = None, token: str | None = None, **kwargs: Any
) -> nn.Module:
    """Load a model that :func:`tiedconv.export.save_pretrained` or timm saved, in eval mode.

    Nothing in the files is executed, and a folder is read without the network.

    Args:
        source: a folder, or ``"hf-hub:<user>/<name>"``, which may end in ``@<revision>``.
        model: load into this one, whose layers are tied first as the saved model's are. Needed for networks that are
            neither timm's nor torchvision's. Default: a new one.
        token: of the Hub, for a private repository.
        kwargs: arguments of the model that change no weight, such as ``drop_path_rate``.

    Raises:
        FileNotFoundError: if the folder or a file in it does not exist.
        ValueError: if a file is broken, or the weights are not those of the model.
    """
    folder = saved_folder(str(source), token)
    path = folder / CONFIG
    config = read_config(path)
    if model is None:
        model = _build_saved(path, config, kwargs)
    elif kwargs:
        raise ValueError(f"got a model, and {', '.join(kwargs)} to build one. Give one of the two.")
    try:
        tie_as_saved(model, own_entry(config).get("tied", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} ties layers that it cannot: {error}") from error
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def tie_as_saved(model: nn.Module, tied: Mapping[str, int]) -> None:
    """Tie the layers of ``model`` that are tied in a saved model and not yet in this one."""
    layers = dict(model.named_modules())
    # A layer that is missing shows up later, among the weights that do not fit.
    left = {
        name: blocks for name, blocks in tied.items() if name in layers and not isinstance(layers[name], TIED_LAYERS)
    }
    if left:
        tie_(model, left, init="random")


def is_name(name: str) -> bool:
    """Say whether ``name`` is that of a library's model, not of a folder or repository."""
    if name.startswith((TORCHVISION, HUB)):
        return name.startswith(TORCHVISION)
    # "resnet50.a1_in1k" is a name with a tag, unless there is a folder of that name.
    return (timm.is_model(name) and "." not in name) or not Path(name).is_dir()


def _create(name: str, pretrained: bool, kwargs: Mapping[str, Any]) -> nn.Module:
    """Build a model of timm or torchvision."""
    if not name.startswith(TORCHVISION):
        model: Any = timm.create_model(name, pretrained=pretrained, **kwargs)
        if hasattr(model, "pretrained_cfg"):
            channels = kwargs.get("in_chans", model.pretrained_cfg["input_size"][0])
            model.pretrained_cfg = model.default_cfg = for_channels(model.pretrained_cfg, channels)
        return model
    options = dict(kwargs)
    in_chans = options.pop("in_chans", 3)
    if in_chans != 3:
        raise ValueError(
            f"build_model: {name} takes images of 3 channels, got in_chans={in_chans}. Leave in_chans out, or choose a "
            "model of timm."
        )
    weights = "DEFAULT" if pretrained else None
    return torchvision.models.get_model(name.removeprefix(TORCHVISION), weights=weights, **options)


def _build_saved(path: Path, config: Mapping[str, Any], changes: Mapping[str, Any]) -> nn.Module:
    name = config["architecture"]
    arguments = build_arguments(config, changes)
    check_model(name)
    try:
        model = _create(name, False, arguments)
        if name.startswith(TORCHVISION) and config.get("pretrained_cfg"):
            set_images(model, config["pretrained_cfg"])
        return model
    except Exception as error:  # timm checks few arguments, so it may be any
        changed = f" changed by {', '.join(changes)}" if changes else ""
        raise ValueError(
            f"{path}{changed} describes a {name} that cannot be built: "
            f"{type(error).__name__}: {error}. Save the model again, or correct the arguments."
        ) from error


def _from_task(name: str, checkpoint: str | Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the task that wrote ``checkpoint`` built its model."""
    if "backbone" in arguments:
        raise ValueError(
            f"build_model: {checkpoint} holds a detector, with the backbone {arguments['backbone']}, and only "
            "classifiers can be loaded here. Give the checkpoint of a classifier."
        )
    if "model" not in arguments:
        return {}  # not written by one of our tasks: only the weights say what it is
    trained = str(arguments["model"])
    if trained.partition(".")[0] != name.partition(".")[0]:  # the tag of timm's weights says nothing about the network
        raise ValueError(
            f"build_model: {checkpoint} holds {trained}, not {name}. Give that name, or another checkpoint."
        )
    options = ("num_classes", "in_chans")
    return {**(arguments.get("model_kwargs") or {}), **{k: arguments[k] for k in options if k in arguments}}
