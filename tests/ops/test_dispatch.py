"""The choice of the path: one table of shapes, formats, settings and devices."""

import pytest
import torch

from tiedconv.ops import _paths
from tiedconv.ops._dispatch import choose
from tiedconv.ops._paths import ConvArgs

LAST, FIRST = torch.channels_last, torch.contiguous_format


@pytest.mark.parametrize(
    ("memory_format", "kernel", "stride", "groups", "blocks", "on_cpu", "elsewhere"),
    [
        (FIRST, 3, 1, 1, 2, _paths.view, _paths.view),
        (FIRST, 1, 1, 1, 2, _paths.matmul, _paths.view),
        (FIRST, 1, 2, 1, 2, _paths.view, _paths.view),
        (LAST, 3, 1, 1, 2, _paths.grouped, _paths.depth),
        (LAST, 1, 1, 1, 2, _paths.matmul, _paths.matmul),
        (LAST, 1, 2, 1, 2, _paths.grouped, _paths.depth),
        (FIRST, 3, 1, 2, 2, _paths.grouped, _paths.grouped),
        (LAST, 1, 1, 2, 2, _paths.grouped, _paths.grouped),
        (FIRST, 3, 1, 1, 1, _paths.grouped, _paths.grouped),
        (LAST, 1, 1, 1, 1, _paths.grouped, _paths.grouped),
    ],
)
def test_images(memory_format, kernel, stride, groups, blocks, on_cpu, elsewhere):
    x = torch.zeros(1, 4, 3, 3).contiguous(memory_format=memory_format)
    weight = torch.zeros(4 // blocks, 4 // (blocks * groups), kernel, kernel)
    args = ConvArgs((stride,) * 2, (0, 0), (1, 1), groups, blocks)
    assert choose(x, weight, args) is on_cpu
    assert choose(x.to("meta"), weight, args) is elsewhere


@pytest.mark.parametrize(
    ("memory_format", "kernel", "on_cpu", "elsewhere"),
    [
        (FIRST, 3, _paths.view, _paths.view),
        (FIRST, 1, _paths.matmul, _paths.view),
        (torch.channels_last_3d, 3, _paths.grouped, _paths.grouped),
        (torch.channels_last_3d, 1, _paths.matmul, _paths.matmul),
    ],
)
def test_volumes(memory_format, kernel, on_cpu, elsewhere):
    x = torch.zeros(1, 4, 3, 3, 3).contiguous(memory_format=memory_format)
    weight = torch.zeros(2, 2, *(kernel,) * 3)
    args = ConvArgs((1,) * 3, (0,) * 3, (1,) * 3, 1, 2)
    assert choose(x, weight, args) is on_cpu
    assert choose(x.to("meta"), weight, args) is elsewhere
