"""int8 files: a quarter of the bytes, tied filters once, outputs near the float32 ones."""

import copy
import math

import onnx
import pytest
import torch

from tiedconv.export import open_onnx, quantize_onnx
from tiedconv.export.quantize import top1

pytestmark = pytest.mark.slow  # the exporter takes seconds


@pytest.fixture(scope="module")
def files(exported, tmp_path_factory):
    model, path = copy.deepcopy(exported.model).eval(), exported.file.path
    batches = (torch.randn(16, 4, 12, 12) for _ in range(4))
    return model, path, quantize_onnx(path, batches, tmp_path_factory.mktemp("int8") / "new" / "int8.onnx")


def test_filters_are_integers_and_stored_once(files):
    model, _, small = files
    stored = onnx.load(small).graph.initializer
    filters = dict.fromkeys(("INT8", "FLOAT"), 0)
    for initializer in stored:
        if len(initializer.dims) > 1:
            filters[onnx.TensorProto.DataType.Name(initializer.data_type)] += math.prod(initializer.dims)
    assert filters == {"INT8": model.filters(), "FLOAT": 0}
    assert [p.name for p in small.parent.iterdir()] == ["int8.onnx"]


def test_outputs_are_near_the_models(files):
    model, _, small = files
    x = torch.randn(64, 4, 12, 12)
    with torch.no_grad():
        expected = model(x)
    error = (open_onnx(small)(x) - expected).abs().max() / expected.abs().max()
    assert 0 < error < 0.1


def test_top1_counts_the_hits(files):
    model, path, _ = files
    images = torch.randn(10, 4, 12, 12)
    with torch.no_grad():
        classes = model(images).argmax(1)
    assert top1(path, [(images, classes)]) == 1
    wrong = torch.cat([classes[:7], (classes[7:] + 1) % 5])
    assert top1(path, [(images[:4], wrong[:4]), (images[4:], wrong[4:])]) == pytest.approx(0.7)


def test_calibration_needs_images(files, tmp_path):
    with pytest.raises(ValueError, match=r"quantize_onnx: calibration_batches is empty, .*\. Give some hundred"):
        quantize_onnx(files[1], [], tmp_path / "int8.onnx")
    with pytest.raises(ValueError, match=r"quantize_onnx: the file must end in \.onnx"):
        quantize_onnx(files[1], [torch.ones(1)], tmp_path / "int8")
    assert list(tmp_path.iterdir()) == []
