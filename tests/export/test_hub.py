import json
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from torch import Tensor, nn

import tiedconv
from tiedconv.convert import tie_
from tiedconv.export import from_pretrained, push_to_hub, save_pretrained
from tiedconv.metrics.counts import count
from tiedconv.nn import TiedConv2d

FILES = ["README.md", "config.json", "model.safetensors"]


pytestmark = pytest.mark.usefixtures("no_network")


def with_statistics(model: nn.Module) -> nn.Module:
    """The model in eval mode, with batch norms that are not as they start."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def check_same(model: nn.Module, loaded: nn.Module, channels: int = 3) -> None:
    x = torch.randn(2, channels, 32, 32)
    with torch.no_grad():
        expected = model(x)
        assert expected.std() > 0
        torch.testing.assert_close(loaded(x), expected)
    assert not any(module.training for module in loaded.modules())


def test_a_tied_model_loads_by_timm_alone(tmp_path: Path) -> None:
    model = with_statistics(timm.create_model("tiedresnet_tiny", num_classes=5, in_chans=1))
    folder = save_pretrained(model, tmp_path / "net")
    assert sorted(os.listdir(folder)) == FILES
    check_same(model, timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), channels=1)
    check_same(model, from_pretrained(folder), channels=1)
    assert "tiedconv" not in json.loads((folder / "config.json").read_text())


def test_arguments_of_the_model_are_kept(tmp_path: Path) -> None:
    model = with_statistics(tiedconv.create_model("tiedresnet_tiny", base_width=24, num_classes=3))
    check_same(model, from_pretrained(save_pretrained(model, tmp_path / "net")))


def test_arguments_may_be_changed_where_the_weights_stay(tmp_path: Path) -> None:
    folder = save_pretrained(tiedconv.create_model("tiedresnet_tiny", num_classes=3), tmp_path / "net")
    loaded = from_pretrained(folder, drop_path_rate=0.2)
    assert loaded.get_submodule("layer4.1.drop_path").drop_prob == pytest.approx(0.2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"from_pretrained: .*the file has num_classes=3\. Build the model"):
        from_pretrained(folder, num_classes=4)


def test_another_classifier_is_kept(tmp_path: Path) -> None:
    model: Any = timm.create_model("resnet_tiny")
    model.reset_classifier(6)
    check_same(with_statistics(model), from_pretrained(save_pretrained(model, tmp_path / "net")))


@pytest.mark.parametrize(
    ("name", "filter_fn"), [("test_resnet", "body"), ("test_resnet", "all"), ("resnet_tiny", "entry")]
)
def test_what_tie_did_to_a_model_of_timm_is_done_again(name: str, filter_fn: Any, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=6)
    report = tie_(model, 2, filter_fn=filter_fn, init="random")
    folder = save_pretrained(with_statistics(model), tmp_path / "net")
    entry = json.loads((folder / "config.json").read_text())["tiedconv"]
    assert entry == {"library": "timm", "kwargs": {}, "tied": report.blocks}
    check_same(model, from_pretrained(folder))


def test_what_tie_did_to_a_model_of_torchvision_is_done_again(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=6)
    report = tie_(model, {"layer3.*": 2, "layer4.*": 4}, init="random")
    folder = save_pretrained(with_statistics(model), tmp_path / "net", architecture="torchvision/resnet18")
    entry = json.loads((folder / "config.json").read_text())["tiedconv"]
    assert entry == {"library": "torchvision", "kwargs": {"num_classes": 6}, "tied": report.blocks}
    check_same(model, from_pretrained(folder))


def test_arguments_of_torchvisions_model_are_given(tmp_path: Path) -> None:
    model = with_statistics(torchvision.models.mobilenet_v2(num_classes=6, width_mult=0.5))
    folder = save_pretrained(
        model, tmp_path / "net", architecture="torchvision/mobilenet_v2", model_args={"width_mult": 0.5}
    )
    check_same(model, from_pretrained(folder))
    message = r"save_pretrained: the model is not what torchvision/mobilenet_v2 builds \(of another shape: \d+, such as"
    with pytest.raises(ValueError, match=message):
        save_pretrained(model, tmp_path / "other", architecture="torchvision/mobilenet_v2")
    with pytest.raises(
        ValueError, match=r"is not what torchvision/resnet34 builds .* Give the arguments .* model_args"
    ):
        save_pretrained(torchvision.models.resnet18(), tmp_path / "other", architecture="torchvision/resnet34")
    assert os.listdir(tmp_path) == ["net"]


def test_torchvisions_models_need_their_name_and_others_do_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'a ResNet of torchvision does not know .* architecture="torchvision/<name>"'):
        save_pretrained(torchvision.models.resnet18(), tmp_path / "net")
    with pytest.raises(ValueError, match=r"architecture='resnet18' is for models of torchvision, got a SmallResNet"):
        save_pretrained(timm.create_model("resnet_tiny"), tmp_path / "net", architecture="resnet18")


def test_a_model_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("resnet_tiny")
    model.add_module("extra", nn.Linear(2, 2))
    message = r"save_pretrained: the model is not what resnet_tiny builds \(unknown: 2, such as extra\.weight\)\. Give"
    with pytest.raises(ValueError, match=message):
        save_pretrained(model, tmp_path / "net")
    assert os.listdir(tmp_path) == []


class Net(nn.Module):
    """Somebody's own network, with a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second, self.third = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third.weight = self.second.weight
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.third(self.second(self.first(x)).relu()).relu())
        return self.head(x.mean((2, 3)))


