import pytest
import torch
from torch import nn

from tiedconv.convert import from_released, released_order
from tiedconv.nn import TiedConv2d, TiedLinear


class ReleasedConv(nn.Module):
    """What the authors' layer computes: the blocks are samples of one thin convolution."""

    def __init__(self, in_channels, out_channels, kernel_size, blocks, groups=1):
        super().__init__()
        self.blocks = blocks
        self.conv = nn.Conv2d(in_channels // blocks, out_channels // blocks, kernel_size, groups=groups)

    def forward(self, x):
        n, c, h, w = x.shape
        y = self.conv(x.reshape(n * self.blocks, c // self.blocks, h, w))
        return y.reshape(n, -1, *y.shape[2:])


class ReleasedLinear(nn.Module):
    def __init__(self, in_features, out_features, blocks):
        super().__init__()
        self.blocks = blocks
        self.linear = nn.Linear(in_features // blocks, out_features // blocks)

    def forward(self, x):
        return self.linear(x.reshape(len(x), self.blocks, -1)).flatten(1)


def test_a_network_of_the_authors_layers_loads():
    theirs = nn.Sequential(
        ReleasedConv(6, 8, 3, 2), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), ReleasedLinear(8, 4, 4)
    )
    ours = nn.Sequential(
        TiedConv2d(6, 8, 3, blocks=2),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        TiedLinear(8, 4, blocks=4),
    )
    ours.load_state_dict(from_released(theirs.state_dict(), ours))
    x = torch.randn(2, 6, 7, 7)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_with_groups_the_channels_are_permuted():
    theirs, ours = ReleasedConv(24, 12, 3, 2, groups=3), TiedConv2d(24, 12, 3, groups=3, blocks=2)
    with pytest.raises(ValueError, match=r"'0' has groups=3 and blocks=2\. The authors' layer has its channels block"):
        from_released({f"0.{key}": value for key, value in theirs.state_dict().items()}, nn.Sequential(ours))
    ours.load_state_dict({key.removeprefix("conv."): value for key, value in theirs.state_dict().items()})
    x = torch.randn(2, 24, 5, 5)
    order_in, order_out = (released_order(c, groups=3, blocks=2) for c in (24, 12))
    torch.testing.assert_close(ours(x[:, order_in]), theirs(x)[:, order_out])


def test_a_bare_layer_loads():
    theirs, ours = ReleasedConv(4, 4, 1, 2), TiedConv2d(4, 4, 1, blocks=2)
    ours.load_state_dict(from_released(theirs.state_dict(), ours))
    assert torch.equal(ours.weight, theirs.conv.weight)


def test_channels_must_divide():
    with pytest.raises(ValueError, match=r"channels=10 is not divisible by groups \* blocks = 2 \* 2"):
        released_order(10, groups=2, blocks=2)
