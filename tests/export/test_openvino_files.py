"""OpenVINO files compute what the model does, for any images, store tied filters once, and come whole."""

import copy
import sys
from collections.abc import Callable

import pytest
import torch
from tests.export.export_cases import EveryLayer, OneSize, every_layer
from torch import Tensor, nn
from torch.testing import assert_close

from tiedconv.export import ExportedFile, open_openvino, to_openvino

# The exporter takes seconds. After OpenVINO 2026.4 has run, other code of the process can crash.
pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[EveryLayer, ExportedFile, Callable[[Tensor], Tensor]]:
    """A model that was exported in train mode, the file, and what runs it."""
    model = every_layer().train().to(memory_format=torch.channels_last)
    file = to_openvino(model, tmp_path_factory.mktemp("openvino") / "new" / "model.xml", input_size=(4, 12, 10))
    return model, file, open_openvino(file.path)


@pytest.mark.parametrize("shape", [(1, 4, 12, 10), (7, 4, 31, 9), (2, 4, 5, 40)])
def test_outputs_are_the_models(exported, shape):
    model, _, run = exported
    x = torch.randn(shape)
    expected = copy.deepcopy(model).eval().double()(x.double()).float()
    assert_close(run(x), expected, rtol=1e-4, atol=1e-5)
    assert model.training


def test_tied_filters_are_stored_once_in_a_file_beside_the_graph(exported):
    model, file, _ = exported
    graph, weights = file.path, file.path.with_suffix(".bin")
    assert sorted(file.path.parent.iterdir()) == [weights, graph]
    assert file.bytes == weights.stat().st_size + graph.stat().st_size
    parameters = sum(v.numel() for v in model.state_dict().values())  # vectors are written out for each block
    assert 4 * model.filters() < weights.stat().st_size < 1.3 * 4 * parameters


def test_the_report_is_of_the_file_and_the_file_says_not_where_it_was_made(exported):
    file = exported[1]
    assert file.shapes == ((1, 4, 12, 10), (2, 4, 44, 10), (3, 4, 9, 23))
    assert 0 <= file.max_rel_error < 1e-5
    text = file.path.read_text()
    assert "site-packages" not in text
    assert str(file.path.parent) not in text


def test_nothing_reports_the_use_of_openvino(exported):
    assert [name for name in sys.modules if name.startswith("openvino_telemetry.")] == []


def test_an_old_pair_is_replaced_by_a_whole_new_one_or_kept(tmp_path, capfd):
    path, size = tmp_path / "model.xml", {"input_size": (3, 8, 8), "dynamic_size": False, "batch_size": 2}
    first, second = nn.Conv2d(3, 3, 1), OneSize()
    x = torch.randn(2, 3, 8, 8)
    to_openvino(first, path, **size)
    with pytest.raises(RuntimeError, match=r"to_openvino: what was exported .* Nothing was written"):
        to_openvino(second, path, **size, tolerance=-1)
    assert_close(open_openvino(path)(x), first(x).detach())
    file = to_openvino(second, path, **size)
    assert_close(open_openvino(path)(x), second(x).detach())
    assert file.shapes == ((2, 3, 8, 8),)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"to_openvino: the file must end in \.xml, got .*model\.onnx"):
        to_openvino(OneSize(), tmp_path / "model.onnx", input_size=(3, 8, 8))
    (tmp_path / "model.bin").mkdir()
    with pytest.raises(ValueError, match=r"to_openvino: cannot write --output .*model\.bin: it is a folder"):
        to_openvino(OneSize(), tmp_path / "model.xml", input_size=(3, 8, 8))
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]


@pytest.mark.parametrize("module", ["openvino", "onnxscript"])
def test_what_is_missing_names_the_extra(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{module} is needed here .* 'tiedconv\[openvino\]'"):
        to_openvino(nn.Conv2d(3, 3, 1), tmp_path / "model.xml", input_size=(3, 8, 8))
