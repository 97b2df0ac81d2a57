import sys

import pytest
import torch
from tests.export.export_cases import OneSize
from torch import nn

from tiedconv.cli import export as command
from tiedconv.cli.main import main
from tiedconv.export import open_onnx, open_openvino
from tiedconv.models import build_model
from tiedconv.nn import TiedConv2d

pytestmark = pytest.mark.alone  # after OpenVINO 2026.4 has run, other code of the process can crash


def classifier(channels=1, classes=10):
    conv = TiedConv2d(8, 8, 3, padding=1, blocks=2)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    ).eval()


@pytest.fixture
def _loads(monkeypatch, request):
    monkeypatch.setattr(command, "build_model", lambda name, **kwargs: request.param)
    monkeypatch.setattr(command, "is_random", lambda *_: True)


def export(line, *more):
    main(["export", "--model", "mine", *line.split(), *map(str, more)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "suffix", "opened"), [("", ".onnx", open_onnx), ("--format openvino", ".xml", open_openvino)]
)
@pytest.mark.parametrize("_loads", [classifier()], indirect=True)
@pytest.mark.usefixtures("_loads")
def test_engines_files_and_int8_are_written_and_described(tmp_path, capfd, line, suffix, opened):
    path = tmp_path / "new" / f"model{suffix}"
    export(f"{line} --int8 true --data Digits --data.image_size 12 --rounds 2", "--output", path)
    printed = capfd.readouterr()
    assert "mine has random weights. --checkpoint or --pretrained loads others." in printed.out
    assert all(text in printed.out for text in ("1x1x12x12", "fast", "Digits, 360 validation images", "float32"))
    assert [line.partition(":")[0] for line in printed.err.splitlines()] == [
        "writing the file, and checking what it computes",
        "calibrating the int8 file",
        "timing both files",
        "classifying with float32",
        "classifying with int8",
    ]
    files = [path, path.with_suffix(f".int8{suffix}")]
    weights = [file.with_suffix(".bin") for file in files if suffix == ".xml"]
    assert sorted(path.parent.iterdir()) == sorted(files + weights)
    for file in files:
        assert opened(file)(torch.zeros(2, 1, 9, 30)).shape == (2, 10)
        assert f"{sum(f.stat().st_size for f in (file, *weights) if f.stem == file.stem) / 1e6:.2f}" in printed.out


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "filters"), [("fast", 8 * 4 * 9), ("thin", 4 * 4 * 9)])
@pytest.mark.parametrize("_loads", [classifier()], indirect=True)
@pytest.mark.usefixtures("_loads")
def test_the_layout_says_how_often_tied_filters_are_stored(tmp_path, capsys, layout, filters):
    path = tmp_path / "model.pt2"
    export(f"--format torch-export --layout {layout} --input_size 1,8,8", "--output", path)
    assert layout in capsys.readouterr().out
    assert filters in [value.numel() for value in torch.export.load(path).state_dict.values()]


