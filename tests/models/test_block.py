import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import downsample_avg, downsample_conv
from torch import Tensor, nn

from tiedconv.models import TiedBottleneck
from tiedconv.models._block import tie_shortcut
from tiedconv.models.tiedresnest import TiedResNestBottleneck
from tiedconv.nn import TiedConv2d, TiedSE


def block_of(*args: Any, **kwargs: Any) -> TiedBottleneck:
    """A block in evaluation mode whose norms do something."""
    block = TiedBottleneck(*args, **kwargs)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return block.double().eval()


def plain_tied_conv(x: Tensor, conv: TiedConv2d) -> Tensor:
    """Eq. 4 as it is written: group by group, and in every group block by block with the group's filters."""
    outputs = []
    for g, group in enumerate(x.chunk(conv.groups, dim=1)):
        rows = conv.weight.shape[0] // conv.groups
        filters = conv.weight[g * rows : (g + 1) * rows]
        for thin in group.chunk(conv.blocks, dim=1):
            outputs.append(F.conv2d(thin, filters, None, conv.stride, conv.padding, conv.dilation))
    return torch.cat(outputs, dim=1)


def plain_norm(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    mean, var, weight, bias = (t.view(1, -1, 1, 1) for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    return (x - mean) / (var + bn.eps).sqrt() * weight + bias


def plain_forward(block: TiedBottleneck, x: Tensor, *, mixer: str) -> Tensor:
    entry = plain_norm(plain_tied_conv(x, block.conv1), block.bn1).relu()
    width = entry.shape[1] // len(block.split_convs)
    parts = []
    for i, (conv, bn) in enumerate(zip(block.split_convs, block.split_bns, strict=True)):
        parts.append(plain_norm(plain_tied_conv(entry[:, i * width : (i + 1) * width], conv), bn).relu())
    mixed = torch.stack(parts).sum(0) if mixer == "sum" else torch.cat(parts, 1)
    parts.append(plain_norm(plain_tied_conv(mixed, block.mix_conv), block.mix_bn).relu())
    out = plain_norm(F.conv2d(torch.cat(parts, 1), block.conv3.weight), block.bn3)
    if block.downsample is not None:
        x = plain_norm(plain_tied_conv(x, block.downsample[0]), block.downsample[1])
    return (out + x).relu()


CASES = {
    "4s x 32w": ({"inplanes": 256, "planes": 64}, 256),
    "first of a stage": ({"inplanes": 64, "planes": 64, "stride": 2, "downsample": downsample_conv(64, 256, 1, 2)}, 64),
    "concatenate": ({"inplanes": 256, "planes": 64, "mixer": "concatenate"}, 256),
    "two splits": ({"inplanes": 256, "planes": 64, "base_width": 48, "splits": 2, "blocks": (1, 2)}, 256),
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
def test_gradients_are_those_of_the_plain_computation(mixer: Any) -> None:
    block = block_of(64, 16, mixer=mixer)
    x = torch.randn(1, 64, 5, 5, dtype=torch.float64, requires_grad=True)

    ours = torch.autograd.grad(block(x).square().sum(), [x, *block.parameters()])
    plain = torch.autograd.grad(plain_forward(block, x, mixer=mixer).square().sum(), [x, *block.parameters()])

    torch.testing.assert_close(ours, plain)


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
    assert all(conv.stride == (1, 1) for conv in block.split_convs)


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


def test_copies_and_pickles() -> None:
    block = block_of(256, 64)
    x = torch.randn(1, 256, 4, 4, dtype=torch.float64)

    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(x), block(x))


@pytest.mark.parametrize("mixer", ["sum", "concatenate"])
def test_compiles_without_a_graph_break(mixer: Any) -> None:
    block = block_of(64, 16, mixer=mixer)
    x = torch.randn(1, 64, 4, 4, dtype=torch.float64)

    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), block(x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mixer": "mean"}, "TiedBottleneck: mixer must be one of sum, concatenate, got 'mean'."),
        ({"blocks": (1, 2)}, r"blocks=\(1, 2\) has 2 entries for splits=4. Give one number of blocks a split."),
        ({"splits": 3}, r"blocks=\(1, 2, 4, 8\) has 4 entries for splits=3."),
        ({"groups": (1, 1)}, r"groups=\(1, 1\) has 2 entries for splits=4."),
        ({"cardinality": 6}, "cardinality=6 is not divisible by splits=4."),
        ({"base_width": 18}, r"in_channels=18 is not divisible by blocks \* groups = 4 \* 1 = 4."),
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
