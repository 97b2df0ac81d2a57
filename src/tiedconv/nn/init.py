"""Initialisation for networks with tied layers."""

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from . import TIED_LAYERS, SplitTiedConv2d, TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear


def break_symmetry_(model: nn.Module, spread: float = 0.3) -> int:
    """Scatter the scales of the norms behind tied layers, so that blocks differ from the start.

    The blocks of a tied layer are exact copies, and norms that all start at one hardly tell them apart. Each scale is
    multiplied by a number drawn evenly from ``1 - spread`` to ``1 + spread``. Not in the paper. Call it once, before
    training, on random weights, and before the model is wrapped for several processes. What it gave: see the guide
    "Few parameters".

    A norm is behind a tied layer if it follows it in the same parent module, its parameter ``weight`` has as many
    numbers as the layer has output channels, and no other convolution or linear layer is between them. Scales that are
    zero, such as those at the end of timm's residual branches, stay zero: build such a model with
    ``zero_init_last=False`` to reach them too.

    Args:
        model: changed in place.
        spread: half the width of the interval, 0-1.

    Returns:
        The number of norms that were changed.

    Raises:
        ValueError: if ``spread`` is not in (0, 1], there is no norm behind a tied layer, or the scales of one differ
            already, as those of a trained model.

    Example:
        >>> from tiedconv.nn import TiedConv2d
        >>> model = nn.Sequential(TiedConv2d(8, 8, 3, blocks=2), nn.BatchNorm2d(8), nn.ReLU())
        >>> break_symmetry_(model)
        1
        >>> bool(model[1].weight.std() > 0.05)
        True
    """
    if not 0 < spread <= 1:
        raise ValueError(f"break_symmetry_: spread must be in (0, 1], got {spread}.")
    chosen: list[nn.Parameter] = []
    waiting, home = 0, ""
    for name, module in model.named_modules():
        parent = name.rpartition(".")[0]
        if isinstance(module, TIED_LAYERS):
            waiting, home = _outputs(module), parent
        elif isinstance(module, (_ConvNd, nn.Linear)):
            waiting = 0  # the next norm is behind this one
        elif waiting and parent == home and "Norm" in type(module).__name__:
            scale = dict(module.named_parameters(recurse=False)).get("weight")
            if scale is None or scale.shape != (waiting,):
                continue
            waiting = 0
            if scale.ne(scale[0]).any():
                raise ValueError(
                    f"break_symmetry_: the scales of {name} differ already. Call it once, on a network before training."
                )
            if scale.any() and all(scale is not other for other in chosen):
                chosen.append(scale)
    if not chosen:
        raise ValueError(
            "break_symmetry_: the model has no norm with a scale per channel behind a tied layer of at least 2 blocks. "
            "Tie the model first, or leave it out."
        )
    with torch.no_grad():
        for scale in chosen:
            scale.mul_(torch.empty_like(scale).uniform_(1 - spread, 1 + spread))
    return len(chosen)


def _outputs(layer: TiedConv1d | TiedConv2d | TiedConv3d | TiedLinear | SplitTiedConv2d) -> int:
    """Return how many output channels a tied layer has; 0 if it has one block only, so that nothing is shared."""
    blocks = max(layer.blocks) if isinstance(layer, SplitTiedConv2d) else layer.blocks
    if blocks == 1:
        return 0
    return layer.out_features if isinstance(layer, TiedLinear) else layer.out_channels
