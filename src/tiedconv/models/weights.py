"""Reading weights from files, and loading them into models."""

import argparse
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .._checks import first_line
from ..nn import TiedConv2d, TiedLinear

_FETCHING = ("pretrained", "checkpoint_path", "weights", "weights_backbone")  # of timm's and torchvision's models
_COUNTER = "num_batches_tracked"
_UPDATES = "n_averaged"  # what torch's AveragedModel counts beside the weights
_READABLE = "Give a checkpoint of `tiedconv fit`, a state_dict() saved by torch.save, or a .safetensors file."

# Where training files keep the weights; moving averages come first, as in timm.models.load_checkpoint.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema")
_PLACES = (*_AVERAGES, "state_dict", "model_state_dict", "model", "params", "net", "module")

_AVERAGED = "the moving average of the weights is read, not the weights after the last step."
# Until it begins, Lightning's average is what the training started from.
_NOT_AVERAGED = "the weights after the last step are read, as their moving average has not begun."

_PREFIXES = ("module.", "model.", "net.")  # where wrappers and Lightning modules keep a network
_WRAPPERS = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # torch's, at any depth


def read_weights(path: str | Path, model: nn.Module | None = None) -> dict[str, Tensor]:
    """Read the weights in a file, on the CPU. Nothing in the file is executed.

    A moving average of the weights is preferred, as in ``timm.models.load_checkpoint``, and prefixes such as
    ``module.``, ``_orig_mod.``, ``model.`` and ``net.`` are removed if all names have them. A warning says so.

    Args:
        path: a checkpoint of ``tiedconv fit``; a state dict saved by ``torch.save``, alone or in a larger dict, such as
            under ``"state_dict"``, ``"model"`` or ``"model_ema"``; or ``.safetensors``.
        model: the network whose names are wanted, which may have such prefixes itself. Default: names without them.

    Returns:
        The tensors by the names that they have in the network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds something else.
    """
    return match_names(read_checkpoint(path)[0], path, () if model is None else model.state_dict())


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights in a file, by the file's names, and the arguments of the task that wrote it, else ``{}``.

    Of a Lightning module only what is below ``model`` is read. The arguments have ``pretrained_cfg``, how images are
    prepared, and lack what would fetch the weights that the training started from.
    """
    path = Path(path)
    content = _read(path)
    found, where = _find_state(path, content)
    if not isinstance(found, Mapping):
        raise ValueError(  # noqa: TRY004  the file is at fault, not an argument's type
            f"{path} must hold a state dict, got a {type(content).__name__}. {_READABLE}"
        )
    for key, value in found.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise ValueError(  # noqa: TRY004  as above
                f"{path} must hold a state dict{where}, but its entry {key!r} is a {type(value).__name__}. {_READABLE}"
            )
        if value.layout != torch.strided or value.is_meta:
            raise ValueError(f"{path} must hold dense tensors with values, but {key!r} is not one. {_READABLE}")
    if "pytorch-lightning_version" not in content:
        return dict(found), {}
    weights = {key.removeprefix("model."): value for key, value in found.items() if key.startswith("model.")}
    if 0 < len(weights) < len(found):
        other = next(key for key in found if not key.startswith("model."))
        warnings.warn(f"{path}: only what is under model is read, without {other} and the like.", stacklevel=3)
    weights, arguments = weights or dict(found), content.get("hyper_parameters")
    if not isinstance(arguments, Mapping) or "optimization" not in arguments:
        return weights, {}  # not of one of our tasks
    kwargs = arguments.get("model_kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise ValueError(f"{path} has a {type(kwargs).__name__} as model_kwargs. {_READABLE}")  # noqa: TRY004
    kwargs = {k: v for k, v in kwargs.items() if k not in _FETCHING}
    return weights, {**arguments, "pretrained_cfg": content.get("pretrained_cfg"), "model_kwargs": kwargs}


def read_images(path: str | Path) -> Mapping[str, Any] | None:
    """Return how the training that wrote a checkpoint prepared images, if it says so; the weights stay on the disk."""
    content = _read(Path(path), mmap=True)
    return content.get("pretrained_cfg") if isinstance(content, Mapping) else None


def _find_state(path: Path, content: Any) -> tuple[Any, str]:
    """Return the state dict in what a file holds, and where it was, in words; warn if it is a moving average."""
    found, where, said = content, "", ""
    for _ in range(2):  # some files have {"ema": {"module": ...}}
        if not isinstance(found, Mapping):
            return found, where
        held = (key for key in _PLACES if isinstance(found.get(key), Mapping))
        key = next((key for key in held if key not in _AVERAGES or _has_begun(found[key])), None)
        if key is not None:
            found, where = found[key], f" under {key!r}"
            said = _AVERAGED if key in _AVERAGES else said
    lightning = content.get("averaging_state")
    if isinstance(lightning, Mapping):
        said = _AVERAGED
        if not _has_begun(lightning):
            said, where = _NOT_AVERAGED, " under 'current_model_state'"
            found = content.get("current_model_state")
    if said:
        warnings.warn(f"{path}: {said}", stacklevel=4)
    return found, where


def _has_begun(average: Mapping[str, Any]) -> bool:
    """Say whether a moving average holds more than the weights that the training started from."""
    state = next((average[key] for key in _PLACES if isinstance(average.get(key), Mapping)), average)
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        return False
    updates = state.get(_UPDATES)
    return updates is None or updates.is_meta or bool(updates.any())


@contextmanager
def explained_damage(path: Path, advice: str) -> Iterator[None]:
    """Say which file is missing, damaged or unsafe when reading one of weights fails, and end with ``advice``."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix in (".ckpt", ".safetensors", ".pth")]
        raise FileNotFoundError(f"{path} is a folder. Give a file in it{f', such as {files[0]}' if files else ''}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {advice}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty. {advice}")
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a file of weights, or holds Python objects besides them, such as a whole model; reading "
            f"those could run any code, so it is read with weights_only=True. {advice}"
        ) from error
    except Exception as error:  # for a damaged file torch and safetensors raise whatever comes
        raise ValueError(f"{path} cannot be read: {first_line(error)}. Is the file whole? {advice}") from error


