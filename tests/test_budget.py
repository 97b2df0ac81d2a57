import json
import math
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
budget, images, networks = (import_module(name) for name in ("budget", "budget_images", "budget_networks"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 128, (32, 32, 3), dtype=np.uint8) + np.uint8(12 * label)
                Image.fromarray(pixels).save(folder / split / str(label) / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(budget, "BATCH_SIZE", 4)


def run(*arguments: object) -> None:
    budget.main([str(argument) for argument in arguments])


def test_arms_keep_to_their_budgets():
    budget.check_budgets()


def test_an_arm_beyond_its_budget_is_found(monkeypatch):
    monkeypatch.setitem(budget.ARMS, "wide", networks.Arm("wide", (20, 40, 80)))
    with pytest.raises(AssertionError, match=r"wide: .* params are .* beside the budget"):
        budget.check_budgets()


@pytest.mark.parametrize("name", ["tied2-shuffle-scale", "tied2-shuffle-private"])
def test_deployed_networks_are_ordinary_and_compute_the_same(name):
    torch.manual_seed(0)
    model = budget.build(budget.ARMS[name]).eval()
    deployed = budget.deployed(model)
    assert not any(isinstance(m, networks.VariedConv2d | networks.TiedConv2d) for m in deployed.modules())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(deployed(x), model(x))


def test_blocks_of_a_varied_convolution_differ_by_scale_and_rank_1():
    shared = networks.TiedConv2d(8, 8, 3, bias=False, blocks=2)
    scaled = networks.VariedConv2d(shared, scale=True, private=False)
    a, b = (scaled.weight().chunk(2)[i] / scaled.scale[i].view(1, -1, 1, 1) for i in range(2))
    torch.testing.assert_close(a, b)
    private = networks.VariedConv2d(shared, scale=False, private=True)
    for weight in private.weight().chunk(2):
        assert torch.linalg.matrix_rank((weight - shared.weight).flatten(1)) == 1


def test_augmented_images_are_mirrored_windows_of_the_padded_image():
    pixels = torch.randint(1, 256, (1, 32, 32, 3), dtype=torch.uint8)
    padded = torch.nn.functional.pad(pixels[0], (0, 0, 4, 4, 4, 4))
    windows = [padded[i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
    windows += [window.flip(1) for window in windows]
    found = images.augmented(pixels.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    indices = [next(i for i, w in enumerate(windows) if torch.equal(w, image)) for image in found]
    assert len(set(indices)) > 100
    assert min(indices) < 81 <= max(indices)


def test_a_killed_run_ends_as_one_that_was_not(root, tmp_path, monkeypatch):
    common = ("--root", root, "--train", "--lr", 0.1, "--arms", "untied", "--seeds", 0, "--epochs", 2)
    run(*common, "--output", tmp_path / "whole")
    train_epoch, calls = budget.train_epoch, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(budget, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*common, "--output", tmp_path / "killed")
    run(*common, "--output", tmp_path / "killed")
    assert len(calls) == 3
    run(*common, "--output", tmp_path / "killed")  # finished: nothing is trained
    assert len(calls) == 3
    name = "untied-seed0-lr0.1-epochs2.json"
    whole, resumed = (json.loads((tmp_path / f / name).read_text()) for f in ("whole", "killed"))
    assert whole["losses"] == resumed["losses"]
    assert whole["top1"] == resumed["top1"]
    assert not list((tmp_path / "killed").glob("*.pt"))


def test_training_takes_the_rate_of_the_sweep_and_the_report_names_every_arm(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(budget, "LEARNING_RATES", (0.1, 0.0))
    arms = ("untied", "tied2-shuffle")
    common = ("--output", tmp_path, "--epochs", 1, "--arms", *arms)
    with pytest.raises(SystemExit, match="holds no whole sweep of 5 epochs"):
        run("--root", root, "--train", *common)
    run("--root", root, "--sweep", "--sweep-epochs", 1, "--train", "--seeds", 0, *common)
    rates = budget.best_learning_rates(tmp_path, 1)
    for name in arms:
        assert (tmp_path / f"{name}-seed0-lr{rates[budget.ARMS[name].is_tied]:g}-epochs1.json").exists()
    capsys.readouterr()
    run("--report", *common)
    text = capsys.readouterr().out
    assert all(f"| {name} | 57," in text for name in arms)
    run("--report", "--output", tmp_path, "--epochs", 1, "--arms", "untied")
    assert "tied2" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("--report", *common, "--seeds", 1)
    assert "holds no results of these arms, seeds" in capsys.readouterr().err
    (path,) = tmp_path.glob("untied-seed0-*.json")
    other = {**json.loads(path.read_text()), "lr": 9, "seed": 1}
    (tmp_path / "untied-seed1-lr9-epochs1.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="untied at several learning rates"):
        run("--report", *common)


def test_a_share_has_the_same_part_of_every_class():
    whole = images.Images(torch.arange(60).view(60, 1, 1, 1), torch.tensor([0, 1, 1] * 20))
    share = whole.share(0.1)
    assert share.labels.bincount().tolist() == [2, 4]
    assert torch.equal(share.pixels, whole.share(0.1).pixels)
    assert torch.equal(whole.labels[share.pixels.flatten()], share.labels)


def test_larger_images_and_a_share_of_them_are_trained_and_reported_apart(root, tmp_path, capsys):
    common = ("--output", tmp_path, "--pixels", 64, "--share", 0.5, "--epochs", 1, "--arms", "untied")
    run("--root", root, "--train", "--lr", 0.1, "--seeds", 0, *common)
    (path,) = tmp_path.glob("*.json")
    assert path.name == "untied-seed0-lr0.1-epochs1-share0.5.json"
    assert json.loads(path.read_text())["macs"] == budget.costs(budget.ARMS["untied"], 64)["macs"]
    run("--report", *common)
    assert "| untied | 57,130 | 9.0" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="untied of images of another size"):
        run("--report", *common, "--pixels", 32)
    with pytest.raises(SystemExit, match=r"train\.npz holds images of .* with 64 pixels"):
        run("--root", root, "--train", "--lr", 0.1, "--output", tmp_path)
    with pytest.raises(SystemExit, match="Give another --output"):
        run("--root", shutil.copytree(root, tmp_path / "others"), "--train", "--lr", 0.1, *common)


def test_splits_that_are_missing_or_have_other_classes_are_refused(root, tmp_path):
    other = shutil.copytree(root, tmp_path / "images")
    shutil.rmtree(other / "val" / "3")
    with pytest.raises(SystemExit, match="has 10 in train, 9 in val"):
        run("--root", other, "--train", "--lr", 0.1, "--output", tmp_path)
    shutil.rmtree(other / "val")
    with pytest.raises(SystemExit, match="val is missing"):
        run("--root", other, "--train", "--lr", 0.1, "--output", tmp_path)


def test_latency_is_that_of_the_deployed_network_and_stands_in_the_report(tmp_path, monkeypatch, capsys):
    def to_onnx(model, path, **_):  # the exporter takes seconds per network, and has tests of its own
        files[path] = model
        return SimpleNamespace(path=path, bytes=4 * sum(p.numel() for p in model.parameters()))

    def open_onnx(path):
        timed.append(files[path])
        return files[path]

    files: dict[str, torch.nn.Module] = {}
    timed: list[torch.nn.Module] = []
    monkeypatch.setattr(budget, "to_onnx", to_onnx)
    monkeypatch.setattr(budget, "open_onnx", open_onnx)
    run("--latency", "--report", "--rounds", 2, "--arms", "tied2-shuffle", "--output", tmp_path)
    (network,) = timed
    assert not any(isinstance(m, networks.TiedConv2d) for m in network.modules())
    measured = json.loads((tmp_path / "latency.json").read_text())["tied2-shuffle"]
    assert measured["file_bytes"] == 4 * 57610
    assert measured["deployed_bytes"] > 1.5 * measured["file_bytes"]
    assert f"{measured['ms']:.3f}" in capsys.readouterr().out


def test_intervals_and_verdicts():
    mean, low, high = budget.paired({0: 3.0, 1: 4.0, 2: 5.0, 3: 9.0}, {0: 1.0, 1: 1.0, 2: 1.0})
    assert mean == pytest.approx(3)
    assert (high - mean, mean - low) == pytest.approx((4.302653 / math.sqrt(3),) * 2)
    assert budget.verdict([(3, 1, 5), (3, 0.1, 6)]) == "yes"
    assert budget.verdict([(3, 1, 5), (1, -1, 3)]) == "not shown"
    assert budget.verdict([(3, 1, 5), (-2, -3, -1)]) == "no"
    assert budget.verdict([(3, 1, 5), budget.paired({0: 1.0}, {0: 0.5})]) == ""
