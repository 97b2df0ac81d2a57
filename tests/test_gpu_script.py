"""What is prepared for a CUDA device, on small shapes on the CPU: every part runs, goes on and says what it found."""

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
SCRIPT = REPOSITORY / "benchmarks" / "gpu.sh"
NOT_THERE = ("captum", "docstring_parser", "faster_coco_eval", "jsonargparse", "nncf", "onnx", "onnxscript", "openvino")
NOT_THERE += ("pycocotools", "rich", "sklearn", "tensorboard", "torch_pruning", "typeshed_client", "webdataset")
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
script, training, photographs, sessions, imagenette, device_tests = (
    import_module(f"gpu.{name}") for name in ("__main__", "training", "photographs", "session", "imagenette", "tests")
)


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("IMAGENETTE_ZIP", raising=False)
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = tf32


def run(part: str, folder: Path, *options: str) -> dict[str, Any]:
    """Run a part in this process and return what it wrote."""
    assert script.main([part, str(folder), "--tiny", *options]) == 0
    return json.loads((folder / f"gpu-{part}.json").read_text())


def check_header(written: dict[str, Any], part: str) -> None:
    expected = {"part": part, "torch": torch.__version__, "tiny": True, "finished": True}
    assert {name: written[name] for name in expected} == expected
    assert {"card", "cuda", "cudnn", "processor"} <= set(written)


@pytest.mark.parametrize("part", ["operators", pytest.param("models", marks=pytest.mark.stress), "imagenette"])
def test_a_part_measures_everything_once_and_prints_a_table_last(part, tmp_path, capsys):
    first = run(part, tmp_path)
    check_header(first, part)
    printed = capsys.readouterr().out
    assert f"{part} on {first['card']}, torch {torch.__version__}" in printed.splitlines()[-1]
    titles = {
        "operators": ("The chosen path takes over", "Fig. 3", "times dense"),
        "models": ("train compiled", "inference deployed", "peak MiB"),
        "imagenette": ("over seeds", "over images", "tiedresnet_tiny"),
    }
    assert all(title in printed for title in titles[part])
    assert run(part, tmp_path) == first  # not a time has changed
    assert printed.splitlines()[-3] in capsys.readouterr().out  # the table is printed again
    assert {path.name for path in tmp_path.iterdir()} == {f"gpu-{part}.json"}


def test_operators_have_every_path_in_every_setting(tmp_path):
    rows = run("operators", tmp_path)["records"].values()
    settings = {(row["dtype"], row["step"], row["memory_format"]) for row in rows if row["sweep"] == "resnet"}
    assert len(settings) == 8
    assert {row["sweep"] for row in rows} == {"resnet", "fig3", "conv1d", "conv3d", "linear", "split"}
    assert all(not row["errors"] and row["ms"] for row in rows)
    ways = {way for row in rows for way in row["ms"]}
    assert {"view", "grouped", "depth", "matmul", "merged", "splits", "released", "tied", "dense"} <= ways