def _read(path: Path, *, mmap: bool = False) -> Any:
    with explained_damage(path, _READABLE):
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options in files of timm and torchvision
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def match_names(state: Mapping[str, Tensor], path: str | Path, expected: Iterable[str] = ()) -> dict[str, Tensor]:
    """Return ``state``, read from ``path``, by the names in ``expected`` where only prefixes of wrappers differ.

    Without ``expected`` the prefixes are removed.
    """
    plain = _without_wrappers(state)
    own = {name: key for key, name in _without_wrappers(expected).items()}
    names = {key: own.get(name, name) for key, name in plain.items()}
    renamed = {name: state[key] for key, name in names.items()}
    changed = [f"{key} to {name}" for key, name in names.items() if key != name]
    fits_better = not own or len(renamed.keys() & own.values()) > len(state.keys() & own.values())
    if not changed or len(renamed) < len(names) or not fits_better:
        return dict(state)
    warnings.warn(f"{path}: names are changed, such as {changed[0]}: wrappers add such prefixes.", stacklevel=3)
    return renamed


def _without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Return every name without what wrappers add: torch's at any depth, and a prefix that all names share."""
    plain = {name: _WRAPPERS.sub("", name) for name in names if name != _UPDATES}
    common = ""
    while part := next((p for p in _PREFIXES if plain and all(n.startswith(common + p) for n in plain.values())), ""):
        common += part
    return {key: name.removeprefix(common) for key, name in plain.items()}


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
    load_state(model, read_checkpoint(path)[0], path)


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Do as :func:`load_weights` with weights that :func:`read_checkpoint` has read from ``path``."""
    expected = model.state_dict()
    state = match_names(state, path, expected)
    difference = describe_difference(expected, state)
    if difference:
        heads = tuple(f"{layer}." for layer in classifiers(model))
        bodies = ({k: v for k, v in weights.items() if not k.startswith(heads)} for weights in (expected, state))
        classes = _num_classes(model, state)
        hint = ""
        if classes and not describe_difference(*bodies):
            hint = f" Only the classifier differs: the file has num_classes={classes}. Build the model with as many."
        raise ValueError(f"{path} does not hold the weights of this {type(model).__name__} ({difference}).{hint}")
    for key, value in state.items():
        # In the model's own type, in which a large number can be infinite.
        if value.is_floating_point() and not value.to(expected[key].dtype).isfinite().all():
            raise ValueError(
                f"{path} has values in {key} that are not finite. Give weights from before the training diverged."
            )
    model.load_state_dict(state)


def describe_difference(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Describe how ``state`` differs from ``expected`` in names, shapes and kinds of number; empty if it does not.

    Kinds are floating point, integer and complex, which torch would convert silently. Batch norms' counters of batches
    may be missing, as in old files, or be floating point, as after an averaging of checkpoints.

    Example:
        >>> a, b = nn.Linear(2, 3), nn.Linear(2, 4, bias=False)
        >>> describe_difference(a.state_dict(), b.state_dict())
        'missing: 1, such as bias; of another shape: 1, such as weight'
    """
    shared = [key for key in expected if key in state]
    weights = [key for key in shared if not key.endswith(_COUNTER)]
    kinds = {
        "missing": [key for key in expected if key not in state and not key.endswith(_COUNTER)],
        "unknown": [key for key in state if key not in expected],
        "of another shape": [key for key in shared if state[key].shape != expected[key].shape],
        "of another kind of number": [key for key in weights if _kind(state[key]) != _kind(expected[key])],
    }
    return "; ".join(f"{what}: {len(keys)}, such as {keys[0]}" for what, keys in kinds.items() if keys)


def _kind(tensor: Tensor) -> str:
    return "complex" if tensor.is_complex() else "floating" if tensor.is_floating_point() else "integer"


def classifiers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that output the classes: those timm names, else the last layer."""
    cfg: Any = getattr(model, "pretrained_cfg", None)
    if cfg is not None:
        return _names(cfg.get("classifier"))
    kinds = (nn.Linear, nn.Conv2d, TiedLinear, TiedConv2d)
    return tuple([name for name, layer in model.named_modules() if isinstance(layer, kinds)][-1:])


def sizes(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Read ``num_classes`` and ``in_chans`` off the shapes in ``state``, where the layers are known.

    ``model`` is of the same architecture, with the default number of channels and any number of classes.
    """
    cfg: Any = getattr(model, "pretrained_cfg", {})
    own = model.state_dict()
    classes = _num_classes(model, state)
    found = {} if classes is None else {"num_classes": classes}
    for name in _names(cfg.get("first_conv"))[:1]:
        weight, known = (weights.get(f"{name}.weight") for weights in (state, own))
        image = cfg.get("input_size")
        if image and weight is not None and known is not None and weight.dim() == known.dim() > 1:
            # Some stems have several inputs per channel: TResNet first folds 4x4 pixels into channels.
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
