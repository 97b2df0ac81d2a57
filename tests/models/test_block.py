import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.randomized import randomize_norms
from timm.layers import DropPath
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import downsample_avg, downsample_conv
from torch import Tensor, nn

from tiedconv.models import TiedBottleneck
from tiedconv.models._block import tie_shortcut
from tiedconv.models.tiedresnest import TiedResNestBottleneck
from tiedconv.nn import SplitTiedConv2d, TiedConv2d, TiedSE


def block_of(*args: Any, **kwargs: Any) -> TiedBottleneck:
    """A block in evaluation mode whose norms do something."""
    block = TiedBottleneck(*args, **kwargs)
    randomize_norms(block)
    return block.double().eval()


def plain_tied_conv(x: Tensor, weight: Tensor, conv: Any, *, groups: int, blocks: int) -> Tensor:
    """Eq. 4 as it is written: group by group, and in every group block by block with the group's filters."""
    outputs = []
    for filters, group in zip(weight.chunk(groups), x.chunk(groups, dim=1), strict=True):
        for thin in group.chunk(blocks, dim=1):
            outputs.append(F.conv2d(thin, filters, None, conv.stride, conv.padding, conv.dilation))
    return torch.cat(outputs, dim=1)


def plain_conv(x: Tensor, conv: TiedConv2d) -> Tensor:
    return plain_tied_conv(x, conv.weight, conv, groups=conv.groups, blocks=conv.blocks)


def plain_splits(x: Tensor, conv: SplitTiedConv2d, bn: nn.BatchNorm2d) -> list[Tensor]:
    """The splits as the paper has them: each slices its channels, has its convolution, its norm and its ReLU."""
    width, out_width = (channels // len(conv.blocks) for channels in (conv.in_channels, conv.out_channels))
    parts = []
    for i, (weight, groups, blocks) in enumerate(zip(conv.weights, conv.groups, conv.blocks, strict=True)):
        y = plain_tied_conv(x[:, i * width : (i + 1) * width], weight, conv, groups=groups, blocks=blocks)
        parts.append(plain_norm(y, bn, channels=slice(i * out_width, (i + 1) * out_width)).relu())
    return parts


def plain_norm(x: Tensor, bn: nn.BatchNorm2d, *, channels: slice = slice(None)) -> Tensor:
    statistics = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    mean, var, weight, bias = (t[channels].view(1, -1, 1, 1) for t in statistics)
    if bn.training:
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + bn.eps).sqrt() * weight + bias


def plain_forward(block: TiedBottleneck, x: Tensor, *, mixer: str) -> Tensor:
    entry = plain_norm(plain_conv(x, block.conv1), block.bn1).relu()
    parts = plain_splits(entry, block.conv2, block.bn2)
    mixed = torch.stack(parts).sum(0) if mixer == "sum" else torch.cat(parts, 1)
    parts.append(plain_norm(plain_conv(mixed, block.mix_conv), block.mix_bn).relu())
    out = plain_norm(F.conv2d(torch.cat(parts, 1), block.conv3.weight), block.bn3)
    if block.downsample is not None:
        x = plain_norm(plain_conv(x, block.downsample[0]), block.downsample[1])
    return (out + x).relu()


