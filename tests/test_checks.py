"""The checks that operators and modules share."""

import numpy as np
import pytest
import torch

from tiedconv import _checks


@pytest.mark.parametrize(
    ("channels", "groups", "blocks"),
    [({"a": 8, "b": 16}, 1, 8), ({"a": 8, "b": 16}, 4, 2), ({}, 3, 5), ({"a": 1}, 1, 1)],
)
def test_check_blocks_is_silent_where_blocks_fit(channels, groups, blocks):
    assert _checks.check_blocks(channels, groups=groups, blocks=blocks) is None


@pytest.mark.parametrize(
    ("channels", "groups", "blocks", "message"),
    [
        (
            {"a": 12, "b": 18},
            1,
            4,
            r"^b=18 is not .* = 4 \* 1 = 4\. Blocks that fit a=12 and b=18 at groups=1: 1, 2, 3, 6\.$",
        ),
        (
            {"a": 12, "b": 18},
            2,
            2,
            r"^b=18 is not .* = 2 \* 2 = 4\. Blocks that fit a=12 and b=18 at groups=2: 1, 3\.$",
        ),
        (
            {"a": 7},
            2,
            1,
            r"^a=7 is not .* = 1 \* 2 = 2\. No number of blocks fits a=7 at groups=2: groups must divide",
        ),
    ],
)
def test_check_blocks_lists_the_blocks_that_fit(channels, groups, blocks, message):
    with pytest.raises(ValueError, match=message):
        _checks.check_blocks(channels, groups=groups, blocks=blocks)


@pytest.mark.parametrize("value", [True, 2.0, "2", None])
def test_check_blocks_wants_integers(value):
    for arguments in ({"groups": 1, "blocks": value}, {"groups": value, "blocks": 1}):
        with pytest.raises(TypeError, match=rf"^(blocks|groups) must be an int, got {value!r} \("):
            _checks.check_blocks({}, **arguments)
    with pytest.raises(TypeError, match=r"^a must be an int"):
        _checks.check_blocks({"a": value}, groups=1, blocks=1)


@pytest.mark.parametrize(("value", "expected"), [(2, (2, 2, 2)), ((2,), (2, 2, 2)), ([1, 2, 3], (1, 2, 3))])
def test_per_dim_gives_one_entry_a_dimension(value, expected):
    assert _checks.per_dim("stride", value, 3, minimum=1, error=ValueError) == expected


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((), r"^stride must be one int or 2 of them, got \(\)\.$"),
        ((1, 1, 1), r"^stride must be one int or 2 of them, got \(1, 1, 1\)\.$"),
        ((1, 0), r"^stride must be at least 1, got \(1, 0\)\.$"),
    ],
)
def test_per_dim_raises_what_the_caller_wants(error, value, message):
    with pytest.raises(error, match=message):
        _checks.per_dim("stride", value, 2, minimum=1, error=error)


@pytest.mark.parametrize("value", [1.0, (1, 2.5), "12", b"x", None, True])
def test_per_dim_wants_integers(value):
    with pytest.raises(TypeError, match=r"^stride must be one int or 2 of them, got "):
        _checks.per_dim("stride", value, 2, minimum=1, error=ValueError)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_check_floating_accepts_what_torch_convolves(dtype):
    assert _checks.check_floating(torch.zeros(1, dtype=dtype)) is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_check_floating_refuses_the_rest(dtype):
    with pytest.raises(RuntimeError, match=rf"^expected a floating-point input, got dtype={dtype}\. Convert it"):
        _checks.check_floating(torch.zeros(1, dtype=dtype))


@pytest.mark.parametrize(
    ("shape", "dims", "hint"),
    [
        ((2, 5, 8), 1, r"pass x\.permute\(0, 2, 1\)\.$"),
        ((5, 8), 1, r"pass x\.permute\(1, 0\)\.$"),
        ((2, 5, 6, 8), 2, r"pass x\.permute\(0, 3, 1, 2\), which is the channels_last format without a copy\.$"),
        ((5, 6, 8), 2, r"pass x\.permute\(2, 0, 1\)\.$"),
        ((2, 4, 5, 6, 8), 3, r"pass x\.permute\(0, 4, 1, 2, 3\), which is the channels_last format without a copy\.$"),
    ],
)
def test_the_hint_for_channels_at_the_end_is_right(shape, dims, hint):
    x = torch.zeros(shape)
    with pytest.raises(RuntimeError, match=hint) as caught:
        _checks.check_conv_input(x, channels=8, spatial_dims=dims)
    order = str(caught.value).split("permute(")[1].split(")")[0].split(", ")
    _checks.check_conv_input(x.permute(*map(int, order)), channels=8, spatial_dims=dims)


def test_there_is_no_hint_where_no_axis_fits():
    with pytest.raises(RuntimeError, match=r"\(N, 8, L\) or \(8, L\), got \(2, 5, 6\)\.$"):
        _checks.check_conv_input(torch.zeros(2, 5, 6), channels=8, spatial_dims=1)


def test_numbers_whose_products_overflow_are_refused():
    for given in (2**62, (1, 2**62), [2**62]):
        with pytest.raises(RuntimeError, match=r"^padding must be at most 1048576, got "):
            _checks.per_dim("padding", given, 2, minimum=0, error=RuntimeError)
    with pytest.raises(ValueError, match=r"^blocks must be at most 2147483647, got blocks=9223372036854775808"):
        _checks.check_blocks({}, groups=np.int64(2), blocks=2**63)
