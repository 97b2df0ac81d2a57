"""Tied layers under torch's tracers: torch.jit.trace, torch.fx and torch.export record what the layers compute."""

import pickle

import pytest
import torch
from tests.ops.strategies import lay_out
from torch import Tensor, nn
from torch.testing import assert_close

from tiedconv import create_model
from tiedconv.nn import SplitTiedConv2d, TiedConv1d, TiedConv2d, TiedConv3d, TiedGlobalContext, TiedLinear, TiedSE

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")

FORMATS = ["contiguous", "channels_last"]

# A layer, the shape of the example and another shape that the trace must serve as well.
LAYERS = {
    "sequences": (TiedConv1d(8, 8, 3, padding=1, blocks=2), (2, 8, 9), (3, 8, 5)),
    "images": (TiedConv2d(8, 8, 3, padding=1, blocks=2), (2, 8, 6, 7), (3, 8, 5, 9)),
    "pointwise": (TiedConv2d(8, 8, 1, blocks=4), (2, 8, 6, 7), (1, 8, 9, 3)),
    "one image": (TiedConv2d(8, 8, 3, groups=2, blocks=2), (8, 6, 7), (8, 5, 9)),
    "one block": (TiedConv2d(8, 8, 3, groups=2), (2, 8, 6, 7), (3, 8, 5, 9)),
    "volumes": (TiedConv3d(8, 8, 3, padding=1, groups=2, blocks=2), (2, 8, 5, 6, 7), (3, 8, 6, 5, 4)),
    "circular": (TiedConv2d(8, 8, 3, padding="same", padding_mode="circular", blocks=2), (2, 8, 6, 7), (3, 8, 5, 9)),
    "splits": (SplitTiedConv2d(16, 16, 3, groups=(1, 2, 1, 1), blocks=(1, 2, 4, 1)), (2, 16, 6, 7), (3, 16, 5, 9)),
    "splits of one image": (SplitTiedConv2d(16, 16, 3, padding=1, blocks=(1, 2)), (16, 6, 7), (16, 5, 9)),
    "vectors": (TiedLinear(8, 4, blocks=2), (3, 8), (0, 8)),
    "a vector": (TiedLinear(8, 4, blocks=2), (8,), (8,)),
    "sequences of vectors": (TiedLinear(8, 4, blocks=2), (3, 2, 8), (1, 5, 8)),
    "attention": (TiedSE(8, reduction=2, blocks=2), (2, 8, 6, 7), (3, 8, 5, 9)),
    "context": (TiedGlobalContext(8, reduction=2, blocks=2), (2, 8, 6, 7), (3, 8, 5, 9)),
}
EVERY_LAYER = pytest.mark.parametrize(("layer", "shape", "other"), LAYERS.values(), ids=LAYERS)
IN_EVERY_FORMAT = [
    (case, name) for case in LAYERS for name in FORMATS if name == FORMATS[0] or len(LAYERS[case][1]) > 3
]


def inputs(shape: tuple[int, ...], name: str) -> Tensor:
    return lay_out(torch.randn(shape), name)


def randomize(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)


@pytest.mark.parametrize(("case", "name"), IN_EVERY_FORMAT)
@pytest.mark.parametrize("grad", [True, False])
def test_a_jit_trace_serves_other_sizes_and_follows_the_parameters(case, name, grad):
    """Warnings are errors here: torch warns of every size whose value a trace would keep."""
    layer, shape, other = LAYERS[case]
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(layer, inputs(shape, name))  # torch compares the two on the example itself
        randomize(layer)
        for size in (shape, other):
            x = inputs(size, name)
            y, expected = traced(x), layer(x)
            assert_close(y, expected)
            assert y.stride() == expected.stride()


def test_a_jit_trace_of_a_network_made_with_gradients_serves_other_sizes():
    model = create_model("tiedresnet_tiny", num_classes=10).eval()
    traced = torch.jit.trace(model, torch.rand(2, 3, 32, 32))  # torch compares the two, without gradients
    x = torch.rand(3, 3, 48, 40)
    assert_close(traced(x), model(x))


@EVERY_LAYER
def test_a_symbolic_trace_calls_each_layer_as_one(layer, shape, other):
    randomize(layer)
    traced = torch.fx.symbolic_trace(layer)
    copies = [traced, pickle.loads(pickle.dumps(traced))]
    for size in (shape, other):
        x = torch.randn(size)
        assert all(torch.equal(copy(x), layer(x)) for copy in copies)
    with pytest.raises(RuntimeError, match="expected input"):
        traced(torch.randn(7, *shape[1:]) if len(shape) == 1 else torch.randn(*(5,) * len(shape)))


@pytest.mark.parametrize(("layer", "calls"), [(LAYERS["circular"][0], 2), (LAYERS["splits"][0], 1)])
def test_a_symbolic_trace_has_no_operations_of_a_layers_inside(layer, calls):
    nodes = [node for node in torch.fx.symbolic_trace(layer).graph.nodes if node.op.startswith("call")]
    assert [node.op for node in nodes] == ["call_function"] * calls


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("side", [3, 15])
def test_no_filter_is_repeated_in_what_is_recorded(groups, kernel, name, side):
    """Exporters would write repeated filters into their files."""
    conv = TiedConv2d(32, 32, kernel, groups=groups, bias=False, blocks=2).eval()
    x = inputs((2, 32, side, side), name)
    traced = {node.kind() for node in torch.jit.trace(conv, x).inlined_graph.nodes()}
    exported = {str(node.target) for node in torch.export.export(conv, (x,)).graph.nodes}
    for operations in (traced, exported):
        assert any("conv" in operation for operation in operations)
        assert not any("cat" in operation or "expand" in operation for operation in operations)
