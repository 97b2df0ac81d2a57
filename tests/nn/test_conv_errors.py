"""What TiedConv1d/2d/3d say to wrong arguments and inputs. Construction raises as torch.nn.Conv2d does, or earlier."""

import numpy as np
import pytest
import torch

from tiedconv.nn import TiedConv1d, TiedConv2d, TiedConv3d


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (96, 160, 3, {"blocks": 6}),
            r"^TiedConv2d: out_channels=160 is not divisible by blocks \* groups = 6 \* 1 = 6\. Blocks that fit "
            r"in_channels=96 and out_channels=160 at groups=1: 1, 2, 4, 8, 16, 32\.$",
        ),
        (
            (24, 32, 3, {"groups": 4, "blocks": 4}),
            r"in_channels=24 is not divisible by blocks \* groups = 4 \* 4 = 16\. .* at groups=4: 1, 2\.$",
        ),
        ((8, 8, 3, {"blocks": 0}), r"^TiedConv2d: blocks must be at least 1, got blocks=0\.$"),
        ((8, 8, 3, {"groups": 0}), r"^TiedConv2d: groups must be at least 1, got groups=0\.$"),
        ((0, 8, 3, {}), r"^TiedConv2d: in_channels must be at least 1, got in_channels=0\.$"),
        ((8, 8, 0, {}), r"^TiedConv2d: kernel_size must be at least 1, got 0\.$"),
        ((8, 8, 3, {"padding": -1}), r"^TiedConv2d: padding must be at least 0, got -1\.$"),
        ((8, 8, 3, {"stride": 0}), r"^TiedConv2d: stride must be at least 1, got 0\.$"),
        ((8, 8, 3, {"dilation": (1, 0)}), r"^TiedConv2d: dilation must be at least 1, got \(1, 0\)\.$"),
        (
            (8, 8, 3, {"padding": "full"}),
            r'^TiedConv2d: padding must be an int, a tuple of ints, "same" or "valid", got \'full\'\.$',
        ),
        (
            (8, 8, 3, {"padding": "same", "stride": 2}),
            r'^TiedConv2d: padding="same" needs stride 1, got stride=2\. Give the padding as numbers\.$',
        ),
        (
            (8, 8, 3, {"padding_mode": "constant"}),
            r"^TiedConv2d: padding_mode must be one of zeros, reflect, replicate, circular, got 'constant'\.$",
        ),
    ],
)
def test_bad_values_are_refused_at_construction(arguments, message):
    *positional, keywords = arguments
    with pytest.raises(ValueError, match=message):
        TiedConv2d(*positional, **keywords)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8.0, 8, 3, {}), r"^TiedConv2d: in_channels must be an int, got 8\.0 \(float\)\.$"),
        ((8, 8, 3.0, {}), r"^TiedConv2d: kernel_size must be one int or 2 of them, got 3\.0\.$"),
    ],
)
def test_wrong_kinds_are_refused_at_construction(arguments, message):
    *positional, keywords = arguments
    with pytest.raises(TypeError, match=message):
        TiedConv2d(*positional, **keywords)


def test_blocks_are_keyword_only():
    with pytest.raises(TypeError, match="positional argument"):
        TiedConv2d(8, 8, 3, 1, 0, 1, 1, True, "zeros", None, None, 2)


def test_numpys_integers_are_integers():
    conv = TiedConv2d(np.int64(8), np.int64(4), np.int64(3), groups=np.int64(2), blocks=np.int64(2))
    assert conv(torch.zeros(1, 8, 5, 5)).shape == (1, 4, 3, 3)


@pytest.mark.parametrize(
    ("conv", "x", "message"),
    [
        (
            TiedConv2d(64, 8, 1, blocks=2),
            torch.zeros(8, 56, 56, 64),
            r"^TiedConv2d: expected input \(N, 64, H, W\) or \(64, H, W\), got \(8, 56, 56, 64\)\. The channels seem "
            r"to be last: pass x\.permute\(0, 3, 1, 2\), which is the channels_last format without a copy\.$",
        ),
        (TiedConv2d(8, 8, 1, blocks=2), torch.zeros(2, 6, 5, 5), r"^TiedConv2d: expected .*, got \(2, 6, 5, 5\)\.$"),
        (TiedConv2d(8, 8, 1, blocks=2), torch.zeros(1, 1, 8, 5, 5), r"^TiedConv2d: expected .*, got \(1, 1, 8, 5, 5\)"),
        (
            TiedConv1d(8, 8, 1, blocks=2),
            torch.zeros(2, 6, 5),
            r"^TiedConv1d: expected input \(N, 8, L\) or \(8, L\), got",
        ),
        (
            TiedConv3d(8, 8, 1, blocks=2),
            torch.zeros(8, 5, 5),
            r"^TiedConv3d: expected input \(N, 8, D, H, W\) or \(8, D,",
        ),
        (
            TiedConv2d(8, 8, 1, blocks=2),
            torch.zeros(2, 8, 5, 5, dtype=torch.uint8),
            r"^TiedConv2d: expected a floating-point input, got dtype=torch\.uint8\. Convert it, e\.g\. x\.float\(\) / "
            r"255 for images\.$",
        ),
        (
            TiedConv2d(8, 8, 1, blocks=2),
            torch.zeros(2, 8, 5, 5, dtype=torch.float64),
            r"the input is torch\.float64 and the weight torch\.float32\. Convert one of them, or use torch\.auto",
        ),
        (
            TiedConv2d(8, 8, 3, padding=4, padding_mode="reflect", blocks=2),
            torch.zeros(2, 8, 3, 3),
            "Padding size should be less than the corresponding input dimension",  # torch's own
        ),
        (
            TiedConv2d(8, 8, 3, blocks=2),
            torch.zeros(2, 8, 2, 2),
            "Kernel size can't be greater than actual input size",  # torch's own
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused_at_the_call(conv, x, message):
    with pytest.raises(RuntimeError, match=message):
        conv(x)
