import json
import os
import shutil
import sys
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tiedconv.analysis.gradcam import grad_cam
from tiedconv.cli.main import main
from tiedconv.models.inputs import eval_transform

MODELS = "tiedresnet_tiny,resnet_tiny"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name, size in (("b", (40, 30)), ("a <i>", (30, 40)), ("c", (28, 28))):
        Image.fromarray(draw.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(3)
    model = timm.create_model("tiedresnet_tiny", num_classes=4)
    torch.save(model.state_dict(), tmp_path / "tied.pth")
    return model.eval(), tmp_path / "tied.pth"


def gradcam(*options):
    with mock.patch.object(sys, "argv", ["tiedconv", "analyze", "gradcam", *map(str, options)]):
        main()


def test_the_files_hold_what_the_function_returns(photos, checkpoint, tmp_path, capsys):
    model, path = checkpoint
    out = tmp_path / "new" / "out"
    (tmp_path / "classes.txt").write_text("cat\ndog\n<b>owl</b>\ngull\n")
    options = ("--checkpoints", path, "--classes", tmp_path / "classes.txt", "--limit", 2, "--output", out)
    gradcam("--models", "tiedresnet_tiny", "--images", photos, *options)
    names = ["a <i>.png", "b.png"]
    images = torch.stack([eval_transform(model)(Image.open(photos / name)) for name in names])
    expected = grad_cam(model, images)
    content = json.loads((out / "gradcam.json").read_text())
    [entry] = content["models"]
    assert (entry["label"], entry["layer"], entry["weights"]) == ("tiedresnet_tiny", "layer4", str(path))
    for i, result in enumerate(entry["results"]):
        assert result["photo"] == names[i]
        assert result["target"] == expected.targets[i]
        assert result["class"] == ["cat", "dog", "<b>owl</b>", "gull"][expected.targets[i]]
        assert result["probability"] == pytest.approx(expected.probabilities[i].item(), rel=1e-4)
        assert result["coverage"] == pytest.approx(expected.coverage()[i].item(), abs=1e-3)
        np.testing.assert_allclose(result["heat"], expected.heat[i], rtol=1e-3, atol=1e-6)
    with Image.open(out / "gradcam.png") as drawn:
        assert drawn.width > 100
    page = (out / "report.html").read_text()
    assert "<h2>a &lt;i&gt;.png</h2>" in page
    assert "<b>owl" not in page
    assert page.count("data:image/png;base64,") == 4
    assert f"tiedconv analyze gradcam --models tiedresnet_tiny --images {photos} --checkpoints" in page
    assert "random" not in page.lower()
    printed = capsys.readouterr().out
    first = expected.probabilities[0]
    assert f"{first:.1%}" in next(line for line in printed.splitlines() if "a <i>.png" in line)
    assert f"Report:  {out / 'report.html'}" in printed


def test_a_photo_may_have_a_name_that_is_no_utf8(photos, tmp_path):
    (tmp_path / "latin").mkdir()
    shutil.copy(photos / "b.png", tmp_path / "latin" / os.fsdecode(b"caf\xe9.png"))
    gradcam("--models", "resnet_tiny", "--images", tmp_path / "latin", "--output", tmp_path / "out")
    [model] = json.loads((tmp_path / "out" / "gradcam.json").read_text())["models"]
    assert model["results"][0]["photo"] == r"caf\udce9.png"
    assert r"<h2>caf\udce9.png</h2>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_random_weights_are_said_to_be_random_and_are_the_same_again(photos, tmp_path, capsys):
    for run in ("one", "two"):
        gradcam("--models", MODELS, "--images", photos / "b.png", "--target", 2, "--output", tmp_path / run)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Random weights, not trained: tiedresnet_tiny, resnet_tiny." in printed
    assert "Random weights, not trained: tiedresnet_tiny, resnet_tiny." in (tmp_path / "one/report.html").read_text()
    one, two = (json.loads((tmp_path / run / "gradcam.json").read_text()) for run in ("one", "two"))
    assert one == two
    assert {result["target"] for model in one["models"] for result in model["results"]} == {2}


def test_one_architecture_with_two_checkpoints_and_one_without(photos, checkpoint, tmp_path):
    _, path = checkpoint
    path.with_name("later.pth").write_bytes(path.read_bytes())
    files = f"{path},{path.with_name('later.pth')},"
    models = "tiedresnet_tiny,tiedresnet_tiny,resnet_tiny"
    gradcam("--models", models, "--checkpoints", files, "--images", photos, "--layer", "layer3", "--output", tmp_path)
    content = json.loads((tmp_path / "gradcam.json").read_text())
    assert [model["label"] for model in content["models"]] == [
        "tiedresnet_tiny, tied",
        "tiedresnet_tiny, later",
        "resnet_tiny",
    ]
    assert [model["layer"] for model in content["models"]] == ["layer3"] * 3
    assert content["models"][2]["weights"] == "random"


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ("tiedresnet_tiny,", [], "--models: expected str, got None"),
        (MODELS, ["--checkpoints", "a,b,c"], "got 2 models and 3 checkpoints. Give one per model"),
        ("resnet_tiny,resnet_tiny", [], "two models would both be called 'resnet_tiny'"),
        (MODELS, ["--limit", "0"], "limit must be at least 1, got limit=0"),
        (MODELS, ["--output", "{}/b.png"], "cannot write --output "),
        (MODELS, ["--layer", "layer9"], "grad_cam: .* has no layer 'layer9'"),
        (MODELS, ["--classes", "{1}/classes.txt"], ".*classes.txt has 2 lines, and tiedresnet_tiny tells "),
        ("resnet_tine", [], "resnet_tin"),
        (MODELS, ["--images", "{}/none"], "ImageFiles: .*none does not exist"),
    ],
)
def test_mistakes_are_named(photos, tmp_path, models, options, message):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    given = [option.format(photos, tmp_path) for option in options]
    with pytest.raises(SystemExit, match=f"tiedconv analyze gradcam: .*{message}"):
        gradcam("--models", models, "--images", photos, "--output", tmp_path / "out", *given)
    assert not (tmp_path / "out" / "report.html").exists()