CASES = {
    "4s x 32w": ({"inplanes": 256, "planes": 64}, 256),
    "first of a stage": ({"inplanes": 64, "planes": 64, "stride": 2, "downsample": downsample_conv(64, 256, 1, 2)}, 64),
    "concatenate": ({"inplanes": 256, "planes": 64, "mixer": "concatenate"}, 256),
    "two splits": ({"inplanes": 256, "planes": 64, "base_width": 48, "splits": 2, "blocks": (1, 2)}, 256),
    "one split": ({"inplanes": 256, "planes": 64, "splits": 1, "blocks": (2,)}, 256),
    "groups": ({"inplanes": 256, "planes": 64, "base_width": 64, "cardinality": 32}, 256),
    "groups of each split": (
        {"inplanes": 256, "planes": 64, "base_width": 64, "groups": (8, 4, 2, 1), "mixer_groups": 8},
        256,
    ),
    "dilated": ({"inplanes": 256, "planes": 64, "dilation": 2, "first_dilation": 3}, 256),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_forward_is_what_its_docstring_says(case: str, memory_format: torch.memory_format) -> None:
    kwargs, channels = CASES[case]
    block = block_of(**kwargs).to(memory_format=memory_format)
    x = torch.randn(2, channels, 9, 7, dtype=torch.float64).to(memory_format=memory_format)

    y = block(x.clone(memory_format=memory_format))

    torch.testing.assert_close(y, plain_forward(block, x, mixer=kwargs.get("mixer", "sum")))
    assert y.is_contiguous(memory_format=memory_format)


def test_forward_does_not_change_its_input() -> None:
    block = block_of(256, 64).train()
    x = torch.randn(2, 256, 4, 4, dtype=torch.float64)
    before = x.clone()

    block(x)

    assert torch.equal(x, before)


@pytest.mark.parametrize("mixer", ["sum", "concatenate"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_plain_computation(
    mixer: Any, training: bool, memory_format: torch.memory_format
) -> None:
    block = block_of(64, 16, mixer=mixer).train(training)
    x = torch.randn(2, 64, 5, 5, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    parameters = [x, *block.parameters()]
    directions = [torch.randn_like(p) for p in parameters]
    y, plain = block(x), plain_forward(block, x, mixer=mixer)

    torch.testing.assert_close(y, plain)
    first, plain_first = (torch.autograd.grad(t.square().sum(), parameters, create_graph=True) for t in (y, plain))
    torch.testing.assert_close(first, plain_first)
    second, plain_second = (torch.autograd.grad(g, parameters, directions) for g in (first, plain_first))
    torch.testing.assert_close(second, plain_second)


def test_attention_and_drop_path_come_between_exit_and_shortcut() -> None:
    block = block_of(256, 64, attn_layer=TiedSE, drop_path=DropPath(0.5))
    plain = copy.deepcopy(block)
    plain.se = None
    x = torch.randn(2, 256, 4, 4, dtype=torch.float64)
    residual = {}
    plain.bn3.register_forward_hook(lambda *args: residual.update(y=args[-1].clone()))
    plain(x)

    torch.testing.assert_close(block(x), (block.se(residual["y"]) + x).relu())


def test_blur_pooling_takes_the_stride() -> None:
    block = TiedBottleneck(64, 64, stride=2, downsample=downsample_conv(64, 256, 1, 2), aa_layer=nn.AvgPool2d)

    assert block(torch.zeros(1, 64, 8, 8)).shape == (1, 256, 4, 4)
    assert block.conv2.stride == (1, 1)


@pytest.mark.parametrize("pooled", [False, True])
def test_shortcut_is_tied_and_keeps_what_timm_put_around_it(pooled: bool) -> None:
    build = downsample_avg if pooled else downsample_conv
    untied = build(64, 256, 1, stride=2, device="meta", dtype=torch.float64)

    tied = tie_shortcut(untied, blocks=2)

    conv = next(m for m in tied if isinstance(m, TiedConv2d))
    assert (conv.blocks, conv.stride) == (2, (1, 1) if pooled else (2, 2))
    assert conv.weight.shape == (128, 32, 1, 1)
    assert conv.weight.device.type == "meta"
    assert conv.weight.dtype == torch.float64
    assert [type(m) for m in tied if m is not conv] == [type(m) for m in untied if not isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mixer": "mean"}, "TiedBottleneck: mixer must be one of sum, concatenate, got 'mean'."),
        ({"blocks": (1, 2)}, r"blocks=\(1, 2\) has 2 entries for splits=4. Give one number of blocks per split."),
        ({"splits": 3}, r"blocks=\(1, 2, 4, 8\) has 4 entries for splits=3."),
        ({"groups": (1, 1)}, r"groups=\(1, 1\) has 2 entries for splits=4."),
        ({"cardinality": 6}, "cardinality=6 is not divisible by splits=4."),
        ({"base_width": 18}, r"in_channels/4=18 is not divisible by blocks \* groups = 4 \* 1 = 4."),
        ({"base_width": 33, "planes": 32}, r"planes \* base_width / 64 = 16.5 channels. Choose a base_width"),
        ({"shared_blocks": 3}, r"in_channels=256 is not divisible by blocks \* groups = 3 \* 1 = 3."),
        ({"reduce_first": 2}, "block_reduce_first must be 1, got 2."),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TiedBottleneck(**{"inplanes": 256, "planes": 64, **kwargs})


def test_resnest_block_is_timms_with_repeated_filters() -> None:
    arguments = {"stride": 2, "radix": 2, "avd": True, "avd_first": True}
    tied = TiedResNestBottleneck(64, 64, downsample=downsample_avg(64, 256, 1, stride=2), **arguments).eval()
    untied = ResNestBottleneck(64, 64, downsample=downsample_avg(64, 256, 1, stride=2), **arguments).eval()
    weights = dict(tied.state_dict())
    weights["conv2.conv.weight"] = torch.cat([weights["conv2.conv.weight"]] * 2)  # both paths, each a group of its own
    for name in ("conv1.weight", "downsample.1.weight"):
        w = weights[name]
        weights[name] = torch.cat([torch.cat([w, torch.zeros_like(w)], 1), torch.cat([torch.zeros_like(w), w], 1)])
    untied.load_state_dict(weights)
    x = torch.randn(2, 64, 8, 8)

    torch.testing.assert_close(tied(x), untied(x))


def test_resnest_block_needs_paths() -> None:
    with pytest.raises(ValueError, match="radix must be at least 1, got radix=0"):
        TiedResNestBottleneck(64, 64, radix=0)