@pytest.mark.parametrize("_loads", [OneSize()], indirect=True)
@pytest.mark.usefixtures("_loads")
def test_a_program_of_one_size(tmp_path, capsys):
    path = tmp_path / "model.pt2"
    line = "--format torch-export --input_size 3,8,8 --batch_size 2"
    with pytest.raises(SystemExit, match=r"cannot take images \(2, 3, 40, 8\).*--dynamic_size false"):
        export(line, "--output", path)
    assert list(tmp_path.iterdir()) == []
    export(f"{line} --dynamic_size false", "--output", path)
    assert "2x3x8x8" in capsys.readouterr().out
    assert torch.export.load(path).module()(torch.ones(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("name", ["tiedresnet_tiny", "torchvision/squeezenet1_1"])
def test_safetensors_load_by_their_folder(tmp_path, name, capsys):
    folder = tmp_path / "mine"
    main(["export", "--model", name, "--num_classes", "4", "--format", "safetensors", "--output", str(folder)])
    assert f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.2f}" in capsys.readouterr().out
    assert build_model(str(folder)).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--int8", "export: int8 is calibrated on images. Give --data, such as --data Digits"),
        ("--int8 --data Digits --format torch-export", "export: int8 is for --format onnx or openvino, got torch-"),
        ("--data Digits", r"export: data is for --int8, got Digits\. Add --int8 or leave --data out"),
        ("--int8 --data Digits --batch_size 2", r"export: int8 runs on batches of any size, got batch_size=2\. Leave"),
        (
            "--layout fast --format safetensors",
            r"safetensors holds .* in the layout thin\. Leave --layout out, or give",
        ),
        ("--int8 --data Digits --rounds 1", "export: rounds must be at least 2, for a spread, got rounds=1"),
        ("--input_size 3,8", r"export: --input_size: Expected a tuple with 3 elements, got \['3', '8'\]"),
        ("--input_size a,8,8", "export: --input_size: expected int, got a"),
        ("--int8 --data Digits --input_size 1,8,8", "export: input_size=1,8,8, but Digits has images of 1,16,16"),
        ("--int8 --data Digits", r"export: the model takes images of 3 channels, Digits has 1\. .*--in_chans 1"),
    ],
)
@pytest.mark.parametrize("_loads", [classifier(channels=3)], indirect=True)
@pytest.mark.usefixtures("_loads")
def test_mistakes_are_named_and_leave_no_file(tmp_path, line, message):
    with pytest.raises(SystemExit, match=message):
        export(line, "--output", tmp_path / ("model.pt2" if "torch-export" in line else "model.onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("", "own.onnx"),
        ("--format torch-export", "own.pt2"),
        ("--int8 --data Digits", "own.int8.onnx"),
        ("--format openvino", "own.bin"),
        ("--format openvino --int8 --data Digits", "own.int8.bin"),
    ],
)
@pytest.mark.parametrize("_loads", [classifier()], indirect=True)
@pytest.mark.usefixtures("_loads")
def test_the_checkpoint_is_not_written_over(tmp_path, line, name):
    (tmp_path / name).write_bytes(b"weights")
    (tmp_path / "link").symlink_to(tmp_path / name)
    output = tmp_path / name.replace(".int8", "").replace(".bin", ".xml")
    for given in (tmp_path / name, tmp_path / "link"):
        with pytest.raises(SystemExit, match=f"would be written over --checkpoint {given}. Give another --output"):
            export(line, "--checkpoint", given, "--output", output)
    assert (tmp_path / name).read_bytes() == b"weights"


@pytest.mark.parametrize("_loads", [classifier(classes=9)], indirect=True)
@pytest.mark.usefixtures("_loads")
def test_data_have_the_models_classes(tmp_path):
    with pytest.raises(SystemExit, match=r"the model has 9 outputs, Digits has 10 classes\. .*--num_classes 10"):
        export("--int8 --data Digits", "--output", tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("line", "name", "message"),
    [
        ("", "model.xml", r"--format onnx ends in \.onnx, got --output .*model\.xml\. Give --format openvino\."),
        ("--format openvino", "model", r"a file of --format openvino ends in \.xml, .*model\. Give another --output\."),
        ("--format torch-export", "model.pth", r"ends in \.pt2, got --output .*model\.pth\. Give another --output\."),
        ("--format torch-export", "file/model.pt2", r"cannot write --output .*model\.pt2: "),
        ("--int8 --data Digits", "folder.onnx", r"cannot write --output .*folder\.int8\.onnx: it is a folder"),
        ("--input_size 3,0,8", "model.onnx", r"input_size must be .*, each at least 1, got \(3, 0, 8\)"),
        ("--batch_size 0", "model.onnx", r"batch_size must be at least 1, got 0\. Leave it out"),
    ],
)
def test_what_cannot_be_written_is_said_before_a_model_is_loaded(tmp_path, monkeypatch, line, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder.int8.onnx").mkdir()
    monkeypatch.setattr(command, "build_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(SystemExit, match=message):
        export(line, "--output", tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.int8.onnx"]


@pytest.mark.parametrize(
    ("line", "module", "extra"),
    [
        ("", "onnx", "export"),
        ("--format openvino", "openvino", "openvino"),
        ("--format openvino --int8 --data Digits", "nncf", "openvino"),
    ],
)
def test_what_is_not_installed_is_said_before_a_model_is_loaded(tmp_path, monkeypatch, line, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(command, "build_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(
        SystemExit, match=rf"{module} is needed here and not installed\. Run: pip install 'tiedconv\[{extra}\]'"
    ):
        export(line, "--output", tmp_path / ("model.xml" if "openvino" in line else "model.onnx"))
