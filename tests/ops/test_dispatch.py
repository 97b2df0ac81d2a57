"""The choice of the path: tables of shapes, formats, settings and devices."""

import pytest
import torch
from tests.ops.strategies import lay_out

from tiedconv.ops import _paths
from tiedconv.ops._dispatch import (
    FEW_POSITIONS,
    FEWER_POSITIONS,
    MANY_CHANNELS,
    THIN_SPLIT,
    VECTOR,
    choose,
    merges_splits,
)
from tiedconv.ops._paths import ConvArgs

LAST, FIRST = "channels_last", "contiguous"


@pytest.mark.parametrize(
    ("name", "kernel", "stride", "side", "thin", "on_cpu", "elsewhere"),
    [
        (FIRST, 3, 1, 9, 16, _paths.view, _paths.view),
        (FIRST, 3, 1, 2, 16, _paths.view, _paths.view),
        (FIRST, 3, 1, 9, 15, _paths.grouped, _paths.view),
        (FIRST, 1, 1, 9, 16, _paths.matmul, _paths.view),
        (FIRST, 1, 1, 9, 15, _paths.matmul, _paths.view),
        (FIRST, 1, 1, 8, 16, _paths.view, _paths.view),
        (FIRST, 1, 1, 8, 15, _paths.view, _paths.view),
        (FIRST, 1, 2, 8, 16, _paths.view, _paths.view),
        (FIRST, 1, 2, 8, 15, _paths.grouped, _paths.view),
        (LAST, 3, 1, 9, 16, _paths.grouped, _paths.depth),
        (LAST, 3, 1, 9, 15, _paths.grouped, _paths.depth),
        (LAST, 1, 1, 9, 16, _paths.matmul, _paths.matmul),
        (LAST, 1, 1, 8, 15, _paths.matmul, _paths.matmul),
        (LAST, 1, 2, 9, 16, _paths.grouped, _paths.depth),
    ],
)
def test_images_by_format_kernel_map_and_channels_of_a_block(name, kernel, stride, side, thin, on_cpu, elsewhere):
    x = lay_out(torch.zeros(2, 2 * thin, side, side), name)
    weight = torch.zeros(4, thin, kernel, kernel)
    args = ConvArgs((stride,) * 2, (0, 0), (1, 1), 1, 2)
    assert choose(x, weight, args) is on_cpu
    assert choose(x.to("meta"), weight.to("meta"), args) is elsewhere


@pytest.mark.parametrize(
    ("kernel", "length", "on_cpu"),
    [
        (3, 65, _paths.view),
        (1, 65, _paths.matmul),
        (1, 64, _paths.view),
    ],
)
def test_sequences(kernel, length, on_cpu):
    x, weight = torch.zeros(2, 32, length), torch.zeros(4, 16, kernel)
    args = ConvArgs((1,), (0,), (1,), 1, 2)
    assert choose(x, weight, args) is on_cpu
    assert choose(x.to("meta"), weight.to("meta"), args) is _paths.view


