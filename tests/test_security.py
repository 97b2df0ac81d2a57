"""Files of others run nothing, and nothing goes out to the network unless that was asked for."""

import ast
import json
import os
import pickle
import socket
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tests.markdown import ROOT
from torch.utils.data import Subset

from tiedconv.cli import figures
from tiedconv.cli.main import main
from tiedconv.compare import classification
from tiedconv.data import Digits
from tiedconv.metrics import counts
from tiedconv.models.weights import read_checkpoint
from tiedconv.tasks import ClassificationTask
from tiedconv.tasks.resume import AtomicCheckpointIO

TINY = {"layers": [1, 1, 1, 1]}
QUICK = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "limit_train_batches": 1,
    "limit_val_batches": 1,
    "limit_test_batches": 1,
}


class Code:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The folder that appears when code in a file runs; the test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty folder to run in, and a network that nobody may use."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments[-1])
        raise OSError("the network was used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    yield
    assert not asked


@pytest.fixture
def few(monkeypatch):
    """A few images for what takes no limit."""
    build = Digits.build
    monkeypatch.setattr(Digits, "build", lambda self, train: Subset(build(self, train), range(16)))


def recipe(file: str = "recipe.yaml", **more) -> str:
    init = {"model": "resnet_tiny", "model_kwargs": TINY, "optimization": {"schedule": "cosine"}}
    config = {
        "model": {"class_path": "ClassificationTask", "init_args": init},
        "data": {"class_path": "Digits", "init_args": {"image_size": 8, "batch_size": 8}},
        "trainer": {**QUICK, "enable_progress_bar": False, "enable_model_summary": False},
        **more,
    }
    Path(file).write_text(yaml.safe_dump(config))
    return file


def photo() -> None:
    Path("photos").mkdir()
    Image.new("RGB", (8, 8)).save("photos/a.png")


def test_the_trap_of_these_tests_works(tmp_path):
    torch.save(Code(tmp_path / "ran"), tmp_path / "evil.ckpt")
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert (tmp_path / "ran").exists()


COMMANDS = {
    "fit": "fit --config recipe.yaml --ckpt_path evil.ckpt",
    "validate": "validate --config recipe.yaml --ckpt_path evil.ckpt",
    "test": "test --config recipe.yaml --ckpt_path evil.ckpt",
    "predict": "predict --config recipe.yaml --ckpt_path evil.ckpt",
    "tie": "tie --model resnet_tiny --checkpoint evil.ckpt",
    "tie on data": "tie --model resnet_tiny --checkpoint evil.ckpt --data Digits --data.image_size 8",
    "export": "export --model resnet_tiny --checkpoint evil.ckpt --output model.onnx",
    "gradcam": "analyze gradcam --models resnet_tiny --checkpoints evil.ckpt --images photos",
    "summary": "analyze summary --models resnet_tiny --checkpoints evil.ckpt --images photos",
    "similarity": "analyze similarity --models resnet_tiny --checkpoints evil.ckpt --images photos",
}


@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
def test_no_command_runs_what_a_checkpoint_holds(ran, line):
    recipe()
    photo()
    content = {"pytorch-lightning_version": "2.6.0", "epoch": 0, "global_step": 1, "state_dict": {"x": Code(ran)}}
    torch.save(content, "evil.ckpt")
    with pytest.raises(SystemExit, match=r"evil.ckpt .*weights_only=True"):
        main(line.split())


def test_a_comparison_that_goes_on_runs_nothing(ran, monkeypatch):
    config = {
        "models": [{"name": "resnet_tiny", "kwargs": TINY}],
        "data": {"class_path": "Digits", "init_args": {"image_size": 8}},
        "budget": {"epochs": 1},
        "seeds": [0],
        "output": "out",
    }
    Path("compare.yaml").write_text(yaml.safe_dump(config))
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", lambda *_: 1 / 0)
        with pytest.raises(SystemExit, match="division by zero"):
            main(["compare", "--config", "compare.yaml"])
    (run,) = Path("out").rglob("run.json")
    torch.save({"state_dict": Code(ran)}, run.with_name("checkpoint.ckpt"))
    with pytest.raises(SystemExit, match=r"checkpoint.ckpt .*weights_only=True"):
        main(["compare", "--config", "compare.yaml"])


def test_a_detectors_backbone_runs_nothing(ran):
    torch.save({"state_dict": {"x": Code(ran)}}, "evil.ckpt")
    init = {"detector": "retinanet", "backbone": "resnet_tiny", "backbone_kwargs": TINY, "weights": "evil.ckpt"}
    scenes = {"image_size": 64, "train_images": 1, "val_images": 1, "min_size": 16, "max_size": 28}
    data = {"class_path": "OcclusionScenes", "init_args": {"root": "scenes", "scenes": scenes}}
    file = recipe(model={"class_path": "DetectionTask", "init_args": init}, data=data)
    with pytest.raises(SystemExit, match=r"evil.ckpt .*weights_only=True"):
        main(["fit", "--config", file])


def zip_archive(code: Code) -> None:
    torch.save({"state_dict": {"x": code}}, "evil.ckpt")


def old_format(code: Code) -> None:
    torch.save({"state_dict": {"x": code}}, "evil.ckpt", _use_new_zipfile_serialization=False)


def plain_pickle(code: Code) -> None:
    Path("evil.ckpt").write_bytes(pickle.dumps({"state_dict": {"x": code}}, protocol=2))


@pytest.mark.parametrize("write", [zip_archive, old_format, plain_pickle])
def test_no_format_of_a_checkpoint_runs_anything(ran, write):
    write(Code(ran))
    with pytest.raises(ValueError, match=r"evil.ckpt .*could run any code") as error:
        read_checkpoint("evil.ckpt")
    assert isinstance(error.value.__cause__, pickle.UnpicklingError)
    with pytest.raises(ValueError, match=r"evil.ckpt .*could run any code"):
        AtomicCheckpointIO().load_checkpoint("evil.ckpt", weights_only=True)


def test_a_saved_model_with_a_pickle_for_its_weights_runs_nothing(ran):
    main(["export", "--model=resnet_tiny", "--format=safetensors", "--output=model"])
    Path("model/model.safetensors").write_bytes(pickle.dumps({"x": Code(ran)}))
    with pytest.raises(SystemExit, match=r"model.safetensors cannot be read"):
        main(["export", "--model=model", "--format=safetensors", "--output=again"])


CONFIGS = {
    "a tag": "model: !!python/object/apply:os.mkdir [{ran}]\n",
    "data of another kind": "data: {{class_path: os.mkdir, init_args: {{path: {ran}}}}}\n",
    "a callback of another kind": "trainer: {{callbacks: [{{class_path: os.mkdir, init_args: {{path: {ran}}}}}]}}\n",
    "an argument of the model": "model: {{class_path: ClassificationTask, init_args: {{model: resnet_tiny, "
    "model_kwargs: {{x: {{class_path: os.mkdir, init_args: {{path: {ran}}}}}}}}}}}\n",
}


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_a_config_makes_nothing_but_what_belongs_there(ran, text):
    Path("evil.yaml").write_text(text.format(ran=json.dumps(str(ran))))
    with pytest.raises(SystemExit):
        main(["fit", "--config", recipe(), "--config", "evil.yaml", "--trainer.fast_dev_run=true"])


def test_lists_and_figures_need_no_network(offline, monkeypatch, capsys):
    monkeypatch.setattr(figures, "compare_with_paper", lambda: counts.compare_with_paper(counts.PUBLISHED[:2]))  # of 32
    main(["list", "--filter=tiedresnet50"])
    main(["figures"])
    assert "tiedresnet50" in capsys.readouterr().out


@pytest.mark.slow
def test_training_analysis_and_export_need_no_network(offline, few):
    photo()
    main(["fit", "--config", recipe(), "--checkpoint.dirpath=kept"])
    main(["validate", "--config", recipe(), "--ckpt_path=kept/last.ckpt"])
    given = ["--model=resnet_tiny", "--checkpoint=kept/last.ckpt"]
    main(["export", *given, "--format=safetensors", "--output=saved"])
    main(["tie", *given, "--layers=entry", "--output=tied"])
    main(["tie", *given, "--data=Digits", "--data.image_size=8", "--samples=8", "--output=tied"])
    main(["analyze", "summary", "--models=saved,tied/model", "--images=photos", "--output=summary"])
    assert Path("summary/report.html").exists()


@pytest.mark.slow
def test_a_comparison_needs_no_network(offline, few, monkeypatch):
    monkeypatch.setattr(classification, "_measure", lambda models, *_: models)
    main(["compare", "--models=resnet_tiny", "--data=Digits", "--data.image_size=8", "--budget.epochs=1", "--seeds=0"])
    assert Path("runs/compare/report.html").exists()


@pytest.mark.parametrize("name", ["pretrained", "checkpoint_path"])
def test_a_checkpoint_fetches_no_other_weights(offline, few, name):
    """A training can have started from weights of the network; what it wrote has all that is needed."""
    main(["fit", "--config", recipe(), "--checkpoint.dirpath=kept"])
    content = torch.load("kept/last.ckpt", weights_only=True)
    content["hyper_parameters"]["model_kwargs"][name] = {"pretrained": True, "checkpoint_path": "gone.pth"}[name]
    torch.save(content, "started.ckpt")
    arguments = ["--model=resnet_tiny", "--checkpoint=started.ckpt"]
    main(["export", *arguments, "--format=safetensors", "--output=saved"])
    main(["tie", *arguments, "--data=Digits", "--data.image_size=8", "--samples=8"])


def test_no_source_reads_pickles_without_care():
    """All calls of torch.load and Lightning's loaders say weights_only=True; none of eval, exec or pickle's loaders."""
    paths = [path for folder in ("src", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    calls = [(path, node) for path in paths for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Call]
    found = 0
    for path, call in calls:
        name, place = ast.unparse(call.func), f"{path.relative_to(ROOT)}:{call.lineno}"
        assert name not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "pickle.load", "pickle.loads"), place
        if name == "torch.load" or name.endswith(".load_from_checkpoint"):
            found += 1
            assert "weights_only=True" in [ast.unparse(keyword) for keyword in call.keywords], place
    assert found
