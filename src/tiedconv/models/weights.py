"""Weights read from a file, and loaded into the model that they are of."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..nn import TiedConv2d, TiedLinear

_FETCHING = ("pretrained", "checkpoint_path", "weights", "weights_backbone")  # of timm's and torchvision's models
_COUNTER = "num_batches_tracked"
_READABLE = "Give a checkpoint of `tiedconv fit`, a state dict saved by torch.save, or a .safetensors file."


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a file, on the CPU. Nothing in the file is executed.

    Args:
        path: a checkpoint of ``tiedconv fit``; a state dict saved by ``torch.save``, alone or as ``"state_dict"`` or
            ``"model"`` of a larger dict; or ``.safetensors``.

    Returns:
        The tensors by the names that they have in the network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds something else.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As :func:`read_weights`, with the arguments of the task that wrote the file; ``{}`` if none did.

    Of the model's arguments those are left out that would fetch the weights which that training started from.
    """
    path = Path(path)
    content = _read(path)
    found: Any = content
    if isinstance(content, Mapping):
        found = next(
            (content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content
        )
    if not isinstance(found, Mapping):
        raise ValueError(  # noqa: TRY004  the file is at fault, not an argument's type
            f"{path} must hold a state dict, got a {type(content).__name__}. {_READABLE}"
        )
    foreign = next((k for k, value in found.items() if not (isinstance(k, str) and isinstance(value, Tensor))), None)
    if foreign is not None:
        raise ValueError(
            f"{path} must hold a state dict, but its entry {foreign!r} is a {type(found[foreign]).__name__}. "
            f"{_READABLE}"
        )
    odd = next((k for k, value in found.items() if value.layout != torch.strided or value.is_meta), None)
    if odd is not None:
        raise ValueError(f"{path} must hold dense tensors with values, but {odd!r} is none. {_READABLE}")
    if "pytorch-lightning_version" not in content:
        return dict(found), {}
    # Lightning's checkpoint of a task, which keeps the network under "model".
    weights = {key.removeprefix("model."): value for key, value in found.items() if key.startswith("model.")}
    given = content.get("hyper_parameters") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{path} has a {type(given).__name__} as hyper_parameters. {_READABLE}")  # noqa: TRY004
    arguments = dict(given)
    if arguments.get("model_kwargs"):
        arguments["model_kwargs"] = {k: v for k, v in arguments["model_kwargs"].items() if k not in _FETCHING}
    return weights, arguments


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {_READABLE}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty. {_READABLE}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is no file of weights, or holds Python objects beside them, such as a whole model; reading "
            "those could run any code, so it is read with weights_only=True. Save model.state_dict() alone."
        ) from error
    except Exception as error:  # for a damaged file torch and safetensors raise whatever comes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}. Is the file whole? {_READABLE}") from error


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights in a file into ``model``, all of them or, on an error, none.

    Args:
        model: on any device.
        path: as in :func:`read_weights`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, holds the weights of another network (how many are missing, unknown, of
            another shape or of another kind of number), or values that are not finite.
    """
    load_state(model, read_weights(path), path)


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """As :func:`load_weights`, for weights that were read from ``path`` already."""
    expected = model.state_dict()
    difference = describe_difference(expected, state)
    if difference:
        heads = tuple(f"{layer}." for layer in classifiers(model))
        classes = _num_classes(model, state)
        hint = ""
        if classes and not describe_difference(_without(expected, heads), _without(state, heads)):
            hint = f" Only the classifier differs: the file has num_classes={classes}. Build the model with as many."
        raise ValueError(f"{path} does not hold the weights of this {type(model).__name__} ({difference}).{hint}")
    for key, value in state.items():
        # In the model's own type, in which a large number can be infinite.
        if value.is_floating_point() and not value.to(expected[key].dtype).isfinite().all():
            raise ValueError(
                f"{path} has values in {key} that are not finite. Give weights from before the training diverged."
            )
    model.load_state_dict(dict(state))


def describe_difference(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Say what of ``expected`` is missing in ``state``, unknown or unlike in shape or kind; empty if nothing is.

    Kinds are floating point, integer and complex: torch would convert one to another without a word. The counters of
    batches in batch norms may be missing, as in old files; torch starts them at 0. Averaging of checkpoints makes
    floating-point numbers of them.

    Example:
        >>> a, b = nn.Linear(2, 3), nn.Linear(2, 4, bias=False)
        >>> describe_difference(a.state_dict(), b.state_dict())
        'missing: 1, such as bias; of another shape: 1, such as weight'
    """
    missing = [key for key in expected if key not in state and not key.endswith(_COUNTER)]
    unknown = [key for key in state if key not in expected]
    reshaped = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    recast = [
        key
        for key in expected
        if key in state and not key.endswith(_COUNTER) and _kind(state[key]) != _kind(expected[key])
    ]
    kinds = (
        ("missing", missing),
        ("unknown", unknown),
        ("of another shape", reshaped),
        ("of another kind of number", recast),
    )
    return "; ".join(f"{what}: {len(keys)}, such as {keys[0]}" for what, keys in kinds if keys)


def _kind(tensor: Tensor) -> str:
    return "complex" if tensor.is_complex() else "floating" if tensor.is_floating_point() else "integer"


def classifiers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that give the classes: what timm's configuration says, else the last layer."""
    cfg: Any = getattr(model, "pretrained_cfg", None)
    if cfg is not None:
        return _names(cfg.get("classifier"))
    kinds = (nn.Linear, nn.Conv2d, TiedLinear, TiedConv2d)
    return tuple([name for name, layer in model.named_modules() if isinstance(layer, kinds)][-1:])


def sizes(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Read ``num_classes`` and ``in_chans`` off the shapes in ``state``, as far as ``model`` names those layers.

    Args:
        model: of the architecture that the weights are of, with the default number of channels and any of classes.
        state: its weights.
    """
    cfg: Any = getattr(model, "pretrained_cfg", {})
    own = model.state_dict()
    classes = _num_classes(model, state)
    found = {} if classes is None else {"num_classes": classes}
    for name in _names(cfg.get("first_conv"))[:1]:
        weight, known = (weights.get(f"{name}.weight") for weights in (state, own))
        image = cfg.get("input_size")
        if image and weight is not None and known is not None and weight.dim() == known.dim() > 1:
            # Some stems have several inputs a channel: TResNet's first folds 4x4 pixels into channels.
            found["in_chans"] = image[0] * weight.shape[1] // known.shape[1]
    return found


def _num_classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    for name in classifiers(model)[:1]:
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.dim():
            return len(weight) * getattr(dict(model.named_modules()).get(name), "blocks", 1)
    return None


def _names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _without(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}
