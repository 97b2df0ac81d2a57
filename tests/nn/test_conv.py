"""TiedConv1d/2d/3d beside torch.nn's convolutions: values, padding modes, state, memory formats, attributes."""

import copy
import io
import pickle

import pytest
import torch
from tests import references
from tests.ops.strategies import lay_out
from torch import nn
from torch.testing import assert_close

from tiedconv.nn import TiedConv1d, TiedConv2d, TiedConv3d
from tiedconv.ops import layout
from tiedconv.ops.functional import pad

EXACT = {"rtol": 1e-10, "atol": 1e-10}
TIED = {1: TiedConv1d, 2: TiedConv2d, 3: TiedConv3d}
TORCH = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
DIMS = pytest.mark.parametrize("dims", [1, 2, 3])


def grouped_twin(tied: nn.Module, dims: int, **arguments) -> nn.Module:
    """torch's convolution with ``blocks * groups`` groups and the tied weight repeated in it."""
    groups, blocks = tied.groups, tied.blocks
    twin = TORCH[dims](
        tied.in_channels, tied.out_channels, tied.kernel_size, dtype=torch.float64, groups=groups * blocks, **arguments
    )
    with torch.no_grad():
        for parameter, tied_parameter in ((twin.weight, tied.weight), (twin.bias, tied.bias)):
            parts = tied_parameter.unflatten(0, (groups, -1))
            parameter.copy_(torch.cat([part for part in parts for _ in range(blocks)]))
    return twin


@DIMS
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, "same", "valid"])
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("name", ["contiguous", "channels_last"])
def test_padding_is_torchs(dims, padding_mode, padding, kernel, name):
    arguments = {"padding": padding, "padding_mode": padding_mode, "dilation": 2 if padding == "same" else 1}
    tied = TIED[dims](8, 4, kernel, groups=2, blocks=2, dtype=torch.float64, **arguments)
    x = lay_out(torch.randn(2, 8, *(6, 5, 4)[:dims], dtype=torch.float64), name)
    twin = grouped_twin(tied, dims, **arguments)
    assert_close(tied(x), twin(x), **EXACT)
    assert_close(tied(x[0]), twin(x[0]), **EXACT)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 1)])
def test_same_with_odd_dilation_and_even_kernels(padding_mode, kernel):
    arguments = {"padding": "same", "padding_mode": padding_mode, "dilation": (1, 1)}
    tied = TiedConv2d(4, 6, kernel, blocks=2, dtype=torch.float64, **arguments)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    y = tied(x)
    assert y.shape == (2, 6, 6, 5)
    assert_close(y, grouped_twin(tied, 2, **arguments)(x), **EXACT)


@DIMS
def test_module_is_the_function_on_its_arguments(dims):
    conv = TIED[dims](8, 12, 3, 2, 1, 2, 2, blocks=2, dtype=torch.float64)
    x = torch.randn(2, 8, *(7,) * dims, dtype=torch.float64)
    expected = references.tied_conv(x, conv.weight, conv.bias, 2, 1, 2, 2, blocks=2)
    assert_close(conv(x), expected, **EXACT)


@DIMS
def test_one_block_exchanges_states_with_torch_and_computes_the_same_bits(dims):
    arguments = {"stride": 2, "padding": 1, "groups": 2}
    tied, torchs = TIED[dims](4, 6, 3, **arguments, blocks=1), TORCH[dims](4, 6, 3, **arguments)
    torchs.load_state_dict(tied.state_dict())
    x = torch.randn(2, 4, *(5,) * dims)
    assert torch.equal(tied(x), torchs(x))
    TIED[dims](4, 6, 3, **arguments).load_state_dict(torchs.state_dict())


