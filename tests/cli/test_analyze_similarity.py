import json

import pytest
import timm
import torch
from PIL import Image

from tiedconv.analysis import filter_similarity
from tiedconv.cli.main import main


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Four photos in two folders below photos/; the working directory is the one above."""
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        folder = tmp_path / "photos" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (torch.rand(48, 40, 3) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def similarity(*options):
    main(["analyze", "similarity", "--images", "photos", *map(str, options)])


def test_the_command_measures_what_the_library_does(photos, capsys):
    weights = timm.create_model("test_resnet", num_classes=5).state_dict()
    torch.save(weights, "a.pt")
    options = ["--layers", "layer1,layer2", "--max_channels", 3, "--limit", 2, "--batch_size", 1, "--output", "out"]
    similarity("--models", "test_resnet,test_resnet", "--checkpoints", "a.pt,", *options)
    read = json.loads((photos.parent / "out" / "similarity.json").read_text())
    trained, _ = read["models"]
    assert read["images"] == 2
    assert [layer["layer"] for layer in trained["layers"]] == ["layer1", "layer2"]

    from tiedconv.models.inputs import eval_transform

    net = timm.create_model("test_resnet", num_classes=5)
    net.load_state_dict(weights)
    files = [photos / "class0" / "0.png", photos / "class1" / "1.png"]  # every second of four
    images = torch.stack([eval_transform(net)(Image.open(file)) for file in files])
    for entry, expected in zip(
        trained["layers"], filter_similarity(net, ["layer1", "layer2"], images, max_channels=3), strict=True
    ):
        assert entry["mean"] == pytest.approx(expected.mean, abs=1e-5)
        assert entry["channels"] == expected.channels
    printed = capsys.readouterr().out
    assert f" {trained['layers'][0]['mean']:.3f} " in printed
    assert "Random weights, not trained: test_resnet." in " ".join(printed.split())
    page = (photos.parent / "out" / "report.html").read_text()
    assert "Random weights, not trained: test_resnet" in page
    assert (photos.parent / "out" / "similarity.png").is_file()
    drawn = sorted(file.name for file in (photos.parent / "out").glob("matrices-*"))
    assert drawn == ["matrices-1-test_resnet-a.png", "matrices-2-test_resnet.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "test_resnet", "--layers", "layer9"], r"no layer 'layer9'. Nearest names: layer"),
        (["--models", "torchvision/resnet18"], r"has no feature_info that names its stages. Pass layers"),
        (["--models", "test_resnet,test_vit"], r"the layer 'blocks\.0' must return its 64 channels"),
        (["--models", "test_resnet", "--limit", 0], r"limit must be at least 1"),
        (["--models", "test_resnet", "--max_channels", -1], r"max_channels must be at least 1, got max_channels=-1"),
        (["--models", "test_resnet", "--batch_size", 0], r"batch_size must be at least 1"),
    ],
)
def test_mistakes_are_named_before_photos_are_read(photos, monkeypatch, options, message):
    monkeypatch.setattr("tiedconv.data.base.ImageFiles.batches", lambda *_: pytest.fail("read"))
    with pytest.raises(SystemExit, match=f"tiedconv analyze similarity: .*{message}"):
        similarity(*options)


@pytest.mark.parametrize("content", [b"no picture", None])
def test_a_broken_photo_is_named_before_anything_is_measured(photos, monkeypatch, content):
    broken = photos / "class1" / "1.png"
    broken.write_bytes(broken.read_bytes()[:900] if content is None else content)
    monkeypatch.setattr("tiedconv.data.base.ImageFiles.batches", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match=r"photos/class1/1\.png cannot be read as an image: .*\. Replace the file"):
        similarity("--models", "test_resnet")
