"""Where folding a norm is faster than computing it."""

import pytest
import torch
from tests.ops.strategies import lay_out
from torch import nn

from tiedconv.nn import SplitTiedConv2d, TiedConv2d
from tiedconv.nn.fold import _folds


@pytest.mark.parametrize(
    ("conv", "side", "name", "folds"),
    [
        (nn.Conv2d(16, 8, 1), 4, "channels_last", True),  # 2 * 4 * 4 positions, 16 numbers a filter
        (nn.Conv2d(17, 8, 1), 4, "channels_last", False),
        (nn.Conv2d(16, 8, 1), 4, "contiguous", False),
        (TiedConv2d(32, 8, 1, blocks=2), 4, "channels_last", True),
        (TiedConv2d(36, 8, 1, blocks=2), 4, "channels_last", False),
        (SplitTiedConv2d(4, 8, 3, blocks=(1, 2)), 6, "channels_last", True),
        (SplitTiedConv2d(4, 8, 3, blocks=(1, 2)), 4, "channels_last", False),
    ],
)
def test_maps_with_twice_as_many_positions_as_numbers_in_a_filter(conv, side, name, folds):
    x = lay_out(torch.zeros(2, conv.in_channels, side, side), name)
    assert _folds(x, conv, nn.BatchNorm2d(8).eval()) is folds
    assert not _folds(x.to("meta"), conv, nn.BatchNorm2d(8).eval())
