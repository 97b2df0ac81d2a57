import sys
from typing import get_args

import pytest
import torch
from torch import nn

from tiedconv.bench import engines
from tiedconv.bench.engines import IN_TORCH, Engine, check_engine, compiler, prepare
from tiedconv.nn import TiedConv2d

pytestmark = pytest.mark.alone  # after OpenVINO 2026.4 has run, other code of the process can crash

CPU = torch.device("cpu")
NHWC = torch.channels_last


def network():
    torch.manual_seed(0)
    layers = [TiedConv2d(4, 8, 3, padding=1, blocks=2), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    nn.init.uniform_(layers[1].running_mean)
    nn.init.uniform_(layers[1].running_var, 0.5, 2)
    return nn.Sequential(*layers).to(memory_format=NHWC).eval()


def images():
    return torch.randn(2, 4, 6, 6).contiguous(memory_format=NHWC)


@pytest.mark.slow
@pytest.mark.parametrize("engine", get_args(Engine))
def test_every_engine_computes_what_the_model_does(engine):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with compiler():
        run = prepare(engine, model, images(), NHWC)
        x = images()
        with torch.inference_mode():
            torch.testing.assert_close(run(x), model(x), rtol=1e-5, atol=1e-5)
    assert (run is model) == (engine == "eager")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_compiled_weights_are_frozen_into_the_code():
    x = images()
    with compiler(), torch.inference_mode():
        run = prepare("compiled", network(), x, NHWC)
        before = run(x)
        next(run.parameters()).zero_()
        assert torch.equal(run(x), before)


class Scaled(nn.Module):
    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "factor", "error"),
    [("onnxruntime", 1.001, r"1\.0e-03"), ("openvino", 1.001, r"1\.0e-03"), ("compiled", float("nan"), "nan")],
)
def test_an_engine_with_other_outputs_is_refused(monkeypatch, engine, factor, error):
    monkeypatch.setattr(engines, "deploy", lambda model: Scaled(model, factor).eval())
    with pytest.raises(RuntimeError, match=f"bench: the outputs of {engine} differ .* by {error} of the largest one, "):
        prepare(engine, network(), images(), NHWC)


@pytest.mark.parametrize("engine", get_args(Engine))
def test_engines_that_are_here_are_no_mistake(engine):
    check_engine(engine, dtype="float32", device=CPU)


@pytest.mark.parametrize(("engine", "extra"), [("onnxruntime", "export"), ("openvino", "openvino")])
def test_what_an_engine_needs_is_named(monkeypatch, engine, extra):
    for module in ("onnx", "onnxscript", engine):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)  # as if it were not installed
            with pytest.raises(ModuleNotFoundError, match=rf"{module} is needed here .* 'tiedconv\[{extra}\]'"):
                check_engine(engine, dtype="float32", device=CPU)


@pytest.mark.parametrize(("dtype", "device"), [("bfloat16", "cpu"), ("float32", "cuda:1")])
def test_only_torch_computes_in_other_dtypes_and_on_other_devices(dtype, device):
    for engine in IN_TORCH:
        check_engine(engine, dtype=dtype, device=torch.device(device))
    with pytest.raises(ValueError, match=f"bench: openvino is measured in float32 on the CPU, got dtype={dtype}, devi"):
        check_engine("openvino", dtype=dtype, device=torch.device(device))
