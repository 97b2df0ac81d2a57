"""Layers tied in place: what the tied ones compute, what is kept and why, and a model left alone after an error."""

import copy
import io
import pickle
import warnings
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from tests.convert.cases import Case, Snapshot, cases, expected_output
from torch import Tensor, distributed, nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

import tiedconv
from tiedconv import tie_
from tiedconv.nn import TiedConv2d, TiedLinear

EXACT = {"rtol": 1e-9, "atol": 1e-9}

# torch's own layers say so, and which of them is the first to depends on the order of tests
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")


def plain(**arguments: Any) -> nn.Sequential:
    """Two layers that two blocks can share, and an output layer."""
    convs = [nn.Conv2d(4, 8, 3, **arguments), nn.ReLU(), nn.Conv2d(8, 8, 3, **arguments)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10, **arguments))


def reason_for(layer: nn.Module, blocks: int = 2) -> str:
    """Tie a model that holds ``layer`` and one that can be tied; return why the first is kept."""
    model = nn.ModuleDict({"odd": layer, "tied": nn.Conv2d(4, 4, 1)})
    report = tie_(model, blocks, "all")
    assert list(report.blocks) == ["tied"]
    assert model["odd"] is layer
    return report.kept[0].reason


# --- What tied layers compute


@settings(max_examples=40)
@given(case=cases())
def test_a_tied_layer_computes_torchs_layer_with_its_weight_written_out(case: Case):
    model = nn.Sequential(case.layer())
    (old,), x = model, case.input()
    report = tie_(model, case.blocks, "all")
    assert report.blocks == {"0": case.blocks}
    assert_close(model(x), expected_output(old, model[0], x), **EXACT)


@settings(max_examples=20)
@given(case=cases())
def test_tying_what_is_tied_in_effect_changes_no_output(case: Case):
    model, x = nn.Sequential(case.layer()), case.input()
    tie_(model, case.blocks, "all")
    expected = model(x)
    tiedconv.untie_(model, "dense")
    report = tie_(model, case.blocks, "all")
    assert_close(model(x), expected, **EXACT)
    assert report.tied[0].error == pytest.approx(0, abs=1e-6)


def test_random_weights_are_drawn_as_those_of_a_new_layer():
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Linear(8, 16))
    torch.manual_seed(3)
    report = tie_(model, 4, "all", "random")
    torch.manual_seed(3)
    new = nn.Sequential(TiedConv2d(8, 16, 3, blocks=4), TiedLinear(8, 16, blocks=4))
    assert_close(model.state_dict(), new.state_dict(), rtol=0, atol=0)
    assert [layer.error for layer in report.tied] == [None, None]
    assert report.error_of is None


@pytest.mark.parametrize("init", ["project", "data"])
def test_no_random_number_is_drawn_for_weights_that_are_not_random(init):
    model, images = plain(), torch.randn(2, 4, 8, 8)
    before = torch.get_rng_state()
    tie_(model, init=init, images=images if init == "data" else None)
    assert torch.equal(torch.get_rng_state(), before)


# --- What stays


def test_device_type_mode_memory_format_and_frozen_weights_stay():
    model = plain().to(torch.bfloat16).to(memory_format=torch.channels_last)
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    model[0].eval()
    tie_(model)
    assert isinstance(model[0], TiedConv2d)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    expected = {"0.weight": False, "0.bias": False, "2.weight": True, "2.bias": False}
    assert flags == {**expected, "5.weight": True, "5.bias": True}
    assert not model[0].training
    assert model[2].training
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    y = model(torch.randn(2, 4, 8, 8, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.shape == (2, 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.complex64])
def test_every_floating_type_is_tied_in_its_own(dtype):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, dtype=dtype), nn.Conv2d(8, 8, 1, dtype=dtype))
    report = tie_(model, 2, "all")
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(0 < layer.error < 1 for layer in report.tied)


