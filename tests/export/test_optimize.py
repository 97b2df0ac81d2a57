"""The optimized twin computes what the model does, whatever the model; and what is stored stays tied."""

import copy
import io
import pickle

import pytest
import timm
import torch
import torchvision
from tests.randomized import randomize_norms
from torch import nn
from torch.testing import assert_close

import tiedconv
from tiedconv.export import OptimizedModel, optimize_for_inference
from tiedconv.export._fused import FusedConv2d
from tiedconv.nn import SplitTiedConv2d, TiedConv1d, TiedConv2d, TiedGlobalContext, TiedSE

NETWORKS = {
    "tiedresnet50_s": {},
    "tiedresnet50": {"block_args": {"attn_layer": TiedSE}},
    "tiedresnet50_concat": {},
    "tiedresnext50_32x4d": {},
    "tiedsenet50": {},
    "tiedresnest50_s": {},
    "tiedefficientnet_b0_b2": {},
    "tiedresnet_tiny": {},
    "resnet18": {},
    "densenet121": {},
    "mobilenetv3_small_050": {},
    "test_convnext": {},
}


def fused_layers(model: nn.Module) -> list[FusedConv2d]:
    return [m for m in model.modules() if isinstance(m, FusedConv2d)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_what_they_did(name, memory_format):
    model = randomize_norms(timm.create_model(name, **NETWORKS[name])).eval().to(memory_format=memory_format)
    x = torch.randn(2, 3, 64, 64).to(memory_format=memory_format)
    fast = optimize_for_inference(model)
    with torch.no_grad():
        expected = model.double()(x.double()).float()
    for _ in range(2):  # the first call packs
        assert_close(fast(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert fused_layers(fast)


@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.googlenet])
def test_torchvision_networks(build):
    model = randomize_norms(
        build(weights=None, **({"init_weights": False} if "google" in build.__name__ else {}))
    ).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
    assert_close(optimize_for_inference(model)(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_every_norm_relu_and_addition_of_a_tied_resnet_disappears():
    network = optimize_for_inference(tiedconv.create_model("tiedresnet50_s")).network
    left = {type(m) for m in network.modules() if not list(m.children())}
    assert left == {FusedConv2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear}


def test_features_at_each_stage():
    model = randomize_norms(timm.create_model("tiedresnet_tiny", features_only=True)).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
    for ours, theirs in zip(optimize_for_inference(model)(x), expected, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


class Branches(nn.Module):
    """Python control flow on values, which cannot be traced, around parts that can."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.tied = nn.Sequential(TiedConv2d(8, 8, 3, padding=1, blocks=2), nn.BatchNorm2d(8))
        self.alone = TiedConv2d(8, 8, 1, blocks=4)

    def forward(self, x):
        x = self.stem(x)
        if x.mean() > -1e9:
            x = x + self.tied(x)
        return self.alone(x) * self.alone.out_channels


def test_parts_of_an_untraceable_model_are_optimized():
    model = randomize_norms(Branches()).eval()
    x = torch.randn(2, 3, 9, 9)
    fast = optimize_for_inference(model)
    assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-4)
    assert len(fused_layers(fast)) == 3
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())


def test_around_an_untraceable_module_the_network_is_one_graph():
    network = optimize_for_inference(nn.Sequential(nn.Sequential(nn.Conv2d(16, 16, 1), Untraceable()))).network
    assert [node.target for node in network.graph.nodes if node.op == "call_module"] == ["0.0", "0.1"]


class Sums(nn.Module):
    """Additions that can and cannot be merged into the convolution before them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.gate = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        doubled = self.a(x)
        doubled = torch.relu(doubled + doubled)  # twice the same
        broadcast = (self.gate(x.mean((2, 3), keepdim=True)) + x).relu()  # smaller than what is added
        twice_used = self.norm(self.b(x))
        return doubled + broadcast + twice_used + twice_used.relu() + self.b(broadcast) + 1


def test_additions_keep_their_meaning():
    model = randomize_norms(Sums()).eval()
    x = torch.randn(2, 4, 5, 5)
    assert_close(optimize_for_inference(model)(x), model(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "conv",
    [
        TiedConv2d(8, 16, 3, padding=1, stride=2, groups=2, blocks=2),
        TiedConv2d(8, 16, 3, padding="same", blocks=2),
        TiedConv2d(8, 16, 3, padding=1, padding_mode="reflect", blocks=2),
        SplitTiedConv2d(8, 16, 3, padding=1, blocks=(1, 2)),
        nn.Conv2d(8, 16, (3, 1), padding=(1, 0), dilation=(2, 1), groups=4),
    ],
    ids=["groups", "same", "reflect", "split", "untied"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_with_a_norm(conv, dtype):
    model = randomize_norms(nn.Sequential(copy.deepcopy(conv), nn.BatchNorm2d(16), nn.ReLU())).eval().to(dtype)
    for size in ((2, 8, 9, 9), (1, 8, 7, 11), (0, 8, 9, 9)):  # packed for the first
        x = torch.randn(size, dtype=dtype)
        assert_close(optimize_for_inference(model)(x), model(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [8, 64])
def test_splits_are_one_call_or_several(width):
    conv = SplitTiedConv2d(2 * width, 2 * width, 3, padding=1, blocks=(1, 4))
    fast = optimize_for_inference(conv)
    x = torch.randn(1, 2 * width, 5, 5)
    assert_close(fast(x), conv(x).detach(), rtol=1e-4, atol=1e-4)
    (layer,) = fused_layers(fast)
    assert len(layer._parts) == (1 if width == 8 else 2)


def test_unbatched_input():
    conv = TiedConv2d(4, 4, 3, blocks=2)
    x = torch.randn(4, 5, 5)
    assert_close(optimize_for_inference(conv)(x), conv(x).detach(), rtol=1e-4, atol=1e-5)


class Shortcuts(nn.Module):
    """A map that is added and goes on being used."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x):
        shortcut = self.a(x)
        y = (self.b(shortcut) + shortcut).relu()
        return self.c(shortcut) + y, y


@pytest.mark.parametrize("size", [5, 1])
def test_no_map_is_overwritten_that_is_needed_later(size):
    model = Shortcuts().eval()
    x = torch.randn(2, 4, size, size)
    assert_close(optimize_for_inference(model)(x), tuple(y.detach() for y in model(x)), rtol=1e-4, atol=1e-5)
    network = optimize_for_inference(tiedconv.create_model("tiedresnet50_s"))
    assert sum(layer.overwrites_residual for layer in fused_layers(network)) == 16


class Network(nn.Module):
    """Convolutions ``a`` and ``b`` and whatever else, used as ``compute(self, x)`` says."""

    def __init__(self, compute, **modules):
        super().__init__()
        self.compute = compute
        self.a, self.b = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.compute(self, x)


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)

    def forward(self, x, y=0):
        return 2 * self.conv(x) + 3 * y if x.sum() > -1e9 else x


class Doubling(nn.Dropout):
    def forward(self, x):
        return 2 * x if x.sum() > -1e9 else x


def adds_to_its_own_input(net, x):
    x = net.a(x)
    return net.b(x) + x


def relu_in_place_before_the_sum(net, x):
    x = net.a(x)
    y = net.b(x)
    return y + net.relu(x)


def product_in_place_before_the_sum(net, x):
    x = net.a(x)
    y = net.b(x)
    x.mul_(2)
    return y + x


def sum_in_place_seen_by_another_name(net, x):
    x = shortcut = 2 * x
    x += net.a(x)
    return x * shortcut


def sum_in_place_seen_by_a_view(net, x):
    x = 2 * x
    flat = x.flatten(1)
    x += net.a(x)
    return flat


@pytest.mark.parametrize(
    "compute",
    [
        adds_to_its_own_input,
        relu_in_place_before_the_sum,
        product_in_place_before_the_sum,
        sum_in_place_seen_by_another_name,
        sum_in_place_seen_by_a_view,
        lambda net, x: net.a(x) + x.shape[1],
        lambda net, x: net.a(x) + (x > 0),
        lambda net, x: (net.a(x) + x.double()).float(),
        lambda net, x: net.a(input=x) + x,
        lambda net, x: net.drop(input=net.a(x)),
        lambda net, x: torch.nn.functional.conv_transpose2d(net.a(x), net.a.weight),
        lambda net, x: net.untraceable(x) + net.untraceable.conv(x).relu(),
        lambda net, x: net.add(net.a(x), x),
        lambda net, x: net.doubling(net.a(x)),
    ],
    ids=[
        "own input",
        "relu_",
        "mul_",
        "another name",
        "view",
        "number",
        "mask",
        "double",
        "keyword",
        "keyword of dropout",
        "weight",
        "layer of an untraceable one",
        "module called add",
        "subclass of dropout",
    ],
)
def test_what_code_may_do_with_a_convolution(compute):
    parts = {"relu": nn.ReLU(inplace=True), "drop": nn.Dropout(), "untraceable": Untraceable(), "doubling": Doubling()}
    net = Network(compute, add=Untraceable(), **parts).eval()
    x = torch.randn(2, 16, 9, 9)
    with torch.no_grad():
        expected = net(x)
    assert_close(optimize_for_inference(net)(x), expected, rtol=1e-4, atol=1e-4)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x, mask=None):
        x = self.layers(x)
        return x if mask is None else x * mask


def test_optional_inputs_stay_optional():
    model = randomize_norms(Masked()).eval()
    fast = optimize_for_inference(model)
    x, mask = torch.randn(2, 3, 5, 5), torch.rand(2, 1, 5, 5)
    assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5)
    assert_close(fast(x, mask=mask), model(x, mask).detach(), rtol=1e-4, atol=1e-5)
    assert len(fused_layers(fast)) == 1


def test_other_layers_are_left_alone():
    model = nn.Sequential(TiedConv1d(4, 4, 3, blocks=2), nn.BatchNorm1d(4), nn.ReLU()).eval()
    x = torch.randn(2, 4, 9)
    fast = optimize_for_inference(model)
    assert torch.equal(fast(x), model(x))
    assert not fused_layers(fast)


def test_modules_with_hooks_are_called():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    seen = []
    model[1].register_forward_hook(lambda *args: seen.append(args[-1].shape))
    optimize_for_inference(model)(torch.randn(1, 3, 2, 2))
    assert seen == [(1, 4, 2, 2)]


def test_global_context_is_kept():
    model = TiedGlobalContext(8).eval()
    nn.init.normal_(model.fc2.weight)
    x = torch.randn(2, 8, 3, 3)
    assert_close(optimize_for_inference(model)(x), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_the_model_is_not_touched():
    model = tiedconv.create_model("tiedresnet_tiny").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimize_for_inference(model)(torch.randn(1, 3, 32, 32))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not fused_layers(model)


def test_what_is_stored_is_the_tied_model():
    model = tiedconv.create_model("tiedresnet_tiny", num_classes=10)
    fast = optimize_for_inference(model)
    assert {n: v.shape for n, v in fast.state_dict().items()} == {n: v.shape for n, v in model.state_dict().items()}
    tied, file = io.BytesIO(), io.BytesIO()
    torch.save(model, tied)
    torch.save(fast, file)
    assert file.tell() < 1.01 * tied.tell()
    file.seek(0)
    x = torch.randn(1, 3, 32, 32)
    for twin in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast)):
        assert isinstance(twin, OptimizedModel)
        assert_close(twin(x), fast(x))


def test_outputs_have_no_gradients():
    fast = optimize_for_inference(nn.Conv2d(3, 4, 1))
    assert not fast(torch.randn(1, 3, 2, 2, requires_grad=True)).requires_grad
    assert not any(p.requires_grad for p in fast.parameters())


def test_it_moves_to_another_dtype_after_a_call():
    model = nn.Sequential(TiedConv2d(8, 8, 3, blocks=2), nn.BatchNorm2d(8)).eval()
    fast = optimize_for_inference(model)
    x = torch.randn(1, 8, 5, 5)
    fast(x)
    assert_close(fast.double()(x.double()), model.double()(x.double()).detach(), rtol=1e-6, atol=1e-6)


def test_it_compiles():
    fast = optimize_for_inference(randomize_norms(tiedconv.create_model("tiedresnet_tiny")).eval())
    x = torch.randn(1, 3, 32, 32)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), fast(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_its_trace_can_be_stored():
    fast = optimize_for_inference(nn.Sequential(TiedConv2d(8, 8, 3, padding=1, blocks=2), nn.ReLU()))
    x = torch.randn(1, 8, 5, 5)
    expected, file = fast(x), io.BytesIO()
    torch.jit.save(torch.jit.trace(fast, x), file)
    file.seek(0)
    assert_close(torch.jit.load(file)(x), expected)


def test_it_computes_in_autocasts_precision():
    fast = optimize_for_inference(nn.Conv2d(8, 8, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(torch.randn(1, 8, 5, 5)).dtype == torch.bfloat16


def test_training_and_loading_are_refused():
    fast = optimize_for_inference(nn.Conv2d(3, 4, 1))
    assert fast.eval() is fast
    with pytest.raises(RuntimeError, match=r"it cannot be trained\. Train the model it was made from"):
        fast.train()
    with pytest.raises(RuntimeError, match=r"Load them into the tied model, then optimize that\."):
        fast.load_state_dict(fast.state_dict())
