"""``untie_``: tied layers replaced by the ordinary ones that compute the same, in place."""

from typing import Any, Literal, get_args

from torch import Tensor, nn

from .._checks import named
from .._meta import reparametrized
from ..nn import TIED_LAYERS, SplitTiedConv2d, TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear
from ..ops import layout
from .placement import bound, parameter_owners
from .replace import check_root, geometry, replace, take_over

Form = Literal["grouped", "dense"]

_CONVS = {TiedConv1d: nn.Conv1d, TiedConv2d: nn.Conv2d, TiedConv3d: nn.Conv3d, SplitTiedConv2d: nn.Conv2d}


@named("untie_")
def untie_(model: nn.Module, form: Form = "grouped") -> list[str]:
    r"""Replace every tied layer of a model by an ordinary layer that computes the same, in place.

    For tools that know only torch's layers, and to train further with the ties cut. The model grows: a tied weight is
    written out for each of its blocks. For inference, :func:`tiedconv.export.deploy` makes a faster network.

    Args:
        model: any module with tied layers.
        form: ``"grouped"``: a convolution whose groups are the blocks, :math:`B` times the tied parameters.
            ``"dense"``: with the groups of the tied layer and zeros between the blocks, :math:`B^2` times the
            parameters; in training the zeros may become anything. A tied linear layer always becomes a dense one.

    Returns:
        The names of the layers that were replaced.

    Raises:
        TypeError, ValueError: as :func:`tie_` about the model; ValueError for an unknown ``form``, and for a tied layer
            that would lose its hooks, its parametrization or what makes it a subclass, or shares a parameter.

    Example:
        >>> from tiedconv.nn import TiedConv2d
        >>> model = nn.Sequential(TiedConv2d(8, 8, 3, blocks=4))
        >>> untie_(model), model[0]
        (['0'], Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), groups=4))
    """
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {', '.join(map(repr, get_args(Form)))}, got {form!r}.")
    check_root(model)
    layers = tied_layers(model)
    replace(model, {name: untied(layer, form) for name, layer in layers.items()})
    return list(layers)


def tied_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the tied layers of a model by name; raise ValueError if an ordinary layer cannot replace one of them."""
    layers: dict[str, nn.Module] = {name: m for name, m in model.named_modules() if isinstance(m, TIED_LAYERS)}
    owners = parameter_owners(model)
    for name, layer in layers.items():
        if how := reparametrized(layer):
            raise ValueError(f"{name!r} {how} Nothing was changed.")
        if why := bound(layer, TIED_LAYERS, owners):
            raise ValueError(f"{name!r} cannot be replaced: {why}. Nothing was changed.")
    return layers


def untied(layer: Any, form: Form) -> nn.Module:
    """Return the ordinary layer that computes what a tied one does, in a form of :func:`untie_`."""
    if isinstance(layer, TiedLinear):
        return _linear(layer)
    if isinstance(layer, SplitTiedConv2d):
        weight, groups = layout.side_by_side(untied_splits(layer), split_groups(layer))
        least = 1
    else:
        weight = layout.repeat_for_groups(layer.weight, groups=layer.groups, blocks=layer.blocks)
        groups, least = layer.groups * layer.blocks, layer.groups
    if form == "dense":
        weight, groups = layout.merge_groups(weight, groups=groups, to=least), least
    return conv_with(layer, weight, groups)


def untied_splits(conv: SplitTiedConv2d) -> list[Tensor]:
    """Return the weight of each split's ordinary convolution, whose groups are :func:`split_groups`."""
    splits = zip(conv.weights, conv.groups, conv.blocks, strict=True)
    return [layout.repeat_for_groups(w, groups=g, blocks=b) for w, g, b in splits]


def split_groups(conv: SplitTiedConv2d) -> list[int]:
    """Return the number of groups of each split's ordinary convolution."""
    return [g * b for g, b in zip(conv.groups, conv.blocks, strict=True)]


def conv_with(layer: Any, weight: Tensor, groups: int) -> nn.Module:
    """Return an ordinary convolution with the geometry of a tied one and another weight, which says how wide it is."""
    bias = getattr(layer, "bias", None)
    if bias is not None:
        bias = layout.repeat_for_groups(bias, groups=layer.groups, blocks=layer.blocks)
    conv = _CONVS[type(layer)](
        weight.shape[1] * groups,
        weight.shape[0],
        **geometry(layer),
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    take_over(conv, layer, weight, bias)
    return conv


def _linear(layer: TiedLinear) -> nn.Linear:
    repeat = {"groups": 1, "blocks": layer.blocks}
    weight = layout.merge_groups(layout.repeat_for_groups(layer.weight, **repeat), groups=layer.blocks, to=1)
    bias = None if layer.bias is None else layout.repeat_for_groups(layer.bias, **repeat)
    linear = nn.Linear(layer.in_features, layer.out_features, bias=bias is not None, device="meta")
    take_over(linear, layer, weight, bias)
    return linear