def test_the_tests_of_the_device_pass_on_the_cpu_without_what_is_not_there(tmp_path):
    blocked = f"import sys\nfor name in {NOT_THERE!r}:\n    sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(blocked)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def call() -> tuple[str, dict[str, Any]]:
        command = ["bash", str(SCRIPT), "tests", str(tmp_path), "--tiny"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, json.loads((tmp_path / "gpu-tests.json").read_text())

    printed, first = call()
    check_header(first, "tests")
    groups = {name.split("_")[1] for name in first["records"]}
    assert groups == {"ops", "nn", "models", "convert", "export", "training"}
    assert {row["outcome"] for row in first["records"].values()} == {"passed", "skipped"}
    assert "worst error" in printed
    printed, second = call()
    assert second == first
    assert f"{len(first['records'])} deselected" in printed


def test_time_that_is_up_leaves_the_rest_to_the_next_call(tmp_path, capsys):
    written = run("operators", tmp_path, "--seconds", "0")
    assert (written["finished"], written["records"]) == (False, {})
    assert "the same command goes on" in capsys.readouterr().out
    assert not run("imagenette", tmp_path, "--seconds", "0")["finished"]
    assert not run("models", tmp_path, "--seconds", "0")["finished"]


def test_what_passed_is_left_out_and_what_failed_runs_again(tmp_path):
    session = new_session(tmp_path)
    recorder = device_tests.Recorder(session)
    figures = {"seconds": 1.0, "error_size": "nan", "allowed": 0.1, "error": "AssertionError: nan"}
    session.records.add("test_ops_a[1-tf32]", {**figures, "outcome": "failed"})
    session.records.add("test_ops_b[tf32-1]", {**figures, "outcome": "passed", "error_size": 0.05, "error": ""})
    items = [SimpleNamespace(nodeid=f"folder/test_ops.py::test_ops_{name}") for name in ("a[1-tf32]", "b[tf32-1]", "c")]
    deselected: list[Any] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: deselected.extend(items))
    left = list(items)
    recorder.pytest_collection_modifyitems(SimpleNamespace(hook=hook), left)
    assert (left, deselected) == ([items[0], items[2]], [items[1]])
    printed = device_tests.report(session.records.rows).splitlines()
    assert printed[0] == "test_ops_a[1-tf32]: AssertionError: nan"
    assert printed[-1].split() == ["ops", "tf32", "1", "1", "0", "nan", "0.1", "2"]


def test_a_part_that_hangs_is_ended_with_its_table(tmp_path, capsys, monkeypatch):
    codes: list[int] = []
    monkeypatch.setattr(script.os, "_exit", codes.append)
    script._give_up(imagenette, new_session(tmp_path))
    assert codes == [3]
    assert "the same command goes on" in capsys.readouterr().out


def test_figures_of_two_cards_are_not_mixed(tmp_path, capsys):
    path = tmp_path / "gpu-operators.json"
    run("operators", tmp_path, "--seconds", "0")
    path.write_text(json.dumps({**json.loads(path.read_text()), "card": "another"}))
    with pytest.raises(SystemExit):
        run("operators", tmp_path)
    assert "was measured with card=another, and now it is cpu" in capsys.readouterr().err


def test_without_tiny_a_cuda_device_is_needed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        script.main(["models", str(tmp_path)])
    assert "torch sees no CUDA device here. Add --tiny" in capsys.readouterr().err


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out tracing, which takes most of a tiny training's time."""
    monkeypatch.setattr(training, "compiled", lambda model, tiny: model)


def new_session(folder: Path) -> Any:
    machine = sessions.describe("imagenette", torch.device("cpu"), tiny=True, autotune=False)
    records = sessions.Records(folder / "gpu-imagenette.json", machine)
    return sessions.Session(folder, torch.device("cpu"), True, records, 1000, time.monotonic())


def test_an_interrupted_training_ends_as_one_that_was_not(uncompiled, tmp_path):
    recipe = training.Recipe(pixels=16, stored=18, epochs=3, batch=16, rate=0.05, every=2)
    data = photographs.synthetic(18, torch.device("cpu"))

    def trainer(session: Any) -> Any:
        return training.Trainer(session, recipe, "tiedresnet_tiny", *data)

    whole = trainer(new_session(tmp_path))
    expected = whole.train(1)
    session = new_session(tmp_path)
    answers = iter([True, False])
    session.allows = lambda: next(answers)
    assert trainer(session).train(1) is None
    assert (tmp_path / "imagenette-tiedresnet_tiny-1.pt").exists()
    second = trainer(new_session(tmp_path))
    found = second.train(1)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert {**found, "train_seconds": 0} == {**expected, "train_seconds": 0}
    assert [epoch for epoch, *_ in found["curve"]] == [2, 3]
    assert not list(tmp_path.iterdir())


def test_a_seed_draws_other_weights_than_the_last(uncompiled, tmp_path):
    recipe = training.Recipe(pixels=16, stored=18, epochs=1, batch=16)
    trainer = training.Trainer(new_session(tmp_path), recipe, "resnet_tiny", *photographs.synthetic(18, "cpu"))
    curves = [trainer.train(seed)["curve"] for seed in (0, 1, 0)]
    assert curves[0] == curves[2] != curves[1]


