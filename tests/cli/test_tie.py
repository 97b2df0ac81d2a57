import json

import pytest
import torch
from PIL import Image

from tiedconv.cli.main import main
from tiedconv.export import from_pretrained
from tiedconv.models import build_model
from tiedconv.models.inputs import eval_transform


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "resnet_tiny.pth"
    torch.save(build_model("resnet_tiny", num_classes=10, in_chans=1).state_dict(), path)
    return path


def test_without_data_the_layers_are_counted_and_the_model_is_saved(tmp_path, checkpoint, capsys):
    output = tmp_path / "out"
    main(
        ["tie", "--model", "resnet_tiny", "--checkpoint", str(checkpoint), "--layers", "entry", "--output", str(output)]
    )
    printed = capsys.readouterr().out
    assert "8 of 30 layers tied" in printed
    assert "not the 1x1 entry" in printed
    model = from_pretrained(output / "model")
    dense = torch.load(checkpoint, weights_only=True)["layer1.1.conv1.weight"]
    expected = (dense[:8, :32] + dense[8:, 32:]) / 2
    torch.testing.assert_close(model.get_submodule("layer1.1.conv1").weight, expected)
    assert json.loads((output / "tying.json").read_text())["report"]["layers"][1]["blocks"] == 2


def test_with_data_accuracy_is_printed_for_every_stage(tmp_path, checkpoint, capsys):
    arguments = ["tie", "--model", "resnet_tiny", "--checkpoint", str(checkpoint), "--init", "data", "--samples", "64"]
    arguments += ["--data", "Digits", "--data.image_size", "8", "--data.batch_size", "256", "--finetune", "1"]
    main([*arguments, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    for stage in ("before", "tied", "fine-tuned"):
        assert f"\n{stage}: top-1 " in f"\n{printed}"
    assert "norms re-estimated" not in printed  # the fit has seen to that
    card = (tmp_path / "out/model/README.md").read_text()
    assert "Digits" in card
    model = from_pretrained(tmp_path / "out/model")
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    # a grey value of 0.305 is the mean of the digits
    grey = eval_transform(model)(Image.new("L", (20, 20), round(0.305 * 255)))
    torch.testing.assert_close(grey, torch.zeros(1, 8, 8), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--finetune", "1"], "finetune and init=data need images. Give --data"),
        (["--init", "data"], "finetune and init=data need images. Give --data"),
        (["--blocks", "7"], r"none of the 30 convolution and linear layers of torch.nn can be tied"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["tie", "--model", "resnet_tiny", *arguments, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "model").exists()


def test_a_seed_decides_random_weights_so_that_a_training_goes_on_in_another_process(tmp_path):
    random = ["tie", "--model", "resnet_tiny", "--model_kwargs", '{"layers": [1, 1, 1, 1]}', "--init", "random"]
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main([*random, "--seed", seed, "--output", str(tmp_path / folder)])
    first, same, other = ((tmp_path / folder / "model" / "model.safetensors").read_bytes() for folder in "abc")
    assert first == same != other


def test_a_saved_model_is_trained_by_its_name(tmp_path):
    with pytest.raises(SystemExit, match=r"with data, model must be the name of a model, got .*model\.safetensors as"):
        main(["tie", "--model", str(tmp_path), "--data", "Digits"])


def test_a_model_that_is_tied_already_is_refused(tmp_path):
    torch.save(
        {
            "pytorch-lightning_version": "2.6.0",
            "state_dict": {},
            "hyper_parameters": {"model": "resnet_tiny", "tied": 2, "optimization": {}},
        },
        tmp_path / "tied.ckpt",
    )
    with pytest.raises(SystemExit, match=r"is tied already. Give the one from before"):
        main(["tie", "--model", "resnet_tiny", "--checkpoint", str(tmp_path / "tied.ckpt"), "--data", "Digits"])
