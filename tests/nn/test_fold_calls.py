"""When a norm is folded and when both modules are called, because somebody could notice that they are not."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.modules import module as global_hooks
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from tiedconv.models import TiedBottleneck
from tiedconv.nn import SplitTiedConv2d, TiedConv2d
from tiedconv.nn.fold import conv_norm

CONVS = {
    "torch": lambda: nn.Conv2d(8, 12, 3, padding=1),
    "tied": lambda: conv_like(),
    "splits": lambda: SplitTiedConv2d(8, 12, 3, padding=1, blocks=(1, 2)),
}
ALL_CONVS = pytest.mark.parametrize("kind", CONVS)

pytestmark = pytest.mark.usefixtures("folding_pays")


def conv_like(**arguments: Any) -> TiedConv2d:
    return TiedConv2d(8, 12, 3, padding=1, blocks=2, **arguments)


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).eval()
    nn.init.normal_(norm.running_mean)
    return norm


def pair(kind: str = "tied") -> tuple[nn.Module, nn.BatchNorm2d]:
    return CONVS[kind](), norm_of(12)


def images() -> Tensor:
    return torch.randn(2, 8, 7, 6, requires_grad=True)


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[None]]:
    """Count the calls that reach the module's class, which needs no hook."""
    calls: list[None] = []
    forward = type(module).forward

    def counted(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self is module:
            calls.append(None)
        return forward(self, *args, **kwargs)

    with mock.patch.object(type(module), "forward", counted):
        yield calls


def count_calls(conv: nn.Module, norm: nn.Module, x: Tensor) -> tuple[int, int]:
    with calls_of(conv) as conv_calls, calls_of(norm) as norm_calls:
        conv_norm(x, conv, norm)
    return len(conv_calls), len(norm_calls)


@ALL_CONVS
@pytest.mark.parametrize("conv_is_training", [True, False])
@pytest.mark.parametrize("with_gradients", [True, False])
def test_fixed_statistics_are_folded(kind, conv_is_training, with_gradients):
    conv, norm = pair(kind)
    conv.train(conv_is_training)
    with torch.set_grad_enabled(with_gradients):
        assert count_calls(conv, norm, images()) == (0, 0)


class MyNorm(nn.BatchNorm2d):
    pass


class MyConv(TiedConv2d):
    pass


HOOKS = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
HOOKS += ["register_full_backward_pre_hook"]


@pytest.mark.parametrize("register", HOOKS)
@pytest.mark.parametrize("watched", ["conv", "norm"])
@pytest.mark.parametrize("kind", ["torch", "tied", "splits"])
def test_hooks_see_their_calls_and_both_modules_are_called(kind, watched, register):
    conv, norm = pair(kind)
    seen = []
    handle = getattr(conv if watched == "conv" else norm, register)(lambda *args: seen.append(args[0]))
    assert count_calls(conv, norm, images()) == (1, 1)
    conv_norm(images(), conv, norm).sum().backward()
    assert seen
    handle.remove()
    assert count_calls(conv, norm, images()) == (0, 0)


@pytest.mark.parametrize("register", [f"register_module_{hook.removeprefix('register_')}" for hook in HOOKS])
def test_global_hooks_see_both_modules(register):
    conv, norm = pair()
    seen = []
    handle = getattr(global_hooks, register)(lambda *args: seen.append(args[0]))
    try:
        conv_norm(images(), conv, norm).sum().backward()
    finally:
        handle.remove()
    assert {conv, norm} <= {*seen}
    assert count_calls(conv, norm, images()) == (0, 0)


@pytest.mark.parametrize("watched", ["conv", "norm"])
def test_a_forward_set_on_a_module_takes_its_calls(watched):
    """What offloads weights to another device does it there."""
    conv, norm = pair()
    module = conv if watched == "conv" else norm
    module.forward = mock.Mock(wraps=module.forward)
    conv_norm(images(), conv, norm)
    module.forward.assert_called_once()


@pytest.mark.parametrize(
    ("conv", "norm"),
    [
        (conv_like(), norm_of(12).train()),
        (conv_like(), nn.BatchNorm2d(12, track_running_stats=False).eval()),
        (conv_like(), MyNorm(12).eval()),
        (conv_like(), BatchNormAct2d(12).eval()),
        (conv_like(), nn.InstanceNorm2d(12, track_running_stats=True).eval()),
        (conv_like(), nn.GroupNorm(3, 12)),
        (conv_like(), nn.Identity()),
        (conv_like(padding_mode="circular"), norm_of(12)),
        (nn.Conv2d(8, 12, 3, padding=1, padding_mode="circular"), norm_of(12)),
        (MyConv(8, 12, 3, blocks=2), norm_of(12)),
        (parametrizations.weight_norm(conv_like()), norm_of(12)),
        (nn.ConvTranspose2d(8, 12, 3), norm_of(12)),
        (nn.Identity(), norm_of(8)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_other_modules_are_called(conv, norm):
    x = images()
    assert count_calls(conv, norm, x) == (1, 1)
    twin_conv, twin_norm = copy.deepcopy(conv), copy.deepcopy(norm)
    assert torch.equal(conv_norm(x, conv, norm), twin_norm(twin_conv(x)))


def test_training_updates_the_statistics():
    conv, norm = pair()
    norm.train()
    before = norm.running_mean.clone()
    conv_norm(images(), conv, norm)
    assert norm.num_batches_tracked == 1
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.slow
@ALL_CONVS
def test_the_compiler_sees_both_modules(kind):
    (conv, norm), seen = pair(kind), []

    def backend(graph: fx.GraphModule, inputs: list[Tensor]) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.compiler.reset()
    x = images()
    y = torch.compile(conv_norm, backend=backend, fullgraph=True)(x, conv, norm)
    assert any("batch_norm" in target for target in seen)
    assert_close(y, norm(conv(x)))


def test_export_sees_both_modules():
    conv, norm = pair()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv, norm

        def forward(self, x: Tensor) -> Tensor:
            return conv_norm(x, self.conv, self.norm)

    program = torch.export.export(Both(), (images(),))
    assert any("batch_norm" in str(node.target) for node in program.graph.nodes)


class Tracer(fx.Tracer):
    """As torch.fx's, with our layers as leaves: their checks branch on shapes, which no symbolic trace follows."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (TiedConv2d, SplitTiedConv2d)) or super().is_leaf_module(m, module_qualified_name)


def test_a_symbolic_trace_of_a_bottleneck_calls_its_convolutions_and_norms():
    shortcut = nn.Sequential(nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64))
    block = TiedBottleneck(64, 16, downsample=shortcut).eval()
    graph = Tracer().trace(block)
    called = {node.target for node in graph.nodes if node.op == "call_module"}
    convs = ("conv1", "conv2", "mix_conv", "conv3", "downsample.0")
    assert {*convs, "bn1", "bn2", "mix_bn", "bn3", "downsample.1"} <= called
    x = torch.randn(1, 64, 5, 5)
    assert_close(fx.GraphModule(block, graph)(x), block(x))
