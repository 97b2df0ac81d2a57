import json
from dataclasses import asdict

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tiedconv.analysis.summary import summarize
from tiedconv.cli.main import main
from tiedconv.models.inputs import eval_transform


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def summary(*options):
    main(["analyze", "summary", *map(str, options)])


def test_the_files_hold_what_the_function_returns(photos, tmp_path, capsys):
    torch.manual_seed(3)
    model = timm.create_model("tiedresnet_tiny", num_classes=4)
    torch.save(model.state_dict(), tmp_path / "tied.pth")
    out = tmp_path / "out"
    options = ("--checkpoints", f"{tmp_path}/tied.pth,", "--limit", 3, "--output", out)
    summary("--models", "tiedresnet_tiny,resnet_tiny", "--images", photos, *options)
    images = torch.stack([eval_transform(model)(Image.open(photos / f"{i}.png")) for i in (0, 2, 4)])
    expected = summarize(model, images)
    content = json.loads((out / "summary.json").read_text())
    assert content["images"] == 3
    tied, plain = content["models"]
    assert (tied["label"], plain["label"], plain["weights"]) == ("tiedresnet_tiny", "resnet_tiny", "random")
    for given, layer in zip(tied["layers"], expected, strict=True):
        for field, value in asdict(layer).items():
            close = pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value
            assert given[field] == (list(value) if isinstance(value, tuple) else close)
    printed = capsys.readouterr().out
    split = next(layer for layer in expected if layer.kind == "SplitTiedConv2d")
    row = next(line for line in printed.splitlines() if f" {split.name} " in line)
    blocks = " ".join(map(str, split.blocks))
    assert f" SplitTiedConv2d   {blocks} " in row
    assert "×".join(map(str, split.shape)) in row
    assert "tiedresnet_tiny, 3 photos" in printed
    assert " ".join(printed.split()).count("Random weights, not trained: resnet_tiny.") == 1
    with Image.open(out / "summary.png") as drawn:
        assert drawn.width > 100
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2
    assert all(f'<th scope="row">{layer.name}</th>' in page for layer in expected)
    assert "Random weights, not trained: resnet_tiny." in page