def test_somebodys_own_network_loads_into_an_instance(tmp_path: Path) -> None:
    net = Net()
    tie_(net, {"mix": 4})
    folder = save_pretrained(net.eval(), tmp_path / "net")
    untied, tied = Net(), Net()
    tie_(tied, {"mix": 4}, init="random")
    for instance in (untied, tied):
        assert from_pretrained(folder, model=instance) is instance
        check_same(net, instance)
    assert isinstance(untied.mix, TiedConv2d)
    with pytest.raises(ValueError, match=r"from_pretrained: Net is a class of its own, .* Give model=, an instance"):
        from_pretrained(folder)
    with pytest.raises(ValueError, match=r"from_pretrained: got a model, and num_classes to build one\. Give one"):
        from_pretrained(folder, model=Net(), num_classes=3)
    with pytest.raises(ValueError, match=r"from_pretrained: .* of this Sequential \(missing: 2, .*; unknown: \d+, "):
        from_pretrained(folder, model=nn.Sequential(nn.Linear(1, 1)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_are_no_obstacle_and_the_model_stays_as_it_is(
    memory_format: torch.memory_format, tmp_path: Path
) -> None:
    model = with_statistics(timm.create_model("tiedresnet_tiny", num_classes=3)).to(memory_format=memory_format)
    strides = [p.stride() for p in model.parameters()]
    folder = save_pretrained(model, tmp_path / "net")
    check_same(model, from_pretrained(folder))
    assert [p.stride() for p in model.parameters()] == strides
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(model.state_dict())


def test_an_older_model_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    old, new = (with_statistics(timm.create_model("resnet_tiny", num_classes=n)) for n in (3, 4))
    (save_pretrained(old, tmp_path / "net") / ".git").mkdir()
    check_same(new, from_pretrained(save_pretrained(new, tmp_path / "net")))
    assert sorted(os.listdir(tmp_path / "net")) == [".git", *FILES]
    (tmp_path / "net" / "notes.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=r"save_pretrained: .*/net holds other files, such as notes\.txt\. Give another"
    ):
        save_pretrained(old, tmp_path / "net")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"save_pretrained: .*/file is a file\. Give another folder\."):
        save_pretrained(old, tmp_path / "file")


def test_a_kill_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (with_statistics(timm.create_model("resnet_tiny", num_classes=n)) for n in (3, 4))
    folder = save_pretrained(old, tmp_path / "net")

    def killed(self: Path, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            save_pretrained(new, folder)
    check_same(old, from_pretrained(folder))
    check_same(new, from_pretrained(save_pretrained(new, folder)))
    assert os.listdir(tmp_path) == ["net"]


def test_a_model_without_values_cannot_be_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet_tiny")
    with pytest.raises(ValueError, match=r"save_pretrained: conv1\.weight is not a tensor with values"):
        save_pretrained(model, tmp_path / "net")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json is not JSON: "),
        ("[]", r"config\.json does not describe a model\. Give a folder"),
        (
            '{"architecture": "resnet_tiny", "tiedconv": {"library": "other"}}',
            r"config\.json does not describe a model\.",
        ),
        ('{"architecture": "resnet_tiny"}', r'config\.json has no "pretrained_cfg"'),
        ('{"architecture": "resnet_tyni", "pretrained_cfg": {}}', "no model is called 'resnet_tyni'"),
        (
            '{"architecture": "resnet_tiny", "pretrained_cfg": {}, "model_args": {"checkpoint_path": "x.pth"}}',
            r"checkpoint_path must be set neither in config\.json nor by the caller",
        ),
    ],
)
def test_a_broken_config_is_named(text: str, message: str, tmp_path: Path) -> None:
    folder = save_pretrained(timm.create_model("resnet_tiny"), tmp_path / "net")
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"from_pretrained: .*{message}"):
        from_pretrained(folder)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder somebody/net\. .* is called hf-hub:<user>/<name>"):
        from_pretrained("somebody/net")
    folder = save_pretrained(timm.create_model("resnet_tiny"), tmp_path / "net")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"from_pretrained: .*/model\.safetensors does not exist\."):
        from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"from_pretrained: .*/config\.json does not exist\. Give a folder"):
        from_pretrained(folder)