def test_a_model_on_the_meta_device_is_tied_there():
    model = plain(device="meta")
    report = tie_(model)
    assert all(p.is_meta for p in model.parameters())
    assert report.blocks == {"0": 2, "2": 2}
    assert report.tied[0].error is None


def test_a_layer_that_stands_in_several_places_stays_one():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(layer, nn.ReLU(), nn.Sequential(layer), nn.Conv2d(4, 4, 1))
    report = tie_(model, 2, "all")
    assert model[0] is model[2][0]
    assert isinstance(model[0], TiedConv2d)
    assert [layer.name for layer in report.layers] == ["0", "3"]


def test_a_report_repeats_the_tying_on_another_model_that_takes_the_weights():
    first, second, x = plain(), plain(), torch.randn(2, 4, 8, 8)
    report = tie_(first, {"0": 4, "5": 2, "*": 2})
    assert report.blocks == {"0": 4, "2": 2, "5": 2}
    assert tie_(second, report.blocks, init="random").blocks == report.blocks
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_tied_model_can_be_copied_and_stored(how):
    model, x = plain(), torch.randn(2, 4, 8, 8)
    tie_(model)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert torch.equal(model(x), other(x))
    assert other[0].weight is not model[0].weight


@pytest.mark.slow
def test_a_tied_model_compiles():
    model, x = plain().eval(), torch.randn(2, 4, 8, 8)
    tie_(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), model(x))


def test_every_weight_of_a_tied_timm_network_gets_a_gradient():
    model = timm.create_model("test_resnet", num_classes=4)
    tie_(model)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# --- What is kept, and why


class Own(nn.Conv2d):
    """A layer that computes in a way of its own."""


def hooked(kind: str) -> nn.Module:
    layer = nn.Conv2d(4, 4, 1)
    getattr(layer, kind)(lambda *args: None)
    return layer


def with_forward() -> nn.Module:
    layer = nn.Conv2d(4, 4, 1)
    layer.forward = layer.forward  # type: ignore[method-assign]
    return layer


def frozen_tensor() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int32), requires_grad=False)
    return layer


class Marked(nn.Parameter):
    """A parameter of another class."""


def marked() -> nn.Module:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = Marked(layer.weight.detach())
    return layer


def with_more() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_buffer("scale", torch.ones(1))
    layer.register_parameter("gain", nn.Parameter(torch.ones(1)))
    return layer


