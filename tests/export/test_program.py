"""Programs of torch.export compute what the model does and store tied filters once."""

import copy

import pytest
import torch
from tests.export.export_cases import OneSize, every_layer
from torch import Tensor, nn
from torch.testing import assert_close

from tiedconv.export import program, to_program


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


@pytest.mark.slow
def test_outputs_and_filters_are_the_models(tmp_path):
    model = every_layer().train()
    file = to_program(model, tmp_path / "model.pt2", input_size=(4, 12, 10))
    loaded = torch.export.load(file.path)
    x = torch.randn(5, 4, 33, 18)
    expected = copy.deepcopy(model).eval().double()(x.double()).float()
    assert_close(loaded.module()(x), expected, rtol=1e-4, atol=1e-5)
    assert sum(v.numel() for v in loaded.state_dict.values() if v.dim() > 1) == model.filters()
    assert not loaded.constants
    targets = {str(node.target) for node in loaded.graph.nodes}
    assert "aten.expand.default" not in targets  # no filter is repeated,
    assert "aten.rsqrt.default" not in targets  # and no norm folded at every call
    assert model.training
    assert b"site-packages" not in file.path.read_bytes()
    assert file.bytes == file.path.stat().st_size


def test_a_fixed_size_and_number(tmp_path):
    file = to_program(OneSize(), tmp_path / "model.pt2", input_size=(3, 8, 8), dynamic_size=False, batch_size=1)
    assert file.shapes == ((1, 3, 8, 8),)
    assert torch.export.load(file.path).module()(torch.ones(1, 3, 8, 8)).shape == (1, 3)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x: x + 1, r"returns \(1, 3, 8, 8\) for images \(1, 3, 8, 8\), .* difference of .* where 1.0e-04 is"),
        (lambda x: x * float("nan"), ".* with a difference of nan of the largest output"),
        (lambda x: x[:, :1], r"returns \(1, 1, 8, 8\) for images \(1, 3, 8, 8\), the model \(1, 3, 8, 8\)"),
        (
            lambda x: x @ x[:, :, :1],
            r"refuses images \(1, 3, 8, 8\): .* Nothing was written\. Pass a larger input_size",
        ),
    ],
)
def test_other_outputs_than_the_models_are_found(run, message):
    traced = program.trace(nn.Identity(), (3, 8, 8), dynamic_size=False, batch_size=1)
    assert program.compare(lambda x: x, traced, 1e-4) == (0, 0)
    with pytest.raises(RuntimeError, match=f"^what was exported {message}"):
        program.compare(run, traced, 1e-4)


def test_what_cannot_be_traced_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError, match=r"to_program: torch\.export cannot trace this Branch: .*dynamic_size=False"):
        to_program(Branch(), tmp_path / "model.pt2", input_size=(3, 8, 8))
    with pytest.raises(ValueError, match=r"to_program: the file must end in \.pt2, got .*model\.onnx"):
        to_program(OneSize(), tmp_path / "model.onnx", input_size=(3, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_is_kept_if_writing_fails(tmp_path):
    (tmp_path / "model.pt2").write_text("old")
    with pytest.raises(RuntimeError, match="Nothing was written"):
        to_program(nn.Conv2d(3, 3, 1), tmp_path / "model.pt2", input_size=(3, 8, 8), tolerance=-1)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
