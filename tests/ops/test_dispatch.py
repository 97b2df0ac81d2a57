"""The choice of the path: tables of shapes, formats and devices."""

import pytest
import torch
from tests.ops.strategies import lay_out

from tiedconv.ops import algorithms, tied_conv2d
from tiedconv.ops.algorithms import ConvArgs
from tiedconv.ops.dispatch import FEW_POSITIONS, FEWER_POSITIONS, MANY_CHANNELS, MANY_POSITIONS, VECTOR, choose

LAST, FIRST = "channels_last", "contiguous"


@pytest.mark.parametrize(
    ("name", "kernel", "stride", "side", "thin", "on_cpu", "elsewhere"),
    [
        (FIRST, 3, 1, 28, 15, algorithms.view, algorithms.view),
        (FIRST, 3, 1, 29, 15, algorithms.grouped, algorithms.view),
        (FIRST, 3, 1, 29, 16, algorithms.view, algorithms.view),
        (FIRST, 1, 1, 29, 16, algorithms.view, algorithms.view),
        (FIRST, 1, 2, 8, 15, algorithms.view, algorithms.view),
        (LAST, 3, 1, 9, 16, algorithms.grouped, algorithms.depth),
        (LAST, 3, 1, 9, 15, algorithms.grouped, algorithms.depth),
        (LAST, 1, 1, 9, 16, algorithms.depth, algorithms.matmul),
        (LAST, 1, 1, 8, 15, algorithms.depth, algorithms.matmul),
        (LAST, 1, 2, 9, 16, algorithms.grouped, algorithms.depth),
    ],
)
def test_images_by_format_kernel_map_and_channels_of_a_block(name, kernel, stride, side, thin, on_cpu, elsewhere):
    x = lay_out(torch.zeros(2, 2 * thin, side, side), name)
    weight = torch.zeros(4, thin, kernel, kernel)
    args = ConvArgs((stride,) * 2, (0, 0), (1, 1), 1, 2)
    assert choose(x, weight, args) is on_cpu
    assert choose(x.to("meta"), weight.to("meta"), args) is elsewhere


@pytest.mark.parametrize(
    ("channels", "blocks", "side", "path"),
    [
        (256, 4, 14, algorithms.depth),
        (256, 8, 14, algorithms.depth),
        (256, 2, 14, algorithms.grouped),
        (256, 4, 15, algorithms.grouped),
        (192, 4, 14, algorithms.grouped),
        (288, 4, 14, algorithms.grouped),  # 72 channels a block
        (256, 4, 3, algorithms.depth),
        (256, 4, 2, algorithms.view),  # lower than the kernel
        (256, 2, 8, algorithms.view),
        (288, 4, 8, algorithms.view),
        (192, 2, 8, algorithms.grouped),
        (256, 2, 9, algorithms.grouped),
    ],
)
def test_filters_are_not_repeated_for_small_maps_of_many_channels(channels, blocks, side, path):
    x = lay_out(torch.zeros(1, channels, side, side), LAST)
    weight = torch.zeros(channels // blocks, channels // blocks, 3, 3, requires_grad=True)
    assert choose(x, weight, ConvArgs((1, 1), (1, 1), (1, 1), 1, blocks)) is path


@pytest.mark.skipif(torch.__version__ < "2.14", reason="torch reports compilation as an export")
@pytest.mark.parametrize("kernel", [1, 3])
def test_compiled_calls_in_channels_last_memory_are_grouped_on_cpus(kernel):
    chosen = []

    def backend(graph, _):
        chosen.extend(node.target for node in graph.graph.nodes if node.op == "call_function" and "conv" in str(node))
        return graph.forward

    torch.compiler.reset()
    x, weight = lay_out(torch.randn(2, 256, 14, 14), LAST), torch.randn(64, 64, kernel, kernel)
    compiled = torch.compile(tied_conv2d, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x, weight, blocks=4), tied_conv2d(x, weight, blocks=4))
    assert chosen == [torch.conv2d]


@pytest.mark.parametrize(("width", "dilation"), [(4, 1), (7, (1, 2))])
def test_maps_narrower_than_the_kernel_are_not_seen_as_volumes(width, dilation):
    x, weight = lay_out(torch.zeros(2, 256, 7, width), LAST), torch.zeros(64, 64, 1, 5)
    assert choose(x, weight, ConvArgs((1, 1), (0, 2), dilation, 1, 4)) is algorithms.view
    large_map = lay_out(torch.zeros(2, 256, 7, 7), LAST)
    assert choose(large_map, weight, ConvArgs((1, 1), (0, 2), 1, 1, 4)) is algorithms.depth


@pytest.mark.parametrize("kernel", [1, 3])
def test_sequences(kernel):
    x, weight = torch.zeros(2, 32, 65), torch.zeros(4, 16, kernel)
    args = ConvArgs((1,), (0,), (1,), 1, 2)
    assert choose(x, weight, args) is algorithms.view
    assert choose(x.to("meta"), weight.to("meta"), args) is algorithms.view


@pytest.mark.parametrize(
    ("name", "kernel", "path"),
    [
        (FIRST, 3, algorithms.view),
        (FIRST, 1, algorithms.view),
        (LAST, 3, algorithms.grouped),
        (LAST, 1, algorithms.matmul),
    ],
)
def test_volumes(name, kernel, path):
    x = lay_out(torch.zeros(2, 32, 5, 5, 5), name)
    weight = torch.zeros(2, 16, *(kernel,) * 3)
    args = ConvArgs((1,) * 3, (0,) * 3, (1,) * 3, 1, 2)
    assert choose(x, weight, args) is path
    assert choose(x.to("meta"), weight.to("meta"), args) is path


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", [FIRST, LAST])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("groups", "blocks"), [(1, 1), (2, 1), (2, 2)])
def test_one_block_or_groups_are_torchs_own_convolution(groups, blocks, kernel, name, device):
    x = lay_out(torch.zeros(2, 64, 15, 15), name).to(device)
    weight = torch.zeros(16, 64 // (groups * blocks), kernel, kernel, device=device)
    assert choose(x, weight, ConvArgs((1, 1), (0, 0), (1, 1), groups, blocks)) is algorithms.grouped


def test_the_tables_stand_on_both_sides_of_the_thresholds():
    limits = (FEWER_POSITIONS, FEW_POSITIONS, MANY_POSITIONS, MANY_CHANNELS, VECTOR)
    assert limits == (8 * 8, 14 * 14, 28 * 28, 256, 16)