def test_the_card_says_what_the_model_is_and_costs(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=6)
    cost_before = count(model, (3, 160, 160))
    report = tie_(model, {"layer4.*": 4}, init="random")
    folder = save_pretrained(
        model, tmp_path / "net", metrics={"top1": 0.91234}, dataset="somebody/flowers", license="cc-by-4.0"
    )
    cost = count(model, (3, 160, 160))
    card = (folder / "README.md").read_text()
    assert f"| parameters | {cost.params:,} | {cost_before.params:,} |" in card
    assert f"| multiply-adds for one 3 x 160 x 160 image | {cost.macs:,} | {cost_before.macs:,} |" in card
    for name, blocks in report.blocks.items():
        weight: Any = model.get_submodule(name).weight
        row = f"| `{name}` | TiedConv2d | {blocks} | {weight.numel():,} | {weight.numel() * blocks**2:,} |"
        assert row in card
    assert card.count("| TiedConv2d |") == len(report.blocks)
    for line in ("license: cc-by-4.0", "- somebody/flowers", "  - top1: 0.9123", 'model = from_pretrained("net")'):
        assert f"\n{line}\n" in card
    assert "timm.create_model" not in card  # timm alone would not tie it
    assert "@inproceedings{wang2021tied" in card
    assert not re.search(r"TODO|More information needed|\[.*needed\]|None|<\w+>", card)


def test_the_card_counts_split_layers(tmp_path: Path) -> None:
    model = tiedconv.create_model("tiedresnet_tiny")
    text = (save_pretrained(model, tmp_path / "net") / "README.md").read_text()
    weights = [p.numel() for p in model.get_submodule("layer1.0.conv2").parameters()]
    assert f"| `layer1.0.conv2` | SplitTiedConv2d | 1, 1, 2, 2 | {sum(weights):,} | {4 * weights[0]:,} |" in text
    untied = tiedconv.create_model("tiedresnet_tiny", block_args={"blocks": (1, 1, 1, 1)})
    for name, layer in untied.named_modules():  # the other tied layers
        if isinstance(layer, TiedConv2d) and layer.blocks > 1:
            geometry = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
            dense = nn.Conv2d(*geometry, bias=layer.bias is not None)
            untied.set_submodule(name, dense)
    costs = [count(net, (3, 32, 32)) for net in (model, untied)]
    assert f"| parameters | {costs[0].params:,} | {costs[1].params:,} |" in text
    assert f"image | {costs[0].macs:,} | {costs[1].macs:,} |" in text
    assert "license: mit" in text
    assert 'timm.create_model("local-dir:net", pretrained=True)' in text