def test_the_rate_goes_up_and_down_once():
    recipe = training.Recipe()
    rates = [training.rate(recipe, i / 100) for i in range(101)]
    assert max(rates) == rates[15] == recipe.rate
    assert rates[:16] == sorted(rates[:16])
    assert rates[15:] == sorted(rates[15:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_photographs_are_read_from_a_zip_file(tmp_path):
    colours = {"n02": (250, 0, 0), "n01": (0, 250, 0)}
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for split, count in (("train", 2), ("val", 1)):
            for name, colour in colours.items():
                for i in range(count):
                    file = io.BytesIO()
                    Image.new("RGB", (90, 72), colour).save(file, "JPEG")
                    archive.writestr(f"imagenette/{split}/{name}/{i}.jpg", file.getvalue())
    train, val, classes = photographs.read_zip(tmp_path / "images.zip", 72, torch.device("cpu"))
    assert (classes, len(train), len(val)) == (2, 4, 2)
    assert train.images.shape == (4, 3, 72, 72)
    assert train.images.dtype == torch.uint8
    assert train.labels.tolist() == [0, 0, 1, 1]  # classes by name
    assert train.images[0].float().mean((1, 2)).argmax() == 1
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("imagenette/train/n01/0.jpg", file.getvalue())
    with pytest.raises(ValueError, match=r"none\.zip has no images val/<class>/\*\.jpg\. Set IMAGENETTE_ZIP"):
        photographs.read_zip(tmp_path / "none.zip", 72, torch.device("cpu"))


def test_random_crops_are_parts_of_the_image_in_its_proportions():
    position = torch.arange(72, dtype=torch.uint8).expand(1, 3, 72, 72).contiguous()
    images = torch.stack([position[0, 0], position[0, 0].T, position[0, 0]])[None].repeat(200, 1, 1, 1)
    std = torch.tensor(photographs.STD).view(3, 1, 1) * 255
    mean = torch.tensor(photographs.MEAN).view(3, 1, 1) * 255
    crops = photographs.random_crops(images, 64, torch.Generator().manual_seed(0))
    assert crops.is_contiguous(memory_format=torch.channels_last)
    x, y = (crops * std + mean)[:, :2].unbind(1)
    across, down = x[:, 32, 40] - x[:, 32, 24], y[:, 40, 32] - y[:, 24, 32]  # over a quarter of the crop
    width, height = across.abs() / 18, down / 18  # as parts of the image
    assert (across < 0).float().mean() == pytest.approx(0.5, abs=0.1)  # mirrored
    assert down.min() > 0
    assert (width * height).min() > photographs.LEAST_AREA - 0.02
    assert (width * height).max() > 0.9
    assert (width / height).max() < photographs.WIDEST + 0.02
    assert max(x.max(), y.max()) <= 71.01
    assert min(x.min(), y.min()) >= -0.01
    torch.testing.assert_close(crops, photographs.random_crops(images, 64, torch.Generator().manual_seed(0)))
    middle = photographs.centre_crops(images[:1], 64) * std + mean
    torch.testing.assert_close(middle[0, 0, 0], torch.arange(4.0, 68.0))


def test_differences_of_trainings_by_hand():
    def row(network: str, seed: int, correct: str) -> dict[str, Any]:
        top1 = 100 * correct.count("1") / len(correct)
        return {"network": network, "seed": seed, "top1": top1, "correct": correct, "parameters": 1, "train_seconds": 1}

    rows = [row("a", 0, "1100"), row("b", 0, "1110"), row("a", 1, "1000"), row("b", 1, "1111")]
    table = imagenette.report({str(i): row for i, row in enumerate(rows)})
    # Seeds: 25 and 75, standard deviation 35.4, Student's t with one degree of freedom 12.7.
    assert "+50.00 ± 317.66" in table
    # Images: 0, 50, 100 and 50, standard deviation 40.8, Student's t with three degrees of freedom 3.18.
    assert "+50.00 ± 64.96" in table