REASONS = {
    "indivisible": (lambda: nn.Conv2d(3, 4, 1), "in_channels 3 is not a multiple of 2 blocks"),
    "indivisible output": (lambda: nn.Linear(4, 5), "out_features 5 is not a multiple of 2 blocks"),
    "groups without room": (
        lambda: nn.Conv2d(9, 12, 1, groups=3),
        "in_channels 9 is not a multiple of 2 blocks * 3 groups",
    ),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), "depthwise: a filter sees one channel"),
    "depthwise, wider": (lambda: nn.Conv2d(4, 16, 3, groups=4), "depthwise: a filter sees one channel"),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 3), "a transposed convolution"),
    "subclass": (lambda: Own(4, 4, 1), "a Own, which computes in a way of its own"),
    "tied already": (lambda: TiedConv2d(4, 4, 1, blocks=2), "tied already"),
    "forward hook": (partial(hooked, "register_forward_hook"), "it has hooks, which would be lost; remove them first"),
    "pre-hook": (partial(hooked, "register_forward_pre_hook"), "it has hooks, which would be lost; remove them first"),
    "backward hook": (partial(hooked, "register_full_backward_hook"), "it has hooks, which would be lost"),
    "forward of its own": (with_forward, "it has hooks, which would be lost"),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        "parametrized; torch.nn.utils.parametrize",
    ),
    "spectral norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
        "parametrized; torch.nn.utils.parametrize",
    ),
    "more tensors": (with_more, "it holds more than weight and bias: gain, scale"),
    "integers": (frozen_tensor, "its weight is a Parameter of torch.int32"),
    "parameter subclass": (marked, "its weight is a Marked of torch.float32"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_what_cannot_be_tied_is_kept_with_the_reason(kind):
    make, reason = REASONS[kind]
    assert reason_for(make()).startswith(reason)


def test_groups_are_tied_within():
    model = nn.Sequential(nn.Conv2d(6, 12, 1, groups=1), nn.Conv2d(12, 12, 3, groups=3))
    assert tie_(model, 2, "all").blocks == {"0": 2, "1": 2}
    assert model[1].weight.shape == (6, 2, 3, 3)


def test_layers_that_share_a_parameter_are_kept():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4), "e": nn.Embedding(4, 4)})
    model["b"].weight = model["a"].weight
    report = tie_(model, 2, "all")
    assert [layer.reason for layer in report.layers] == [
        "it shares a parameter: a, b",
        "it shares a parameter: a, b",
        "",
    ]
    head = nn.Linear(4, 4)
    model["e"].weight = head.weight
    report = tie_(nn.ModuleDict({"head": head, "e": model["e"], "c": nn.Linear(4, 4)}), 2, "all")
    assert [layer.reason for layer in report.layers] == ["it shares a parameter: head, e", ""]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_layers_are_kept():
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
    report = tie_(nn.Sequential(quantised, nn.Linear(4, 4)), 2, "all")
    assert [layer.reason for layer in report.layers] == ["quantised", ""]


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning")
def test_a_scripted_part_is_kept():
    scripted = torch.jit.trace(nn.Conv2d(4, 4, 1), torch.randn(1, 4, 2, 2))
    model = nn.Sequential(scripted, nn.Conv2d(4, 4, 1))
    assert tie_(model, 2, "all").blocks == {"1": 2}
    assert model[0] is scripted


class Reader(nn.Module):
    """Hands a layer's weight to a function, as torchvision's Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(F.linear(x, self.read.weight, self.read.bias))


def test_a_layer_that_is_not_called_is_kept():
    model = Reader()
    report = tie_(model, 2, "all")
    assert report.kept[0].reason == "not called in a forward pass"
    assert report.blocks == {"called": 2}
    assert model(torch.randn(2, 8)).shape == (2, 8)


class Pair(nn.Module):
    """Two inputs, one of them token numbers, and a layer that only reads its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.read, self.head = (nn.Embedding(9, 8), *(nn.Linear(8, 8) for _ in range(3)))

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.head(F.linear(self.mix(self.words(words)) * mask, self.read.weight))
        return y


def test_a_model_of_several_inputs_is_checked_with_examples():
    model = Pair()
    words, mask = torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 5, 1)
    with pytest.raises(ValueError, match="Give example_inputs"):
        tie_(model)
    report = tie_(model, example_inputs=(words, mask))
    assert {row.name: row.reason for row in report.layers} == {
        "mix": "",
        "read": "not called in a forward pass",
        "head": "the model's output layer",
    }
    assert (report.input_shapes, report.macs) == (((1, 5), (1, 5, 1)), 2 * 5 * 64)
    assert "MACs for an input of 1x5 and 1x5x1" in str(report)
    assert tie_(Pair(), example_inputs={"mask": mask, "words": words}).blocks == report.blocks


def test_layers_that_an_encoder_reads_in_evaluation_mode_are_kept():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(8, 8), encoder, nn.Linear(8, 2)).eval()
    report = tie_(model, 2, example_inputs=torch.zeros(1, 5, 8))
    assert report.blocks == {"0": 2}
    assert "nn.TransformerEncoderLayer reads its weight in evaluation mode" in {each.reason for each in report.kept}
    with torch.no_grad():  # the fast path
        assert model(torch.randn(3, 5, 8)).shape == (3, 5, 2)


# --- Errors, after which the model is as it was


