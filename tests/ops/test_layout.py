"""Channel order and memory formats."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import references
from tests.ops.strategies import lay_out
from torch.testing import assert_close

from tiedconv.ops import layout

SHAPES = [(2, 3, 4, 5), (1, 3, 4, 5), (2, 3, 1, 5), (2, 3, 4, 1), (2, 3, 4, 5, 6), (1, 2, 1, 5, 2)]
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
small = st.integers(1, 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_is_channels_last_agrees_with_torch(shape):
    x = torch.randn(shape)
    assert not layout.is_channels_last(x)
    assert layout.is_channels_last(x.to(memory_format=CHANNELS_LAST[x.dim()]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("like_layout", ["contiguous", "channels_last", "sliced", "sliced channels_last"])
@pytest.mark.parametrize("layout_name", ["contiguous", "channels_last", "sliced", "transposed"])
def test_match_format(shape, layout_name, like_layout):
    y = lay_out(torch.randn(shape), layout_name)
    matched = layout.match_format(y, like=lay_out(torch.randn(shape), like_layout))
    assert_close(matched, y, rtol=0, atol=0)
    memory_format = CHANNELS_LAST[y.dim()] if "channels_last" in like_layout else torch.contiguous_format
    assert matched.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", ["contiguous", "channels_last"])
def test_match_format_copies_only_what_is_in_another_format(name):
    y = lay_out(torch.randn(2, 3, 4, 5), name)
    assert layout.match_format(y, like=y).data_ptr() == y.data_ptr()


def test_slices_of_channels_last_count_as_channels_last():
    x = torch.randn(2, 6, 4, 5).to(memory_format=torch.channels_last)
    assert layout.is_channels_last(x[:, 1:4])
    assert layout.is_channels_last(x[:, :, 1:3])
    assert not layout.is_channels_last(x.contiguous()[:, 1:4])


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 3, 4),  # no such format in one dimension
        torch.randn(0, 3, 4, 5),
        torch.randn(1, 3, 4, 5).to(memory_format=torch.channels_last).expand(2, -1, -1, -1),
        torch.randn(2, 3, 4, 5).transpose(2, 3),
        torch.randn(2, 1, 4, 5).to(memory_format=torch.channels_last).expand(-1, 3, -1, -1),
        torch.randn(2, 1, 1, 1),
        torch.randn(2, 3, 1, 1),  # one pixel: either format would do
        torch.randn(2, 1, 4, 5),  # one channel: likewise
    ],
)
def test_what_is_not_channels_last(x):
    assert not layout.is_channels_last(x)


@given(groups=small, blocks=small, rows=small)
def test_repeat_for_groups_repeats_each_groups_rows_for_its_blocks(groups, blocks, rows):
    weight = torch.randn(groups * rows, 2, 3)
    repeated = layout.repeat_for_groups(weight, groups=groups, blocks=blocks)
    expected = [weight[g * rows : (g + 1) * rows] for g in range(groups) for _ in range(blocks)]
    assert_close(repeated, torch.cat(expected), rtol=0, atol=0)
    assert_close(layout.repeat_for_groups(weight[:, 0, 0], groups=groups, blocks=blocks), repeated[:, 0, 0])


@given(merged=small, to=small, rows=small, columns=small, dims=small)
def test_merge_groups_is_the_same_dense_map_in_fewer_groups(merged, to, rows, columns, dims):
    weight = torch.randn(merged * to * rows, columns, *(2,) * dims)
    wider = layout.merge_groups(weight, groups=merged * to, to=to)
    assert wider.shape == (len(weight), merged * columns, *weight.shape[2:])
    dense = references.dense_weight(weight, groups=merged * to)
    assert_close(references.dense_weight(wider, groups=to), dense, rtol=0, atol=0)


def test_merge_groups_into_one_group_is_block_diagonal():
    weight = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    merged = layout.merge_groups(weight, groups=3, to=1)
    assert merged[:, :, 0].tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 3]]


def test_merge_groups_gives_gradients_to_what_it_was_given_and_none_to_the_zeros():
    weight = torch.randn(4, 2, 1, 1, requires_grad=True)
    layout.merge_groups(weight, groups=2, to=1).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_merge_groups_keeps_a_weight_that_has_the_groups_already():
    weight = torch.randn(4, 2, 3, 3)
    assert layout.merge_groups(weight, groups=2, to=2) is weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_merge_groups_keeps_dtype_and_device(dtype):
    merged = layout.merge_groups(torch.empty(4, 2, 3, 3, dtype=dtype, device="meta"), groups=2, to=1)
    assert (merged.dtype, merged.device.type) == (dtype, "meta")


@given(batch=st.integers(0, 2), groups=small, blocks=small, c=small, dims=small)
def test_split_blocks_makes_samples_of_blocks_and_join_blocks_undoes_it(batch, groups, blocks, c, dims):
    x = torch.randn(batch, groups * blocks * c, *(2,) * dims)
    split = layout.split_blocks(x, groups=groups, blocks=blocks)
    assert split.shape == (batch * blocks, groups * c, *x.shape[2:])
    for n in range(batch):
        for b in range(blocks):
            channels = [(g * blocks + b) * c + i for g in range(groups) for i in range(c)]
            assert_close(split[n * blocks + b], x[n, channels], rtol=0, atol=0)
    assert_close(layout.join_blocks(split, groups=groups, blocks=blocks), x, rtol=0, atol=0)


def test_split_and_join_do_not_copy_contiguous_tensors_without_groups():
    x = torch.randn(2, 6, 4, 5)
    split = layout.split_blocks(x, groups=1, blocks=3)
    assert split.data_ptr() == x.data_ptr()
    assert layout.join_blocks(split, groups=1, blocks=3).data_ptr() == x.data_ptr()