@pytest.mark.parametrize(
    ("name", "kernel", "side", "thin", "on_cpu", "elsewhere"),
    [
        (FIRST, 3, 5, 16, _paths.view, _paths.view),
        (FIRST, 3, 5, 15, _paths.grouped, _paths.view),
        (FIRST, 1, 5, 16, _paths.matmul, _paths.view),
        (FIRST, 1, 4, 16, _paths.view, _paths.view),
        (LAST, 3, 5, 16, _paths.grouped, _paths.grouped),
        (LAST, 1, 4, 16, _paths.matmul, _paths.matmul),
    ],
)
def test_volumes(name, kernel, side, thin, on_cpu, elsewhere):
    x = lay_out(torch.zeros(2, 2 * thin, *(side,) * 3), name)
    weight = torch.zeros(2, thin, *(kernel,) * 3)
    args = ConvArgs((1,) * 3, (0,) * 3, (1,) * 3, 1, 2)
    assert choose(x, weight, args) is on_cpu
    assert choose(x.to("meta"), weight.to("meta"), args) is elsewhere


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", [FIRST, LAST])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("groups", "blocks"), [(1, 1), (2, 1), (2, 2)])
def test_one_block_or_groups_are_torchs_own_convolution(groups, blocks, kernel, name, device):
    x = lay_out(torch.zeros(2, 64, 15, 15), name).to(device)
    weight = torch.zeros(16, 64 // (groups * blocks), kernel, kernel, device=device)
    assert choose(x, weight, ConvArgs((1, 1), (0, 0), (1, 1), groups, blocks)) is _paths.grouped


@pytest.mark.parametrize(
    ("name", "kernel", "side", "path"),
    [
        (LAST, 1, 14, _paths.matmul),
        (LAST, 1, 15, _paths.grouped),
        (LAST, 3, 14, _paths.grouped),
        (FIRST, 1, 14, _paths.grouped),
    ],
)
def test_one_block_on_small_maps_of_a_cpu(name, kernel, side, path):
    x, weight = lay_out(torch.zeros(2, 8, side, side), name), torch.zeros(8, 8, kernel, kernel)
    args = ConvArgs((1, 1), (0, 0), (1, 1), 1, 1)
    assert choose(x, weight, args) is path
    assert choose(x.to("meta"), weight.to("meta"), args) is _paths.grouped


@pytest.mark.parametrize(
    ("channels", "blocks", "side", "name", "path"),
    [
        (256, 4, 14, LAST, _paths.depth),
        (256, 8, 14, LAST, _paths.depth),
        (256, 2, 14, LAST, _paths.grouped),
        (256, 4, 15, LAST, _paths.grouped),
        (192, 4, 14, LAST, _paths.grouped),
        (288, 4, 14, LAST, _paths.grouped),  # 72 channels a block
        (256, 4, 14, FIRST, _paths.view),
    ],
)
def test_filters_are_not_repeated_for_small_maps_of_many_channels(channels, blocks, side, name, path):
    x = lay_out(torch.zeros(1, channels, side, side), name)
    weight = torch.zeros(channels // blocks, channels // blocks, 3, 3, requires_grad=True)
    args = ConvArgs((1, 1), (1, 1), (1, 1), 1, blocks)
    trained = _paths.grouped if name == LAST else path
    assert choose(x, weight, args) is trained
    with torch.no_grad():
        assert choose(x, weight, args) is path


def test_the_tables_stand_on_both_sides_of_the_thresholds():
    assert (FEW_POSITIONS, FEWER_POSITIONS, MANY_CHANNELS, VECTOR, THIN_SPLIT) == (14 * 14, 8 * 8, 256, 16, 40)


@pytest.mark.parametrize(
    ("name", "width", "groups", "blocks", "on_cpu", "elsewhere"),
    [
        # Equally many groups times blocks: one convolution does nothing needless.
        (FIRST, 64, (1, 1), (2, 2), True, True),
        (LAST, 64, (2, 1), (1, 2), True, True),
        (FIRST, 8, (4, 2), (1, 2), True, True),
        (FIRST, 8, (1,), (4,), True, True),
        # Else it multiplies by zeros.
        (FIRST, 39, (1, 1), (1, 3), False, False),
        (LAST, 39, (1, 1), (1, 3), True, False),
        (LAST, 39, (3, 1), (1, 1), True, False),
        (LAST, 40, (1, 1), (1, 2), False, False),
        (LAST, 40, (2, 1), (2, 2), False, False),
    ],
)
def test_splits_are_merged(name, width, groups, blocks, on_cpu, elsewhere):
    weights = [torch.zeros(width // b, width // (b * g), 3, 3) for g, b in zip(groups, blocks, strict=True)]
    x = lay_out(torch.zeros(2, width * len(blocks), 5, 5), name)
    assert merges_splits(x, weights, groups, blocks) is on_cpu
    assert merges_splits(x.to("meta"), [w.to("meta") for w in weights], groups, blocks) is elsewhere


@pytest.mark.parametrize(
    ("name", "blocks", "merged"),
    [
        (LAST, (1, 1, 2, 2), True),  # 4/3 of the multiplications
        (LAST, (1, 2), True),
        (LAST, (1, 4), False),  # 8/5
        (LAST, (1, 2, 4, 8), False),
        (FIRST, (1, 1, 2, 2), False),
    ],
)
def test_packed_splits_are_merged_for_half_as_much_work_again(name, blocks, merged):
    weights = [torch.zeros(64 // b, 64 // b, 3, 3) for b in blocks]
    x = lay_out(torch.zeros(1, 64 * len(blocks), 3, 3), name)
    ones = (1,) * len(blocks)
    assert merges_splits(x, weights, ones, blocks, packed=True) is merged
    assert merges_splits(x.to("meta"), weights, ones, blocks, packed=True) is False


@pytest.fixture
def _exporting(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)


@pytest.mark.usefixtures("_exporting")
@pytest.mark.parametrize("name", [FIRST, LAST])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("groups", "blocks"), [(1, 2), (2, 2), (1, 1), (2, 1)])
@pytest.mark.parametrize("side", [3, 15])
def test_no_filter_is_repeated_while_exporting(name, kernel, groups, blocks, side):
    x, weight = lay_out(torch.zeros(2, 32, side, side), name), torch.zeros(8, 32 // (groups * blocks), kernel, kernel)
    path = choose(x, weight, ConvArgs((1, 1), (0, 0), (1, 1), groups, blocks))
    assert path is (_paths.grouped if blocks == 1 else _paths.view)


@pytest.mark.usefixtures("_exporting")
@pytest.mark.parametrize(
    ("groups", "blocks", "merged"),
    [((2, 2), (1, 1), True), ((1, 1), (2, 2), False), ((2, 1), (1, 2), False), ((2, 1), (1, 1), False)],
)
def test_only_untied_splits_are_merged_while_exporting(groups, blocks, merged):
    weights = [torch.zeros(8 // b, 8 // (b * g), 3, 3) for g, b in zip(groups, blocks, strict=True)]
    assert merges_splits(lay_out(torch.zeros(2, 16, 5, 5), LAST), weights, groups, blocks) is merged
