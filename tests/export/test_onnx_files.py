"""ONNX files compute what the model does, for any images, and store tied filters once."""

import copy
import math
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.export.export_cases import Boxes, OneSize
from torch import nn
from torch.testing import assert_close

from tiedconv.export import to_onnx

pytestmark = pytest.mark.slow  # the exporter takes seconds


@pytest.mark.parametrize("shape", [(1, 4, 12, 10), (7, 4, 31, 9), (2, 4, 5, 40)])
def test_outputs_are_the_models(exported, shape):
    model, _, file = exported
    x = torch.randn(shape)
    expected = copy.deepcopy(model).eval().double()(x.double()).float()
    (y,) = onnxruntime.InferenceSession(file.path).run(["output"], {"images": x.numpy()})
    assert_close(torch.from_numpy(np.array(y)), expected, rtol=1e-4, atol=1e-5)


def test_tied_filters_are_stored_once(exported):
    model, _, file = exported
    graph = onnx.load(file.path).graph
    stored = [math.prod(i.dims) for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT and len(i.dims) > 1]
    assert sum(stored) == model.filters()
    assert all(node.op_type not in ("Expand", "Tile") for node in graph.node)


def test_the_file_says_what_varies_and_not_where_it_was_made(exported):
    file = exported[2]
    ((given, returned),) = [(g.input[0], g.output[0]) for g in [onnx.load(file.path).graph]]
    sizes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (given, returned)]
    assert sizes == [["batch", 4, "height", "width"], ["batch", 5]]
    assert b"site-packages" not in file.path.read_bytes()
    assert [p.name for p in file.path.parent.iterdir()] == ["model.onnx"]


def test_the_report_is_of_the_file(exported):
    file = exported[2]
    assert file.bytes == file.path.stat().st_size
    assert file.shapes == ((1, 4, 12, 10), (2, 4, 44, 10), (3, 4, 9, 23))
    assert 0 <= file.max_rel_error < 1e-5
    assert 0 <= file.max_abs_error < 1e-4


def test_the_model_stays_as_it_was(exported):
    model, before, _ = exported
    assert all(module.training for module in model.modules())
    for ours, theirs in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert ours.stride() == theirs.stride()
        assert_close(ours, theirs, rtol=0, atol=0)


def test_sizes_can_be_fixed(tmp_path):
    file = to_onnx(OneSize(), tmp_path / "model.onnx", input_size=(3, 8, 8), dynamic_size=False, batch_size=2)
    shape = onnx.load(file.path).graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [2, 3, 8, 8]
    assert file.shapes == ((2, 3, 8, 8),)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (OneSize(), {}, ValueError, r"OneSize cannot take images \(2, 3, 40, 8\): .* dynamic_size=False \("),
        (Boxes(), {}, TypeError, "to_onnx: Boxes returns a list, and only models that return one tensor"),
        (nn.Conv2d(3, 3, 1).half(), {}, ValueError, r"expected a float32 model, got weight in torch.float16\. Pass"),
        (
            nn.Conv2d(3, 3, 1),
            {"input_size": (3, 8)},
            ValueError,
            r"must be channels, height and width, .* got \(3, 8\)",
        ),
        (nn.Conv2d(3, 3, 1), {"batch_size": 0}, ValueError, r"batch_size must be at least 1, got 0\. Leave it out"),
        (nn.Conv2d(3, 3, 1), {"path": "model.pt"}, ValueError, r"must end in \.onnx, got .*model\.pt\. Give another"),
        (
            nn.Conv2d(3, 3, 1),
            {"tolerance": -1},
            RuntimeError,
            "is allowed. Nothing was written. Pass dynamic_size=False",
        ),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, model, options, error, message):
    path = tmp_path / options.pop("path", "model.onnx")
    with pytest.raises(error, match=message):
        to_onnx(model, path, **{"input_size": (3, 8, 8), **options})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_exporter_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"onnxscript is needed here .* 'tiedconv\[export\]'"):
        to_onnx(nn.Conv2d(3, 3, 1), tmp_path / "model.onnx", input_size=(3, 8, 8))
