"""Models by the names that a benchmark is given."""

from collections.abc import Sequence

import timm
import torch
import torchvision
from torch import nn

from .released import has_released_twin, released_twin

RELEASED = " (released)"
_TORCHVISION = "torchvision/"


def check_model(name: str) -> None:
    """Raise ValueError unless :func:`build_model` can build ``name``."""
    from ..models import check_model_name  # not above: it loads Lightning, which the processes of `memory` need not

    base = name.removesuffix(RELEASED)
    if not base.startswith(_TORCHVISION):
        check_model_name("bench", base)
    elif base.removeprefix(_TORCHVISION) not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"bench: torchvision has no classifier {base.removeprefix(_TORCHVISION)!r}. "
            "torchvision.models.list_models(module=torchvision.models) lists them."
        )


def build_model(name: str) -> nn.Module:
    """Build a model for images of 3 channels with random weights.

    Args:
        name: of a timm model, tied or not, or ``"torchvision/"`` and the name of a classifier of torchvision; with
            ``" (released)"`` at the end its twin in the released formulation.
    """
    if name.endswith(RELEASED):
        return released_twin(build_model(name.removesuffix(RELEASED)))
    if name.startswith(_TORCHVISION):
        return torchvision.models.get_model(name.removeprefix(_TORCHVISION), weights=None)
    return timm.create_model(name)


def with_released(names: Sequence[str]) -> list[str]:
    """Return ``names`` with, after each tied model, its twin in the released formulation."""
    found = []
    for name in names:
        check_model(name)
        with torch.device("meta"):
            tied = has_released_twin(build_model(name))
        found += [name, f"{name}{RELEASED}"] if tied else [name]
    return found
