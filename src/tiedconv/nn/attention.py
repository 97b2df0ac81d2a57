"""Channel attention with tied layers: squeeze-and-excitation (TiedSE) and the global context block (TiedGCB)."""

from numbers import Real

from torch import Tensor, device, dtype, nn

from .. import _checks
from .conv import TiedConv2d
from .linear import TiedLinear


def tied_hidden_channels(channels: int, reduction: float, blocks: int) -> int:
    """Return ``channels / reduction`` rounded to a multiple of ``blocks``, at least one channel per block.

    EfficientNet-B0's widths of 6 and 10 need the rounding for 4 blocks.
    """
    return blocks * max(1, round(channels / reduction / blocks))


class TiedSE(nn.Module):
    r"""Squeeze-and-excitation whose two fully connected layers are tied (paper, Table 3).

    Global average pooling, :class:`TiedLinear` to ``channels / reduction``, activation, :class:`TiedLinear` back, a
    sigmoid gate on every channel. ``blocks=1`` is the untied SE block. With :math:`B` = ``blocks`` the two layers have
    :math:`2 C^2 / (r B^2)` weights.

    Args:
        channels: channels of the input, a multiple of ``blocks``.
        reduction: how many times narrower the hidden layer is. Its width is rounded to a multiple of ``blocks``.
        blocks: how many channel blocks share the layers' weights.
        act_layer: activation between the layers.
        device, dtype: as in ``torch.nn.Linear``.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: as the input, shape and memory format.

    Raises:
        ValueError: at construction, if ``blocks`` does not divide ``channels``, or ``reduction`` is not positive.
        RuntimeError: at the call, if the input has another number of channels.

    Example:
        >>> import torch
        >>> from tiedconv.nn import TiedSE
        >>> se = TiedSE(256, reduction=16, blocks=2)
        >>> se(torch.zeros(2, 256, 7, 7)).shape
        torch.Size([2, 256, 7, 7])
        >>> sum(p.numel() for p in se.parameters())  # timm's SEModule(256): 8464
        2184
    """

    def __init__(
        self,
        channels: int,
        reduction: float = 16,
        blocks: int = 2,
        *,
        act_layer: type[nn.Module] = nn.ReLU,
        device: device | str | int | None = None,
        dtype: dtype | None = None,
    ) -> None:
        super().__init__()
        _check_attention(self, channels, reduction, blocks)
        hidden = tied_hidden_channels(channels, reduction, blocks)
        self.channels = channels
        self.fc1 = TiedLinear(channels, hidden, device=device, dtype=dtype, blocks=blocks)
        self.act = act_layer()
        self.fc2 = TiedLinear(hidden, channels, device=device, dtype=dtype, blocks=blocks)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.act(self.fc1(x.mean((-2, -1))))).sigmoid()
        return x * gate[..., None, None]


class TiedGlobalContext(nn.Module):
    r"""Global context block (GCNet) whose two 1x1 transforms are tied (paper, Table 4: TiedGCB).

    A 1x1 convolution gives every pixel one attention logit; the softmax-weighted mean of the pixels passes through
    :class:`TiedConv2d` to ``channels / reduction``, layer norm, ReLU and :class:`TiedConv2d` back, and is added to
    every pixel. ``blocks=1`` is the untied block.

    Args:
        channels, reduction, blocks, device, dtype: as in :class:`TiedSE`.

    The last transform starts at zero, so that a block put into a trained network changes nothing at first. Shapes and
    errors are those of :class:`TiedSE`.

    Example:
        >>> import torch
        >>> from tiedconv.nn import TiedGlobalContext
        >>> gcb = TiedGlobalContext(512, reduction=4, blocks=2)
        >>> gcb(torch.zeros(2, 512, 7, 7)).shape
        torch.Size([2, 512, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        reduction: float = 4,
        blocks: int = 2,
        *,
        device: device | str | int | None = None,
        dtype: dtype | None = None,
    ) -> None:
        super().__init__()
        _check_attention(self, channels, reduction, blocks)
        hidden = tied_hidden_channels(channels, reduction, blocks)
        self.channels = channels
        self.context = nn.Conv2d(channels, 1, 1, device=device, dtype=dtype)
        self.fc1 = TiedConv2d(channels, hidden, 1, device=device, dtype=dtype, blocks=blocks)
        self.norm = nn.LayerNorm([hidden, 1, 1], device=device, dtype=dtype)
        self.act = nn.ReLU()
        self.fc2 = TiedConv2d(hidden, channels, 1, device=device, dtype=dtype, blocks=blocks)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the identity: the last transform's weight and bias are zero."""
        for parameter in self.fc2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        attention = self.context(x).flatten(-2).softmax(-1)  # (N, 1, H·W)
        context = (x.flatten(-2) @ attention.transpose(-2, -1)).unsqueeze(-1)  # (N, C, 1, 1)
        return x + self.fc2(self.act(self.norm(self.fc1(context))))


def _check_attention(module: nn.Module, channels: int, reduction: float, blocks: int) -> None:
    with _checks.named(type(module).__name__):
        _checks.check_blocks({"channels": channels}, groups=1, blocks=blocks)
        if isinstance(reduction, bool) or not isinstance(reduction, Real):
            raise TypeError(f"reduction must be a number, got {reduction!r} ({type(reduction).__name__}).")
        if not reduction > 0:
            raise ValueError(f"reduction must be positive, got reduction={reduction}.")