def test_the_card_of_a_model_without_tied_layers(tmp_path: Path) -> None:
    model = timm.create_model("resnet_tiny", in_chans=1)
    card = (save_pretrained(model, tmp_path / "net", dataset="Digits, 8x8 pixels") / "README.md").read_text()
    assert f"|  | this model |\n| --- | --- |\n| parameters | {count(model, (1, 32, 32)).params:,} |" in card
    assert "- **Data:** Digits, 8x8 pixels\n" in card
    assert "datasets:" not in card
    assert "Tied layers" not in card


class Hub:
    """What the library would have sent; it refuses calls that huggingface_hub does not take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, has_card: bool = False) -> None:
        self.calls: list[str] = []
        self.files: dict[str, bytes] = {}
        self.has_card = has_card
        for name in ("create_repo", "file_exists", "upload_folder"):
            fake = create_autospec(getattr(huggingface_hub.HfApi, name), side_effect=getattr(self, name))
            monkeypatch.setattr(huggingface_hub.HfApi, name, fake)

    def create_repo(self, api: Any, repo_id: str, *, private: bool, exist_ok: bool) -> huggingface_hub.RepoUrl:
        self.calls.append(f"create {repo_id} {private=} {exist_ok=}")
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def file_exists(self, api: Any, repo_id: str, filename: str) -> bool:
        return self.has_card and filename == "README.md"

    def upload_folder(
        self, api: Any, *, repo_id: str, folder_path: Path, commit_message: str, ignore_patterns: list[str] | None
    ) -> None:
        self.calls.append(f"upload {repo_id}: {commit_message}")
        self.files = {p.name: p.read_bytes() for p in folder_path.iterdir() if p.name not in (ignore_patterns or ())}


def test_the_same_files_are_uploaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = Hub(monkeypatch)
    model = timm.create_model("tiedresnet_tiny", num_classes=3)
    url = push_to_hub(model, "somebody/net", private=True, commit_message="First", metrics={"top1": 0.5})
    assert url == "https://huggingface.co/somebody/net"
    assert hub.calls == ["create somebody/net private=True exist_ok=True", "upload somebody/net: First"]
    assert sorted(hub.files) == FILES
    folder = save_pretrained(model, tmp_path / "net", metrics={"top1": 0.5})
    for name in ("config.json", "model.safetensors"):
        assert hub.files[name] == (folder / name).read_bytes()
    card = hub.files["README.md"].decode()
    assert card == (folder / "README.md").read_text().replace("local-dir:net", "hf-hub:somebody/net").replace(
        'from_pretrained("net")', 'from_pretrained("hf-hub:somebody/net")'
    )


def test_a_card_in_the_repository_is_kept_if_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("tiedresnet_tiny", num_classes=3)
    hub = Hub(monkeypatch, has_card=True)
    push_to_hub(model, "somebody/net", keep_card=True)
    assert sorted(hub.files) == FILES[1:]
    push_to_hub(model, "somebody/net")
    assert sorted(hub.files) == FILES


def test_nothing_is_made_on_the_hub_if_the_model_cannot_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    with pytest.raises(ValueError, match="save_pretrained: a ResNet of torchvision does not know"):
        push_to_hub(torchvision.models.resnet18(), "somebody/net")
    assert hub.calls == []


def test_a_repository_is_downloaded_without_what_is_not_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = with_statistics(timm.create_model("tiedresnet_tiny", num_classes=3))
    folder = save_pretrained(model, tmp_path / "net")
    asked: list[Any] = []

    def download(repo_id: str, *, revision: str | None, allow_patterns: list[str], token: str | None) -> str:
        asked.append((repo_id, revision, sorted(allow_patterns), token))
        return str(folder)

    fake = create_autospec(huggingface_hub.snapshot_download, side_effect=download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    check_same(model, from_pretrained("hf-hub:somebody/net@v1", token="secret"))
    assert asked == [("somebody/net", "v1", FILES[1:], "secret")]


def test_a_config_that_builds_nothing_is_named(tmp_path):
    folder = save_pretrained(timm.create_model("tiedresnet_tiny", num_classes=3), tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_classes": "three"}))
    message = r"from_pretrained: .*config\.json describes a tiedresnet_tiny that cannot be built: TypeError: .*Save the"
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)
    (folder / "config.json").write_text("[" * 20_000)
    with pytest.raises(ValueError, match=r"from_pretrained: .*config\.json is not JSON: "):
        from_pretrained(folder)
