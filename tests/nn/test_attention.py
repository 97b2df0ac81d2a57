"""TiedSE and TiedGlobalContext: untied twins of timm, the paper's counts, formats and errors."""

import copy
import pickle

import pytest
import torch
from tests.ops.strategies import lay_out
from timm.layers import GlobalContext, SEModule
from torch import nn
from torch.testing import assert_close

from tiedconv.nn import TiedGlobalContext, TiedSE
from tiedconv.nn.attention import tied_hidden_channels

ATTENTION = pytest.mark.parametrize("cls", [TiedSE, TiedGlobalContext])


def copy_layer(tied: nn.Module, untied: nn.Module) -> None:
    """Give ``untied`` the weight and bias of ``tied``, whatever axes of size 1 either of them has."""
    with torch.no_grad():
        untied.weight.copy_(tied.weight.view_as(untied.weight))
        untied.bias.copy_(tied.bias.view_as(untied.bias))


def randomized(module: nn.Module) -> nn.Module:
    """All parameters random, so that no layer's start value hides what it computes."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def test_se_with_one_block_is_timms():
    tied, timms = TiedSE(128, reduction=16, blocks=1), SEModule(128, rd_ratio=1 / 16)
    copy_layer(tied.fc1, timms.fc1)
    copy_layer(tied.fc2, timms.fc2)
    x = torch.randn(2, 128, 5, 4)
    assert_close(tied(x), timms(x))


def test_global_context_with_one_block_is_timms():
    tied = randomized(TiedGlobalContext(32, reduction=4, blocks=1))
    timms = GlobalContext(32, fuse_add=True, fuse_scale=False, rd_channels=8)
    copy_layer(tied.context, timms.conv_attn)
    copy_layer(tied.fc1, timms.mlp_add.fc1)
    copy_layer(tied.norm, timms.mlp_add.norm)
    copy_layer(tied.fc2, timms.mlp_add.fc2)
    timms.mlp_add.norm.eps = tied.norm.eps  # ours is GCNet's, which is torch's default
    x = torch.randn(2, 32, 5, 4)
    assert_close(tied(x), timms(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blocks", [2, 4])
def test_se_shares_its_layers_between_blocks(blocks):
    se = randomized(TiedSE(16, reduction=2, blocks=blocks))
    x = torch.randn(2, 16, 3, 3)
    gates = []
    for block in x.mean((2, 3)).chunk(blocks, 1):
        hidden = (block @ se.fc1.weight.T + se.fc1.bias).relu()
        gates.append(torch.sigmoid(hidden @ se.fc2.weight.T + se.fc2.bias))
    assert_close(se(x), x * torch.cat(gates, 1)[:, :, None, None])


@pytest.mark.parametrize("blocks", [2, 4])
def test_global_context_shares_its_transforms_between_blocks(blocks):
    gcb = randomized(TiedGlobalContext(16, reduction=2, blocks=blocks))
    x = torch.randn(2, 16, 3, 4)
    logits = torch.einsum("nchw,c->nhw", x, gcb.context.weight.flatten())  # a bias changes no softmax
    attention = logits.flatten(1).softmax(-1).view(2, 3, 4)
    context = torch.einsum("nchw,nhw->nc", x, attention)
    w1, w2 = gcb.fc1.weight.flatten(1), gcb.fc2.weight.flatten(1)
    hidden = torch.cat([block @ w1.T + gcb.fc1.bias for block in context.chunk(blocks, 1)], 1)
    hidden = nn.functional.layer_norm(hidden, [8], gcb.norm.weight.flatten(), gcb.norm.bias.flatten()).relu()
    update = torch.cat([block @ w2.T + gcb.fc2.bias for block in hidden.chunk(blocks, 1)], 1)
    assert_close(gcb(x), x + update[:, :, None, None], rtol=1e-4, atol=1e-4)


def test_global_context_starts_as_the_identity():
    x = torch.randn(2, 16, 3, 4)
    assert torch.equal(TiedGlobalContext(16, blocks=2)(x), x)


@pytest.mark.parametrize(
    ("channels", "reduction", "blocks", "hidden"),
    [
        (256, 16, 2, 16),
        (256, 16, 8, 16),
        (48, 8, 4, 8),
        (40, 4, 4, 8),
        (32, 16, 4, 4),
        (32, 64, 2, 2),
        (96, 6.4, 1, 15),
    ],
)
def test_hidden_width_is_a_multiple_of_blocks_and_never_zero(channels, reduction, blocks, hidden):
    assert tied_hidden_channels(channels, reduction, blocks) == hidden
    assert TiedSE(channels, reduction, blocks).fc1.out_features == hidden
    assert TiedGlobalContext(channels, reduction, blocks).fc1.out_channels == hidden


@ATTENTION
@pytest.mark.parametrize("name", ["contiguous", "channels_last", "sliced channels_last"])
@pytest.mark.parametrize("batch", [1, 2])
def test_shape_and_memory_format_are_the_inputs(cls, name, batch):
    x = lay_out(torch.randn(batch, 16, 4, 5), name)
    y = randomized(cls(16, reduction=2, blocks=2))(x)
    assert y.shape == x.shape
    memory_format = torch.channels_last if "channels_last" in name else torch.contiguous_format
    assert y.is_contiguous(memory_format=memory_format)


@ATTENTION
def test_an_empty_batch_stays_empty(cls):
    assert cls(16, reduction=2, blocks=2)(torch.zeros(0, 16, 4, 5)).shape == (0, 16, 4, 5)


@ATTENTION
@pytest.mark.parametrize("name", ["contiguous", "channels_last"])
def test_gradients_reach_input_and_every_parameter(cls, name):
    module = randomized(cls(8, reduction=2, blocks=2, dtype=torch.float64))
    x = lay_out(torch.randn(2, 8, 2, 3, dtype=torch.float64), name).requires_grad_()
    assert torch.autograd.gradcheck(module, x)
    module(x).square().sum().backward()
    for parameter_name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
        # The attention's bias adds one number to all logits, which the softmax takes out.
        assert parameter.grad.abs().sum() > 1e-9 or parameter_name == "context.bias", parameter_name


@ATTENTION
def test_as_other_modules(cls):
    meta = cls(16, reduction=2, blocks=2, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in meta.parameters()} == {("meta", torch.bfloat16)}
    module = randomized(cls(16, reduction=2, blocks=2))
    x = torch.randn(2, 16, 4, 5)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    assert_close(torch.vmap(module)(x[None])[0], module(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(module(x), module(x).float(), rtol=0.1, atol=0.1, check_dtype=False)


def test_activation_is_an_argument():
    assert isinstance(TiedSE(16, 2, 2, act_layer=nn.SiLU).act, nn.SiLU)


@ATTENTION
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"channels": 30, "blocks": 4}, ValueError, r": channels=30 is not divisible by blocks .*: 1, 2, 3, 5, 6,"),
        ({"channels": 32, "blocks": 0}, ValueError, r": blocks must be at least 1, got blocks=0\.$"),
        ({"channels": 32, "blocks": 2.0}, TypeError, r": blocks must be an int, got 2\.0 \(float\)\.$"),
        ({"channels": 32, "reduction": 0}, ValueError, r": reduction must be positive, got reduction=0\.$"),
        ({"channels": 32, "reduction": float("nan")}, ValueError, ": reduction must be positive, got reduction=nan"),
        ({"channels": 32, "reduction": None}, TypeError, r": reduction must be a number, got None \(NoneType\)\.$"),
    ],
)
def test_bad_arguments_are_refused_at_construction(cls, arguments, error, message):
    with pytest.raises(error, match=f"^{cls.__name__}{message}"):
        cls(**arguments)


@ATTENTION
@pytest.mark.parametrize("shape", [(2, 16), (2, 16, 3, 4, 5), (2, 8, 4, 5), (2, 4, 5, 16)])
def test_inputs_that_do_not_fit_are_refused_by_the_layers(cls, shape):
    with pytest.raises(RuntimeError, match=r"expected input|Expected 3D .* or 4D .* input|to have 16 channels"):
        cls(16, reduction=2, blocks=2)(torch.zeros(shape))


@ATTENTION
def test_an_image_without_a_batch_is_a_batch_of_one(cls):
    module, x = randomized(cls(16, reduction=2, blocks=2)), torch.randn(1, 16, 4, 5)
    assert_close(module(x[0]), module(x)[0])
