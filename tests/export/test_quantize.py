"""int8 files: a quarter of the bytes, outputs near the float32 ones."""

import copy
import math
import sys

import onnx
import pytest
import torch

from tiedconv.export import deploy, open_onnx, open_openvino, quantize_onnx, quantize_openvino, to_openvino

# The exporter takes seconds. After OpenVINO 2026.4 has run, other code of the process can crash.
pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def batches():
    return [torch.randn(16, 4, 12, 12) for _ in range(4)]


@pytest.fixture(scope="module")
def model(exported):
    return copy.deepcopy(exported.model).eval()


@pytest.fixture(scope="module")
def in_onnx(exported, batches, tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "new" / "int8.onnx"
    return exported.file, quantize_onnx(exported.file.path, iter(batches), out)


@pytest.fixture(scope="module")
def in_openvino(model, batches, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    file = to_openvino(deploy(model), folder / "model.xml", input_size=(4, 12, 12))
    return file, quantize_openvino(file.path, iter(batches), folder / "new" / "int8.xml")


def test_filters_are_integers_and_stored_once(model, in_onnx):
    small = in_onnx[1].path
    filters = dict.fromkeys(("INT8", "FLOAT"), 0)
    for initializer in onnx.load(small).graph.initializer:
        if len(initializer.dims) > 1:
            filters[onnx.TensorProto.DataType.Name(initializer.data_type)] += math.prod(initializer.dims)
    assert filters == {"INT8": model.filters(), "FLOAT": 0}
    assert [p.name for p in small.parent.iterdir()] == ["int8.onnx"]


def test_openvinos_weights_are_integers(model, in_openvino):
    path = in_openvino[1].path
    filters = [p.numel() for p in deploy(model).parameters() if p.dim() > 1]
    assert path.read_text().count('element_type="i8"') == len(filters)
    assert sum(filters) < path.with_suffix(".bin").stat().st_size < 2 * sum(filters)  # scales and biases are float32
    assert sorted(p.name for p in path.parent.iterdir()) == ["int8.bin", "int8.xml"]


@pytest.mark.parametrize(("files", "opened"), [("in_onnx", open_onnx), ("in_openvino", open_openvino)])
def test_outputs_are_near_the_models_for_images_of_any_size(model, batches, files, opened, request):
    file = request.getfixturevalue(files)[1]
    run = opened(file.path)
    for x in (torch.randn(64, 4, 12, 12), torch.randn(1, 4, 20, 9)):
        with torch.no_grad():
            expected = model(x)
        error = (run(x) - expected).abs().max() / expected.abs().max()
        assert 0 < error < 0.1
    with torch.no_grad():
        expected = model(batches[0])
    errors = (run(batches[0]) - expected).abs().max().item()
    assert errors == pytest.approx(file.max_abs_error, rel=1e-3)
    assert file.max_rel_error == pytest.approx(errors / expected.abs().max().item(), rel=1e-3)


def test_what_cannot_be_quantized_leaves_no_file(in_openvino, batches, tmp_path, monkeypatch, capfd):
    path = in_openvino[0].path
    with pytest.raises(ValueError, match=r"quantize_openvino: calibration_batches is empty\. Give a few hundred"):
        quantize_openvino(path, [], tmp_path / "int8.xml")
    with pytest.raises(ValueError, match=r"quantize_onnx: the file must end in \.onnx"):
        quantize_onnx(path, batches, tmp_path / "int8")
    monkeypatch.setattr("tiedconv.export.quantize.LARGEST_ERROR", 1e-6)
    with pytest.raises(
        RuntimeError, match=r"differ from the float32 ones by \d+%, .* Nothing was written\. Give the file"
    ):
        quantize_openvino(path, batches, tmp_path / "int8.xml")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_missing_quantizer_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ModuleNotFoundError, match=r"nncf is needed here .* 'tiedconv\[openvino\]'"):
        quantize_openvino(tmp_path / "model.xml", [], tmp_path / "int8.xml")
