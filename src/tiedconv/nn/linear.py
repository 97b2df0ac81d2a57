"""The tied fully connected layer as a module with the signature of ``torch.nn.Linear``."""

import torch.fx
from torch import Tensor, device, dtype, empty, nn

from .. import _checks
from ..ops.functional import linear

torch.fx.wrap("linear")  # a trace records the call instead of going through it: it looks at sizes


class TiedLinear(nn.Module):
    r"""Linear layer whose ``blocks`` feature blocks share one thin matrix (TFC of the paper, section 1).

    With :math:`B` = ``blocks`` it has :math:`B^2` times fewer weights and :math:`B` times fewer multiply-adds than
    ``torch.nn.Linear``. With ``blocks=1`` it is that layer, weights included.

    Args:
        in_features: features of the input, a multiple of ``blocks``.
        out_features: features of the output, a multiple of ``blocks``.
        bias, device, dtype: as in ``torch.nn.Linear``.
        blocks: how many feature blocks share the matrix, at least 1. Default 1: nothing is shared.

    Shape:
        - Input: :math:`(*, C_i)`, any number of leading dimensions.
        - Output: :math:`(*, C_o)`.

    Attributes:
        weight: :math:`(C_o / B,\; C_i / B)`, initialised as in ``torch.nn.Linear`` with fan-in :math:`C_i / B`.
        bias: :math:`(C_o / B)`, shared by the blocks, or ``None``.

    Raises:
        ValueError: at construction, if ``blocks`` does not divide both feature counts or is below 1.
        RuntimeError: at the call, if the input's last dimension is not ``in_features``.

    Example:
        >>> import torch
        >>> from tiedconv.nn import TiedLinear
        >>> fc = TiedLinear(256, 64, blocks=4)
        >>> fc.weight.shape, fc(torch.zeros(8, 10, 256)).shape
        (torch.Size([16, 64]), torch.Size([8, 10, 64]))
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: device | str | int | None = None,
        dtype: dtype | None = None,
        *,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        features = {"in_features": in_features, "out_features": out_features}
        with _checks.named(type(self).__name__):
            _checks.check_blocks(features, groups=1, blocks=blocks)
        self.in_features = in_features
        self.out_features = out_features
        self.blocks = blocks
        rows = out_features // blocks
        self.weight = nn.Parameter(empty(rows, in_features // blocks, device=device, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(empty(rows, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as ``torch.nn.Linear`` does for the fan-in of one block, C_i/B."""
        nn.Linear.reset_parameters(self)  # type: ignore[arg-type]

    def forward(self, input: Tensor) -> Tensor:
        try:  # costs nothing; a `with` block around the call would take 3 % of its time
            return linear(input, self.weight, self.bias, self.blocks)
        except RuntimeError:
            with _checks.named(type(self).__name__):
                raise

    def extra_repr(self) -> str:
        return f"{nn.Linear.extra_repr(self)}, blocks={self.blocks}"  # type: ignore[arg-type]