@DIMS
@pytest.mark.parametrize("bias", [True, False])
def test_shapes_of_parameters_are_the_papers(dims, bias):
    conv = TIED[dims](24, 36, 3, groups=2, blocks=3, bias=bias)
    assert conv.weight.shape == (12, 4, *(3,) * dims)
    assert (conv.bias.shape == (12,)) if bias else (conv.bias is None)
    assert list(conv.state_dict()) == (["weight", "bias"] if bias else ["weight"])


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("model_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_output_keeps_the_inputs_memory_format(padding_mode, model_layout, groups, kernel):
    conv = TiedConv2d(8, 8, kernel, padding=1, groups=groups, blocks=2, padding_mode=padding_mode)
    conv = conv.to(memory_format=model_layout)
    x = torch.randn(2, 8, 6, 5)
    last = x.to(memory_format=torch.channels_last)
    y, y_last = conv(x), conv(last)
    assert y.is_contiguous()
    assert y_last.is_contiguous(memory_format=torch.channels_last)
    assert not y_last.is_contiguous()
    assert_close(y, y_last)
    sliced = torch.cat([last, last], 1).contiguous(memory_format=torch.channels_last)[:, 4:12]
    assert conv(sliced).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("padding_mode", ["zeros", "replicate"])
@pytest.mark.parametrize("groups", [1, 2])
def test_volumes_keep_their_memory_format(padding_mode, groups):
    conv = TiedConv3d(8, 8, 3, padding=1, groups=groups, blocks=2, padding_mode=padding_mode)
    conv = conv.to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 8, 4, 5, 6)
    y_last = conv(x.to(memory_format=torch.channels_last_3d))
    assert conv(x).is_contiguous()
    assert y_last.is_contiguous(memory_format=torch.channels_last_3d)
    assert_close(y_last, conv(x))


@pytest.mark.parametrize("name", ["contiguous", "channels_last"])
def test_padding_happens_in_the_inputs_format(name):
    """A circular pad of torch's gives a contiguous tensor; kept so, every layer would convert twice."""
    x = lay_out(torch.randn(2, 4, 5, 5), name)
    assert layout.is_channels_last(pad(x, [1, 1, 1, 1], "circular", 4)) == (name == "channels_last")


@DIMS
def test_attributes_are_named_as_torchs(dims):
    arguments = {"stride": 2, "padding": 1, "dilation": 3, "groups": 2, "padding_mode": "reflect"}
    tied, torchs = TIED[dims](8, 12, 3, **arguments, blocks=2), TORCH[dims](8, 12, 3, **arguments)
    for name in ("in_channels", "out_channels", "kernel_size", *arguments):
        assert getattr(tied, name) == getattr(torchs, name), name
    assert tied.blocks == 2


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (TiedConv2d(8, 4, 3), "TiedConv2d(8, 4, kernel_size=(3, 3), stride=(1, 1), blocks=1)"),
        (
            TiedConv1d(8, 4, 3, 2, "valid", 2, 2, False, "circular", blocks=2),
            "TiedConv1d(8, 4, kernel_size=(3,), stride=(2,), padding=valid, dilation=(2,), groups=2, bias=False, "
            "padding_mode=circular, blocks=2)",
        ),
    ],
)
def test_repr(conv, expected):
    assert repr(conv) == expected


@pytest.mark.parametrize("conv", [TiedConv2d(8, 4, 3, groups=2, blocks=2), TiedConv1d(8, 4, 3, bias=False, blocks=4)])
def test_copies_pickles_and_saved_states_compute_the_same(conv):
    x = torch.randn(2, 8, *(5,) * conv.N)
    file = io.BytesIO()
    torch.save(conv.state_dict(), file)
    file.seek(0)
    loaded = type(conv)(8, 4, 3, groups=conv.groups, blocks=conv.blocks, bias=conv.bias is not None)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv)), loaded):
        assert torch.equal(twin(x), conv(x))
        assert twin.weight.data_ptr() != conv.weight.data_ptr()


def test_a_subclass_is_named_in_messages():
    class MyConv(TiedConv2d):
        pass

    with pytest.raises(ValueError, match=r"^MyConv: in_channels=6 is not divisible"):
        MyConv(6, 8, 3, blocks=4)
