"""What the weights need in each layout."""

from torch import nn

from tiedconv.export import weight_bytes
from tiedconv.nn import SplitTiedConv2d, TiedConv2d


def test_bytes_of_every_layout():
    tied = TiedConv2d(8, 8, 3, blocks=2)  # 4 x 4 filters and 4 biases
    expected = {"thin": 4 * 148, "fast": 4 * 296, "dense": 4 * 584}
    assert weight_bytes(tied) == weight_bytes(nn.Sequential(tied)) == expected


def test_the_zeros_of_merged_splits_count():
    splits = SplitTiedConv2d(16, 16, 1, groups=(4, 1), blocks=(1, 2))  # become 4 groups of 4 channels
    assert weight_bytes(nn.Sequential(splits)) == {
        "thin": 4 * (8 * 2 + 4 * 4),
        "fast": 4 * 64,
        "dense": 4 * 256,
    }
