"""The project's models by name: timm's registry, limited to the names registered here."""

import difflib
import fnmatch
import sys
from collections.abc import Callable
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import is_model, register_model
from torch import nn

Builder = Callable[..., nn.Module]

_names: set[str] = set()


def register(**changes: Any) -> Callable[[Builder], Builder]:
    """Register the decorated function with timm under its own name.

    timm itself would replace an older model of that name and only warn.

    Args:
        changes: to timm's ``default_cfg`` for 224x224 ImageNet crops; there are no weights to load.

    Raises:
        ValueError: if the name is taken, by a model of this project or of timm.
    """
    cfg = {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "mit",
        **changes,
    }

    def decorate(builder: Builder) -> Builder:
        name = builder.__name__
        if is_model(name):
            owner = timm.model_entrypoint(name).__module__
            raise ValueError(f"register: the name {name!r} is taken by {owner}. Rename one of the two.")
        _names.add(name)
        vars(sys.modules[builder.__module__]).setdefault("default_cfgs", {})[name] = cfg  # where timm looks for it
        return register_model(builder)

    return decorate


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Build one of the project's models, as ``timm.create_model`` does after ``import tiedconv``.

    Args:
        name: one of :func:`list_models`.
        kwargs: as timm's: ``num_classes``, ``in_chans``, ``features_only``, ``drop_path_rate``, ``global_pool``, ...

    Raises:
        ValueError: if the name is unknown, with the names nearest to it.

    Example:
        >>> create_model("tiedresnet_tiny", num_classes=10, in_chans=1).num_features
        512
    """
    _check_text(name)
    if name not in _names:
        nearest = difflib.get_close_matches(name, sorted(_names), n=3, cutoff=0.0)
        advice = "timm.create_model builds it." if is_model(name) else "tiedconv.list_models() gives all names."
        raise ValueError(
            f"create_model: {name!r} is not one of the {len(_names)} models of tiedconv. "
            f"Nearest names: {', '.join(nearest)}. {advice}"
        )
    try:
        return timm.create_model(name, **kwargs)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError) as error:  # timm checks few
        raise ValueError(f"create_model: {name} cannot be built with {kwargs}: {error}. Correct them.") from error


def list_models(filter: str = "*") -> list[str]:
    """Return the project's model names that match a shell-style pattern, sorted.

    Example:
        >>> list_models("*tiny")
        ['resnet_tiny', 'tiedresnet_tiny']
    """
    return sorted(fnmatch.filter(_names, filter))


def check_model_name(name: str) -> None:
    """Raise ValueError unless timm knows a model of that name."""
    _check_text(name)
    if not is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.8)
        question = f"Did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"no model is called {name!r}. {question}`tiedconv list` prints the tied ones, timm.list_models() all."
        )


def _check_text(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of a model must be a string, got {name!r} ({type(name).__name__}).")
