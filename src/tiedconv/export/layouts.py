"""The layouts in which a network is written to a file, and what its weights need in each."""

from typing import Any, Literal

from torch import nn

from .._meta import on_meta
from ..convert import untie_
from .deployment import deploy

Layout = Literal["fast", "thin"]
"""``"fast"``: what :func:`deploy` makes; ``"thin"``: the network itself, with tied filters stored once."""


def weight_bytes(model: nn.Module) -> dict[Layout | Literal["dense"], int]:
    """Return how many bytes the parameters of a network need, by layout, and those of its dense twin.

    Args:
        model: any network that :func:`deploy` takes. It stays untouched.

    Returns:
        ``"thin"``, ``"fast"`` and ``"dense"``: the last with each tied layer untied by ``untie_(model, "dense")``.

    Raises:
        TypeError, ValueError: as :func:`deploy`.

    Example:
        >>> from tiedconv.nn import TiedConv2d
        >>> weight_bytes(nn.Sequential(TiedConv2d(64, 64, 3, blocks=2, bias=False)))
        {'thin': 36864, 'fast': 73728, 'dense': 147456}
    """
    dense = nn.Sequential(on_meta(model))  # for a model that is itself a tied layer
    untie_(dense, "dense")
    models: dict[Any, nn.Module] = {"thin": model, "fast": deploy(on_meta(model)), "dense": dense}
    return {name: sum(p.nbytes for p in m.parameters()) for name, m in models.items()}
