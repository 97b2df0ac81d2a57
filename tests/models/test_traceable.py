"""Tied models under torch's tracers and the tools on top of them: one model per family, and the aligned ones."""

import copy
import pickle
from typing import Any

import pytest
import torch
from tests.randomized import lively_model, shallow_model
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

from tiedconv.export import deploy
from tiedconv.nn import SplitTiedConv2d, TiedConv2d, TiedLinear

MODELS = pytest.mark.parametrize(
    "name",
    [
        "tiedresnet_tiny",
        "tiedresnet50_s",
        "tiedresnet50_4s16w",
        "tiedresnet50_lite",
        "tiedresnet50_concat",
        "tiedresnext50_32x4d_s",
        "tiedsenet50",
        "tiedseresnet50_b2",
        "tiedresnest50_s",
        "tiedefficientnet_b0_b2",
    ],
)
TIED = (TiedConv2d, SplitTiedConv2d, TiedLinear)


def images(batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(batch, 3, height, width)


@MODELS
def test_a_symbolic_trace_calls_each_tied_layer_once_and_computes_the_same(name):
    model = lively_model(name)
    traced = torch.fx.symbolic_trace(model)
    calls = [node.target.__module__ for node in traced.graph.nodes if node.op == "call_function"]
    assert sum(module.startswith("tiedconv.") for module in calls) == len(
        [m for m in model.modules() if type(m) in TIED]
    )
    for graph in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        for x in (images(), images(3, 64, 48)):
            assert torch.equal(graph(x), model(x))


@MODELS
def test_a_symbolic_trace_is_trained_as_the_model_is(name):
    model = lively_model(name).train()
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    x = images()
    for network in (model, traced):
        torch.manual_seed(0)
        network(x).square().mean().backward()
    gradients = {key: parameter.grad for key, parameter in traced.named_parameters()}
    assert_close(gradients, {key: parameter.grad for key, parameter in model.named_parameters()}, rtol=0, atol=0)
    assert all(gradient.any() for gradient in gradients.values())


@MODELS
def test_torchvision_extracts_features_of_every_stage(name):
    model, x = lively_model(name), images()
    stages = {stage["module"]: str(i) for i, stage in enumerate(model.feature_info)}
    extracted = create_feature_extractor(model, stages)(x)
    expected: list[Tensor] = []
    handles = [
        model.get_submodule(stage).register_forward_hook(lambda module, args, y: expected.append(y.clone()))
        for stage in stages
    ]
    model(x)
    for handle in handles:
        handle.remove()
    assert_close(list(extracted.values()), expected, rtol=0, atol=0)


@MODELS
def test_timm_extracts_features_from_the_graph(name):
    model, x = lively_model(name), images()
    by_graph = shallow_model(name, features_only=True, feature_cls="fx")
    state = model.state_dict()
    by_graph.graph_module.load_state_dict({key: state[key] for key in by_graph.graph_module.state_dict()})
    features = by_graph(x)
    assert [feature.shape[1] for feature in features] == by_graph.feature_info.channels()
    assert_close(features, model.forward_intermediates(x, norm=True, intermediates_only=True), rtol=0, atol=0)


@MODELS
@pytest.mark.parametrize(("memory_format", "grad"), [(torch.contiguous_format, False), (torch.channels_last, True)])
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_a_jit_trace_passes_its_check_without_a_warning_and_serves_other_sizes(name, memory_format, grad):
    model = lively_model(name).to(memory_format=memory_format)
    x, other = (x.contiguous(memory_format=memory_format) for x in (images(), images(1, 64, 48)))
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(model, x)
    for inputs in (x, other):
        assert_close(traced(inputs), model(inputs), rtol=1e-4, atol=1e-4)


@MODELS
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning", "ignore:The TorchScript type system:UserWarning")
def test_the_graph_of_a_deployed_network_can_be_scripted(name):
    deployed = deploy(lively_model(name))
    scripted = torch.jit.script(torch.fx.symbolic_trace(deployed))
    for x in (images(), images(1, 64, 48)):
        assert_close(scripted(x), deployed(x))


@MODELS
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_torchs_counter_sees_the_multiply_adds_of_every_tied_layer(name, memory_format):
    model = lively_model(name).to(memory_format=memory_format)
    expected: dict[str, int] = {}

    def record(layer: Any, args: Any, y: Tensor) -> None:
        weights, blocks = (
            (layer.weights, layer.blocks) if type(layer) is SplitTiedConv2d else ([layer.weight], [layer.blocks])
        )
        positions = y[:, 0].numel()  # with the batch
        macs = positions * sum(weight.numel() * b for weight, b in zip(weights, blocks, strict=True))
        expected[f"{type(model).__name__}.{names[layer]}"] = 2 * macs

    names = {layer: key for key, layer in model.named_modules() if type(layer) in TIED}
    for layer in names:
        layer.register_forward_hook(record)
    with FlopCounterMode(display=False) as counter:
        model(images().contiguous(memory_format=memory_format))
    counted = counter.get_flop_counts()
    assert {key: sum(counted[key].values()) for key in expected} == expected


@MODELS
def test_functional_call_computes_with_other_parameters(name):
    model, other, x = lively_model(name), lively_model(name), images()
    state = dict(other.state_dict())
    assert torch.equal(torch.func.functional_call(model, state, x), other(x))
