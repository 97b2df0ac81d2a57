"""Networks on the device against float64 on the CPU: outputs, also tied, untied and deployed, and a training step."""

import copy
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tiedconv
from tiedconv.export import deploy, from_pretrained, save_pretrained

from .models import build, compiled
from .precision import DEVICE, IN_EACH_PRECISION, PRECISIONS, TINY, Precision, check, from_tests, relative

randomize_norms = from_tests("randomized.py").randomize_norms
NAMES = ["tiedresnet_tiny"] if TINY else [name for name in tiedconv.list_models() if "101" not in name]
TRAINED = ["tiedresnet_tiny"] if TINY else ["tiedresnet_tiny", "tiedresnet50", "tiedresnet50_4s16w", "resnet_tiny"]
PIXELS = 16 if TINY else 64
ALLOWED = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 1e-1}
ALLOWED_CHANGES = {"float32": 1e-2, "tf32": 2e-1, "bfloat16": 6e-1}
"""How far off a network's outputs, and what a step changes, may be: rounding adds up over the layers."""


@lru_cache(maxsize=1)
def known(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, images and its outputs in float64 on the CPU."""
    torch.manual_seed(0)
    model = randomize_norms(build(name, TINY, 10)).eval()
    images = torch.randn(2, 3, PIXELS, PIXELS)
    return model, images, outputs(copy.deepcopy(model).double(), images.double())


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def on_device(model: nn.Module, precision: Precision) -> nn.Module:
    """Return a copy on the device, in channels_last unless in float32."""
    precision.apply()
    memory_format = torch.contiguous_format if precision.name == "float32" else torch.channels_last
    return copy.deepcopy(model).to(DEVICE).to(memory_format=memory_format)


def check_outputs(
    model: nn.Module, images: Tensor, expected: Tensor, precision: Precision, record: Any, least: float = 0
) -> None:
    """Check a network on the device; ``least`` is allowed in any precision."""
    memory_format = torch.contiguous_format if precision.name == "float32" else torch.channels_last
    with precision.autocast():
        found = outputs(model, images.to(DEVICE).contiguous(memory_format=memory_format))
    check(relative(found, expected), max(least, ALLOWED[precision.name]), record)


@pytest.mark.parametrize("name", NAMES)
@IN_EACH_PRECISION
def test_models_compute_what_they_do_on_the_cpu(precision, name, record_property):
    model, images, expected = known(name)
    check_outputs(on_device(model, precision), images, expected, precision, record_property)


@pytest.mark.parametrize("name", NAMES)
@IN_EACH_PRECISION
def test_export_deployed(precision, name, record_property):
    model, images, expected = known(name)
    check_outputs(deploy(on_device(model, precision)), images, expected, precision, record_property)


@pytest.mark.parametrize("form", ["grouped", "dense"])
@IN_EACH_PRECISION
def test_convert_untied(precision, form, record_property):
    model, images, expected = known("tiedresnet_tiny" if TINY else "tiedresnet50")
    untied = on_device(model, precision)
    tiedconv.untie_(untied, form)
    check_outputs(untied, images, expected, precision, record_property)


@pytest.mark.parametrize("init", ["project", "data"])
@IN_EACH_PRECISION
def test_convert_tied(precision, init, record_property):
    model, images, _ = known("resnet_tiny" if TINY else "resnet18")
    PRECISIONS[0].apply()
    reports, tied = [], []
    for device in ("cpu", DEVICE):
        tied.append(copy.deepcopy(model).to(device))
        arguments = {"images": images.to(device)} if init == "data" else {"example_inputs": images}
        reports.append(tiedconv.tie_(tied[-1], blocks=2, init=init, **arguments))
    assert {parameter.device.type for parameter in tied[1].parameters()} == {DEVICE.type}
    assert reports[0].blocks == reports[1].blocks
    expected = outputs(tied[0].double(), images.double())
    # What few images leave open in a fit, rounding decides.
    check_outputs(on_device(tied[1], precision), images, expected, precision, record_property, 1e-2 * (init == "data"))


def test_export_saved_on_the_device_and_loaded_on_the_cpu(tmp_path: Path, record_property):
    model, images, expected = known("tiedresnet_tiny")
    save_pretrained(on_device(model, PRECISIONS[0]), tmp_path)
    check(relative(outputs(from_pretrained(tmp_path).eval(), images), expected), 1e-5, record_property)


def step(model: nn.Module, call: Any, images: Tensor, labels: Tensor, precision: Precision | None) -> dict[str, Tensor]:
    """Train for a step by ``call``, ``model`` or its compiled form; return loss, changes of weights and statistics."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with precision.autocast() if precision else nullcontext():
        loss = F.cross_entropy(call(images), labels)
    loss.backward()
    optimizer.step()
    changes = [(parameter - before[name]).detach().flatten() for name, parameter in model.named_parameters()]
    statistics = [buffer.flatten() for name, buffer in model.named_buffers() if "running" in name]
    found = {"loss": loss.detach(), "changes": torch.cat(changes), "statistics": torch.cat(statistics)}
    return {name: value.cpu().double() for name, value in found.items()}


@lru_cache(maxsize=1)
def stepped(name: str) -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    """Return a network, a batch, and what a step in float64 on the CPU does."""
    torch.manual_seed(0)
    model = randomize_norms(build(name, TINY, 10)).train()
    with torch.no_grad():
        for block in model.modules():
            if hasattr(block, "bn3"):
                block.bn3.weight.mul_(0.2)  # else the gradients of any random ResNet are mostly rounding in bfloat16
    images, labels = torch.randn(16, 3, PIXELS, PIXELS), torch.arange(16) % 10
    twin = copy.deepcopy(model).double()
    return model, images, labels, step(twin, twin, images.double(), labels, None)


@pytest.mark.parametrize("name", TRAINED)
@IN_EACH_PRECISION
def test_training_step(precision, name, record_property):
    check_step(name, precision, record_property, is_compiled=False)


@pytest.mark.parametrize("name", TRAINED[:2])
def test_training_step_compiled(name, record_property):
    torch.compiler.reset()
    check_step(name, PRECISIONS[-1], record_property, is_compiled=True)


def check_step(name: str, precision: Precision, record: Any, *, is_compiled: bool) -> None:
    model, images, labels, expected = stepped(name)
    own = on_device(model, precision)
    call = compiled(own, TINY) if is_compiled else own
    found = step(own, call, images.to(DEVICE), labels.to(DEVICE), precision)
    for part in ("loss", "statistics"):
        check(relative(found[part], expected[part]), ALLOWED[precision.name], lambda *_: None)
    check(relative(found["changes"], expected["changes"]), ALLOWED_CHANGES[precision.name], record)
