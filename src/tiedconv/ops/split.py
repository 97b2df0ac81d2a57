"""One tied convolution for each split of the channels, as a function on tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks
from .algorithms import Size
from .functional import Padding, check_geometry, check_tensors, convolve


def split_tied_conv2d(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: Sequence[int] | None = None,
    *,
    blocks: Sequence[int],
) -> Tensor:
    r"""Split the channels into equal parts and convolve each part with filters, groups and blocks of its own.

    The 3x3 convolutions of the paper's bottleneck (section 2) as one call: equal to :func:`tied_conv2d` on every chunk
    and ``torch.cat`` of the outputs. With :math:`s` splits, part :math:`i` has :math:`G_i` groups of :math:`B_i`
    blocks.

    Args:
        x: :math:`(N, C_i, H, W)` or :math:`(C_i, H, W)`, in any memory format; :math:`N` may be 0.
        weights: one weight per split, :math:`(C_o / (s B_i),\; C_i / (s B_i G_i),\; k_H, k_W)`.
        biases: one bias per split, :math:`(C_o / (s B_i))`. Default: no biases.
        stride, padding, dilation: as in ``F.conv2d``, the same for all splits.
        groups: one number of groups per split. Default: 1 each.
        blocks: one number of blocks per split.

    Returns:
        :math:`(N, C_o, H', W')` or :math:`(C_o, H', W')` in the memory format of ``x``: the outputs of the splits in
        their order.

    Raises:
        TypeError: if an argument is not a tensor or not a sequence, or a number is not an integer.
        ValueError: if ``weights``, ``biases``, ``groups`` and ``blocks`` have different lengths, if a number is below 1
            or if an entry of ``groups`` does not divide its weight's rows.
        RuntimeError: if shapes or dtypes of the tensors do not fit together, or the splits' widths differ.

    Example:
        >>> x = torch.ones(1, 8, 4, 4)
        >>> split_tied_conv2d(x, [torch.ones(4, 4, 3, 3), torch.ones(2, 2, 3, 3)], padding=1, blocks=(1, 2)).shape
        torch.Size([1, 8, 4, 4])
    """
    optional = {"groups": groups, "biases": biases}
    given = {name: value for name, value in optional.items() if value is not None}
    with _checks.named("split_tied_conv2d"):
        _checks.check_splits({"weights": weights, "blocks": blocks, **given})
        groups = (1,) * len(blocks) if groups is None else groups
        for i, (w, g, b) in enumerate(zip(weights, groups, blocks, strict=True)):
            check_tensors(x, w, None if biases is None else biases[i], g, b, rank=4, name=f"weights[{i}]")
        if not torch.jit.is_tracing():
            zipped = zip(weights, groups, blocks, strict=True)
            shapes = [(w.shape[0] * b, w.shape[1] * g * b, *w.shape[2:]) for w, g, b in zipped]
            if len(set(shapes)) > 1:
                raise RuntimeError(
                    f"all splits must have the same (outputs, inputs, kH, kW), got {', '.join(map(str, shapes))}."
                )
        return split_convolve(x, weights, biases, *check_geometry(2, stride, padding, dilation), groups, blocks)


def split_convolve(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: Sequence[int],
    blocks: Sequence[int],
) -> Tensor:
    """Compute a call; only the input is checked here."""
    traced = torch.jit.is_tracing()  # sizes are tensors then, and a comparison would be recorded as a constant
    if x.dim() != 4 or not (traced or x.shape[1] == _channels(weights, groups, blocks)):
        if not traced:
            _checks.check_conv_input(x, channels=_channels(weights, groups, blocks), spatial_dims=2)
        y = split_convolve(x.unsqueeze(0), weights, biases, stride, padding, dilation, groups, blocks)
        return y.squeeze(0)
    parts = zip(
        x.chunk(len(weights), dim=1),
        weights,
        (None,) * len(weights) if biases is None else biases,
        groups,
        blocks,
        strict=True,
    )
    outputs = [convolve(part, w, v, stride, padding, dilation, g, b) for part, w, v, g, b in parts]
    return torch.cat(outputs, dim=1)


def _channels(weights: Sequence[Tensor], groups: Sequence[int], blocks: Sequence[int]) -> int:
    return weights[0].shape[1] * groups[0] * blocks[0] * len(weights)