class Aliased(nn.Module):
    """Calls its layers by a list that the module does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)
        self.layers = [self.a, self.b]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class WithoutGradients(nn.Sequential):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class CalledAndRead(Reader):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.called(self.read(x)), self.read.weight.T)


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nn.Sequential(nn.Conv2d(4, 8, 3), nn.LazyConv2d(8, 3))


def second_batch_wrong() -> list[Tensor]:
    return [torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8)]


ERRORS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "init": (plain, {"init": "svd"}, ValueError, "init must be one of 'project', 'data', 'random', got 'svd'"),
    "data without images": (plain, {"init": "data"}, ValueError, 'init="data" needs images'),
    "images without data": (plain, {"images": torch.zeros(1, 4, 8, 8)}, ValueError, "images are for init=.data. alone"),
    "no image": (plain, {"init": "data", "images": []}, ValueError, "images holds no image"),
    "empty tensor": (plain, {"init": "data", "images": torch.empty(0, 4, 8, 8)}, ValueError, "images holds no image"),
    "paths": (plain, {"init": "data", "images": ["a.png"]}, TypeError, "images must hold tensors .*, got a str"),
    "number": (plain, {"init": "data", "images": 3}, TypeError, "images must be a tensor .*, got int"),
    "zero blocks": (plain, {"blocks": 0}, ValueError, "blocks must be at least 1, got 0.* 1 keeps a layer"),
    "bool blocks": (plain, {"blocks": True}, TypeError, r"blocks must be an int, got True \(bool\)"),
    "text blocks": (plain, {"blocks": "2"}, TypeError, r"blocks must be an int, got '2' \(str\)"),
    "float in dict": (plain, {"blocks": {"0": 2.0}}, TypeError, r"blocks\['0'\] must be an int, got 2.0"),
    "function: bool": (plain, {"blocks": lambda m, n: True}, TypeError, "what blocks returned for '0' must be an int"),
    "function: zero": (
        plain,
        {"blocks": lambda m, n: 0},
        ValueError,
        "what blocks returned for '0' must be at least 1",
    ),
    "function: text": (plain, {"blocks": lambda m, n: "2"}, TypeError, "what blocks returned for '0' must be an int"),
    "function: late": (plain, {"blocks": lambda m, n: 0 if n == "2" else 2}, ValueError, "blocks returned for '2'"),
    "pattern": (plain, {"blocks": {"layer5.*": 2}}, ValueError, r"'layer5.\*' in blocks matches none of the 3"),
    "named": (plain, {"blocks": {"0": 3}}, ValueError, "'0' is named in blocks and cannot be tied: in_channels 4"),
    "nothing left": (plain, {"blocks": 7}, ValueError, "none of the 3 .* can be tied .*Choose other blocks"),
    "all one block": (plain, {"blocks": 1}, ValueError, "none of the 3 .*blocks is 1"),
    "no layer": (lambda: nn.Sequential(nn.ReLU()), {}, ValueError, "none of the 0 .*there is none"),
    "filter": (plain, {"filter_fn": "heads"}, ValueError, "filter_fn must be a function .* 'se', got 'heads'"),
    "example_inputs": (
        plain,
        {"example_inputs": torch.zeros(1, 3, 8, 8)},
        ValueError,
        r"tie_: Sequential does not run on the inputs given, .* tensors of \(\(1, 3, 8, 8\),\): .* 4 channels",
    ),
    "other images": (
        plain,
        {"init": "data", "images": torch.zeros(2, 3, 8, 8)},
        ValueError,
        r"does not run on images, here of \(1, 3, 8, 8\), torch.float32, on cpu: .* 4 channels.*Images are for",
    ),
    "images for a model of two inputs": (
        lambda: nn.Sequential(nn.Bilinear(4, 4, 4), nn.Conv2d(4, 4, 1)),
        {"init": "data", "images": torch.zeros(2, 4), "example_inputs": (torch.zeros(2, 4), torch.zeros(2, 4))},
        ValueError,
        r"tie_: .* missing 1 required positional argument: 'input2'\. Nothing .* models that take one tensor; tie_\(",
    ),
    "inputs that were not given": (
        lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.Linear(4, 4)),
        {},
        ValueError,
        "cannot tell the output layers of Sequential.* does not run on the input assumed.* Give example_inputs, or say",
    ),
    "dict and filter": (
        plain,
        {"blocks": {"0": 2}, "filter_fn": "all"},
        ValueError,
        "blocks is a dict.* the dict alone",
    ),
    "function and filter": (
        plain,
        {"blocks": lambda m, n: 2, "filter_fn": lambda m, n: True},
        ValueError,
        "blocks is a function, which chooses .* Give filter_fn with a number of blocks, or the function alone",
    ),
    "without gradients": (
        lambda: WithoutGradients(*plain()),
        {},
        ValueError,
        "cannot tell the output layers of WithoutGradients.* computes without gradients.* Say with filter_fn or names",
    ),
    "alias": (
        Aliased,
        {"filter_fn": "all"},
        ValueError,
        "'a', 'b' can be replaced in the model, but its code calls the old layer",
    ),
    "called and read": (CalledAndRead, {"filter_fn": "all"}, ValueError, "but not with the layers tied"),
    "lazy": (lazy, {}, ValueError, "the shape of '1' is not known before a first forward pass"),
    "second batch": (plain, {"init": "data", "images": second_batch_wrong()}, RuntimeError, "to have 4 channels"),
    "not finite": (
        plain,
        {"init": "data", "images": torch.full((1, 4, 8, 8), float("nan"))},
        ValueError,
        "the inputs or outputs of '0' on images are not finite",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_after_an_error_the_model_is_as_it_was(kind):
    make, arguments, error, message = ERRORS[kind]
    model = make()
    if kind != "lazy":
        before = Snapshot(model)
    with pytest.raises(error, match=message):
        tie_(model, **arguments)
    if kind != "lazy":
        before.check()
    else:
        assert type(model[0]) is nn.Conv2d


def test_an_error_in_a_users_function_leaves_the_model_as_it_was():
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    model = plain()
    before = Snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        tie_(model, init="data", images=torch.randn(2, 4, 8, 8), progress=stop)
    before.check()


def test_an_unknown_pattern_is_answered_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"Nearest names: layer4\.[01]\.conv[12], .*Correct the pattern or remove it"):
        tie_(timm.create_model("resnet18", device="meta"), {"layer5.0.conv1": 2})


def test_a_model_that_is_itself_a_layer_is_refused():
    for layer in (nn.Conv2d(4, 4, 1), nn.Linear(4, 4), TiedConv2d(4, 4, 1, blocks=2), Own(4, 4, 1)):
        with pytest.raises(ValueError, match=r"itself a layer, a \w+, .*Put it into a module, such as nn.Sequential"):
            tie_(layer, 2)


def test_a_model_wrapped_for_several_processes_is_refused():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(plain())
        with pytest.raises(TypeError, match=r"the model is wrapped in DistributedDataParallel\. Give"):
            tie_(wrapped)
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning")
def test_wrapped_models_are_refused():
    for wrapped in (nn.DataParallel(plain()), torch.compile(plain())):
        with pytest.raises(TypeError, match=r"the model is wrapped in .*Give the module inside"):
            tie_(wrapped)
    with pytest.raises(TypeError, match=r"is compiled by torch\.jit\. Give the module that it came from"):
        tie_(torch.jit.trace(plain(), torch.randn(1, 4, 8, 8)))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got function"):
        tie_(lambda x: x)


def test_a_compiled_layer_inside_is_not_tied_behind_its_back():
    model = nn.Sequential(torch.compile(nn.Conv2d(4, 4, 1), backend="eager"), nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match=r"'0\._orig_mod' can be replaced in the model"):
        tie_(model, 2, "all")
