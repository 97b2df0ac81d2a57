"""Models by the names that a benchmark is given."""

from collections.abc import Sequence

import torch
from torch import nn

from ..models import named
from .released import has_released_twin, released_twin

RELEASED = " (released)"


def check_model(name: str) -> None:
    """Raise ValueError unless :func:`build_model` can build ``name``."""
    named.check_model("bench", name.removesuffix(RELEASED))


def build_model(name: str) -> nn.Module:
    """Build a model for images of 3 channels with random weights.

    Args:
        name: as :func:`tiedconv.models.build_model` takes it; with ``" (released)"`` at the end its twin in the
            released formulation.
    """
    model = named.build_model(name.removesuffix(RELEASED))
    return released_twin(model) if name.endswith(RELEASED) else model


def with_released(names: Sequence[str]) -> list[str]:
    """Return ``names`` with, after each tied model, its twin in the released formulation."""
    found = []
    for name in names:
        check_model(name)
        with torch.device("meta"):
            tied = has_released_twin(build_model(name))
        found += [name, f"{name}{RELEASED}"] if tied else [name]
    return found
