import json

import pytest

from tiedconv.cli.main import main
from tiedconv.compare import classification

CONFIG = """
title: Two small networks
models:
  - resnet_tiny
  - {name: tiedresnet_tiny, label: tied, kwargs: {layers: [1, 1, 1, 1]}}
data:
  class_path: tiedconv.data.Digits
  init_args: {image_size: 8, batch_size: 256}
budget:
  epochs: 1
  channels_last: true
  optimization: {lr: 0.05, schedule: cosine}
seeds: [0]
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "compare.yaml"
    path.write_text(CONFIG)
    return path


def test_compare_trains_prints_and_writes_a_report_and_goes_on_with_another_seed(tmp_path, config, capsys, monkeypatch):
    output = tmp_path / "out"
    main(["compare", "--config", str(config), "--output", str(output)])
    printed = capsys.readouterr().out
    assert "Two small networks" in printed
    assert str(output / "report.html").replace("\n", "") in printed.replace("\n", "")
    comparison = json.loads((output / "results.json").read_text())
    assert [model["label"] for model in comparison["models"]] == ["resnet_tiny", "tied"]
    assert comparison["models"][0]["params"] == 883_562
    for model in comparison["models"]:
        assert [run["seed"] for run in model["runs"]] == [0]
        assert model["inference_images_per_s"]["median"] > model["train_images_per_s"]["median"] > 0
        assert model["deployed_images_per_s"]["median"] > 0
        assert model["deployed_bytes"] > 3 * model["params"]  # norms are folded
    assert len(comparison["samples"]) == len(comparison["models"][0]["runs"][0]["details"]["predictions"]) == 12
    assert "Two small networks" in (output / "report.html").read_text()

    for name in ("_measure", "_measure_deployed"):  # done above
        monkeypatch.setattr(classification, name, lambda models, *_: models)
    main(["compare", "--config", str(config), "--output", str(output), "--seeds", "0,5"])
    more = json.loads((output / "results.json").read_text())
    assert [run["seed"] for run in more["models"][1]["runs"]] == [0, 5]
    assert more["models"][1]["runs"][:1] == comparison["models"][1]["runs"]  # read, not trained again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "resnet_tiny,resnet_tiny"], "models has resnet_tiny twice"),
        (["--models", "[]"], "^tiedconv compare: models is empty"),
        (["--models", "resnet_tiny", "--detector.norm", "frozen"], "detector is for data of detection, got Digits"),
        (["--models", "[{name: resnet_tiny, weights: a.ckpt}]"], "weights of resnet_tiny are for detectors"),
        (["--models", "resnet_tiny", "--seeds", "[1, 1]"], "seeds has 1 twice"),
        (["--models", "resnet_tiny", "--seeds", "-1"], "seeds must be whole numbers from 0 to 4294967295, got -1"),
        (["--models", "resnet_tiny", "--seeds", "0,4294967296"], "from 0 to 4294967295, got 4294967296"),
        (["--models", "resnet_tiny", "--seeds", "1,x"], "--seeds: expected int, got x"),
        (["--models", "[{name: resnet_tiny, kwargs: {wide: 1}}]"], r"resnet_tiny does not take kwargs=\{'wide': 1\}"),
    ],
)
def test_mistakes_in_what_to_compare(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["compare", *arguments, "--data", "Digits", "--output", str(tmp_path)])
