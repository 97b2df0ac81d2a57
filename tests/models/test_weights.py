import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors.torch import save_file
from torch import Tensor, nn

from tiedconv.models import build_model, load_weights, read_weights
from tiedconv.models.weights import classifiers, read_checkpoint, sizes
from tiedconv.nn import TiedLinear
from tiedconv.tasks import ClassificationTask


def by_lightning(folder: Path, net: nn.Module) -> Path:
    task = ClassificationTask("tiedresnet_tiny", 10, 1)
    task.model.load_state_dict(net.state_dict())
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1
    )
    trainer.strategy.connect(task)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def saved(content: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path, nn.Module], Path]:
    def save(folder: Path, net: nn.Module) -> Path:
        torch.save(content(net.state_dict()), folder / "net.pth")
        return folder / "net.pth"

    return save


def by_safetensors(folder: Path, net: nn.Module) -> Path:
    save_file(net.state_dict(), folder / "net.safetensors")
    return folder / "net.safetensors"


FILES = {
    "checkpoint of a task": by_lightning,
    "state dict": saved(lambda state: state),
    "under state_dict": saved(lambda state: {"epoch": 3, "state_dict": state}),
    "under model": saved(lambda state: {"model": state, "optimizer": {"lr": 0.1}, "args": argparse.Namespace(lr=0.1)}),
    "under model_state_dict": saved(lambda state: {"model_state_dict": state, "params": {"lr": 0.1}}),
    "under net": saved(lambda state: {"net": state, "acc": 0.9}),
    "without an average": saved(lambda state: {"model": state, "model_ema": None}),
    "safetensors": by_safetensors,
}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return timm.create_model("tiedresnet_tiny", num_classes=10, in_chans=1)


@pytest.mark.parametrize("kind", FILES)
def test_weights_are_read_from_every_kind_of_file(kind: str, net: nn.Module, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path, net)
    state = read_weights(path)
    assert set(state) == set(net.state_dict())
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    twin = timm.create_model("tiedresnet_tiny", num_classes=10, in_chans=1)
    load_weights(twin, str(path))
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in net.state_dict().items())


def test_a_tasks_checkpoint_says_how_its_model_was_built(net: nn.Module, tmp_path: Path) -> None:
    _, arguments = read_checkpoint(by_lightning(tmp_path, net))
    assert (arguments["model"], arguments["num_classes"], arguments["in_chans"]) == ("tiedresnet_tiny", 10, 1)
    assert read_checkpoint(FILES["state dict"](tmp_path, net))[1] == {}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def foreign_lightning(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"pytorch-lightning_version": "2.6.0", "state_dict": state}


@pytest.mark.parametrize(
    "wrapped",
    [
        *(partial(prefixed, prefix) for prefix in ("module.", "_orig_mod.", "net.", "module._orig_mod.")),
        *(partial(prefixed, prefix) for prefix in ("_orig_mod.module.", "model.module.", "net._fsdp_wrapped_module.")),
        lambda state: foreign_lightning(prefixed("net.", state)),
        lambda state: foreign_lightning(prefixed("model._orig_mod.", state)),
        lambda state: foreign_lightning(prefixed("module.model.", state)),
        lambda state: {"state_dict": prefixed("module.", state)},
        lambda state: {"n_averaged": torch.tensor(3), **prefixed("module.", state)},  # torch's AveragedModel
        lambda state: {key.replace("layer1.", "layer1._orig_mod."): value for key, value in state.items()},
    ],
)
def test_what_wrappers_add_to_the_names_is_removed(
    wrapped: Callable[[dict[str, Tensor]], Any], net: nn.Module, tmp_path: Path
) -> None:
    path = saved(wrapped)(tmp_path, net)
    with pytest.warns(UserWarning, match=rf"^{path}: names are changed, such as \S+ to (conv1|layer1\.0)\S+: wrappers"):
        twin = build_model("tiedresnet_tiny", checkpoint=path)  # which reads the numbers of classes and channels too
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in net.state_dict().items())
    with pytest.warns(UserWarning, match="names are changed"):
        assert set(read_weights(path)) == set(net.state_dict())


@pytest.mark.parametrize("part", ["model", "module", "net"])
def test_a_network_may_itself_have_such_names(part: str, tmp_path: Path) -> None:
    for layers in ({part: nn.Linear(2, 3)}, {part: nn.Linear(2, 3), "head": nn.Linear(3, 4)}):
        net = nn.ModuleDict(layers)
        twin = copy.deepcopy(net)
        nn.init.zeros_(twin[part].weight)
        torch.save(net.state_dict(), tmp_path / "net.pth")
        load_weights(twin, tmp_path / "net.pth")
        assert torch.equal(twin[part].weight, net[part].weight)
        nn.init.zeros_(twin[part].weight)
        torch.save(prefixed("module.", net.state_dict()), tmp_path / "net.pth")
        with pytest.warns(UserWarning, match=rf"such as module\.{part}\.weight to {part}\.weight: wrappers"):
            load_weights(twin, tmp_path / "net.pth")
        assert torch.equal(twin[part].weight, net[part].weight)


def test_weights_are_loaded_into_a_wrapped_network(tmp_path: Path) -> None:
    net = nn.Linear(2, 3)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    wrapped = nn.ModuleDict({"_orig_mod": nn.Linear(2, 3)})
    with pytest.warns(UserWarning, match=r"such as weight to _orig_mod\.weight: wrappers"):
        load_weights(wrapped, tmp_path / "net.pth")
    assert torch.equal(wrapped["_orig_mod"].weight, net.weight)


def test_what_a_lightning_file_holds_beside_the_model_is_left_out_and_named(tmp_path: Path) -> None:
    net = nn.Linear(2, 3)
    torch.save(
        foreign_lightning({"loss.weight": torch.ones(3), **prefixed("model.", net.state_dict())}), tmp_path / "a.ckpt"
    )
    with pytest.warns(UserWarning, match=r"a\.ckpt: only what is under model is read, without loss\.weight and the"):
        load_weights(net, tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "content",
    [
        lambda raw, average: {"state_dict": raw, "state_dict_ema": average, "epoch": 9},  # timm
        lambda raw, average: {"model": raw, "model_ema": average},
        lambda raw, average: {"params": raw, "params_ema": average},
        lambda raw, average: {"model": raw, "ema": {"module": average, "updates": 3}},
        lambda raw, average: {
            **foreign_lightning(prefixed("model.", average)),
            "current_model_state": prefixed("model.", raw),
            "averaging_state": {"n_averaged": torch.tensor(3)},
        },
    ],
)
def test_a_moving_average_is_preferred(content: Callable[..., Any], tmp_path: Path) -> None:
    raw, average = nn.Linear(2, 3).state_dict(), nn.Linear(2, 3).state_dict()
    torch.save(content(raw, average), tmp_path / "net.pth")
    with pytest.warns(UserWarning, match=r"net\.pth: the moving average of the weights is read, not the weights after"):
        assert torch.equal(read_weights(tmp_path / "net.pth")["weight"], average["weight"])


def test_an_average_that_has_not_begun_is_not_read(tmp_path: Path) -> None:
    """Lightning writes what the training started from as the average."""
    task = ClassificationTask("tiedresnet_tiny", 10, 1)
    averaging = EMAWeightAveraging(update_starting_at_epoch=5)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[averaging])
    trainer.strategy.connect(task)
    averaging.setup(trainer, task, "fit")
    nn.init.ones_(task.model.fc.weight)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match=r"last\.ckpt: the weights after the last step are read, as their moving"):
        assert read_weights(tmp_path / "last.ckpt")["fc.weight"].eq(1).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            nn.Linear(2, 2),
            r"net\.pth is not a file of weights, or holds Python objects .* Give a checkpoint",
        ),
        ([torch.zeros(1)], r"net\.pth must hold a state dict, got a list\. Give a checkpoint"),
        (
            {"weight": torch.zeros(1), "lr": 0.1},
            r"must hold a state dict, but its entry 'lr' is a float\. Give a check",
        ),
    ],
)
def test_what_is_no_state_dict_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=f"^.*{message}"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"hello", b"\x00" * 100, b"."])
def test_a_file_of_something_else_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^.*net\.{suffix} (cannot be read: .*|is not a file of weights, )"):
        read_weights(path)


@pytest.mark.parametrize("kind", ["state dict", "safetensors"])
def test_a_file_that_was_cut_off_is_refused(kind: str, net: nn.Module, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path, net)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"^{path} cannot be read: .* Is the file whole\?"):
        read_weights(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}/net\.pth does not exist\. Give a checkpoint"):
        load_weights(nn.Linear(1, 1), tmp_path / "net.pth")


def test_weights_of_another_network_change_nothing(net: nn.Module, tmp_path: Path) -> None:
    path = FILES["state dict"](tmp_path, net)
    other = timm.create_model("resnet_tiny", num_classes=10, in_chans=1)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    message = r"this SmallResNet \(missing: \d+, such as layer1\.0.*; unknown: \d+, .*; of another shape: \d+, .*\)\.$"
    with pytest.raises(ValueError, match=rf"^{path} does not hold the weights of {message}"):
        load_weights(other, path)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("name", ["tiedresnet_tiny", "torchvision/resnet18", "torchvision/squeezenet1_1"])
def test_classes_of_another_number_are_named(name: str, tmp_path: Path) -> None:
    torch.save(build_model(name, num_classes=12).state_dict(), tmp_path / "net.pth")
    message = r"\. Only the classifier differs: the file has num_classes=12\. Build the model with as many\."
    with pytest.raises(ValueError, match=rf"of another shape: 2, such as [\w.]+\){message}"):
        load_weights(build_model(name, num_classes=10), tmp_path / "net.pth")


def test_where_more_than_the_classifier_differs_there_is_no_such_hint(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet_tiny", num_classes=12, in_chans=1).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"\(of another shape: 3, such as conv1\.weight\)\.$"):
        load_weights(timm.create_model("resnet_tiny", num_classes=10), tmp_path / "net.pth")


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    torch.save({k: v for k, v in net.state_dict().items() if "tracked" not in k}, tmp_path / "old.pth")
    twin = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    load_weights(twin, tmp_path / "old.pth")
    assert torch.equal(twin.get_submodule("0").weight, net.get_submodule("0").weight)


@pytest.mark.parametrize(
    "name", ["resnet18", "tiedresnet_tiny", "tresnet_m", "test_efficientnet", "mobilenetv3_small_100", "test_vit"]
)
@pytest.mark.parametrize(("num_classes", "in_chans"), [(7, 1), (1000, 3), (31, 4)])
def test_sizes_are_read_off_the_weights(name: str, num_classes: int, in_chans: int) -> None:
    with torch.device("meta"):
        like, model = timm.create_model(name), timm.create_model(name, num_classes=num_classes, in_chans=in_chans)
    assert sizes(like, model.state_dict()) == {"num_classes": num_classes, "in_chans": in_chans}


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "squeezenet1_1", "vit_b_16", "swin_t", "densenet121"])
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_classes_of_torchvisions_models_are_read_off_the_weights(name: str) -> None:
    with torch.device("meta"):
        like, model = build_model(f"torchvision/{name}"), build_model(f"torchvision/{name}", num_classes=7)
    assert sizes(like, model.state_dict()) == {"num_classes": 7}


def test_classes_of_a_tied_classifier_are_counted_in_all_blocks() -> None:
    net = nn.Sequential(nn.Linear(4, 8), TiedLinear(8, 10, blocks=2))
    assert classifiers(net) == ("1",)
    assert sizes(net, net.state_dict()) == {"num_classes": 10}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # torch tells that it looks
@pytest.mark.parametrize("odd", [torch.zeros(3, 2).to_sparse(), torch.zeros(3, 2, device="meta")])
def test_tensors_without_dense_values_are_refused(tmp_path, odd):
    torch.save({"weight": odd, "bias": torch.zeros(3)}, tmp_path / "odd.pth")
    layer = nn.Linear(2, 3)
    before = layer.bias.clone()
    with pytest.raises(ValueError, match=r"odd\.pth must hold dense tensors with values, but 'weight' is not one"):
        load_weights(layer, tmp_path / "odd.pth")
    assert torch.equal(layer.bias, before)


def test_keys_that_are_no_text_and_odd_arguments_are_refused(tmp_path):
    torch.save({1: torch.zeros(3)}, tmp_path / "keys.pth")
    with pytest.raises(ValueError, match=r"keys\.pth must hold a state dict, but its entry 1 is a Tensor"):
        read_weights(tmp_path / "keys.pth")
    given = {"optimization": {}, "model_kwargs": [1]}
    torch.save(
        {**foreign_lightning({"model.weight": torch.zeros(3)}), "hyper_parameters": given}, tmp_path / "task.ckpt"
    )
    with pytest.raises(ValueError, match=r"task\.ckpt has a list as model_kwargs"):
        read_weights(tmp_path / "task.ckpt")


@pytest.mark.parametrize("given", [argparse.Namespace(lr=0.1), {"backbone": "resnet18", "model": {"depth": 18}}, None])
def test_arguments_of_another_projects_module_are_not_taken_for_ours(
    given: Any, net: nn.Module, tmp_path: Path
) -> None:
    state = prefixed("model.", net.state_dict())
    torch.save({**foreign_lightning(state), "hyper_parameters": given}, tmp_path / "task.ckpt")
    twin = build_model("tiedresnet_tiny", checkpoint=tmp_path / "task.ckpt")
    assert torch.equal(twin.state_dict()["fc.weight"], net.state_dict()["fc.weight"])


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_an_empty_file_is_said_to_be_empty(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"net.{suffix}").touch()
    with pytest.raises(ValueError, match=rf"^.*/net\.{suffix} is empty\. Give a checkpoint"):
        read_weights(tmp_path / f"net.{suffix}")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_values_that_are_not_finite_are_refused_and_change_nothing(bad: float, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).double()
    net.get_submodule("1").running_var[1] = bad
    torch.save(net.state_dict(), tmp_path / "net.pth")
    twin = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    before = twin.get_submodule("0").weight.clone()
    with pytest.raises(ValueError, match=r"^.*/net\.pth has values in 1\.running_var that are not finite\. Give"):
        load_weights(twin, tmp_path / "net.pth")
    assert torch.equal(twin.get_submodule("0").weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_of_every_width_is_loaded(dtype: torch.dtype, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    # Averaging makes such numbers of the counters too.
    state = {key: value.to(dtype) for key, value in net.state_dict().items()}
    torch.save(state, tmp_path / "net.pth")
    twin = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    load_weights(twin, tmp_path / "net.pth")
    assert torch.equal(twin.get_submodule("0").weight, state["0.weight"].float())


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    net = nn.Linear(2, 3)
    torch.save({**net.state_dict(), "weight": net.weight.detach().to(dtype)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"\(of another kind of number: 1, such as weight\)\.$"):
        load_weights(net, tmp_path / "net.pth")


@pytest.mark.parametrize("average", [{"decay": 0.99}, {}, "not begun"])
def test_what_is_no_average_yet_leaves_the_weights(average: Any, net: nn.Module, tmp_path: Path) -> None:
    if average == "not begun":
        average = {"n_averaged": torch.tensor(0), **{f"module.{k}": v * 0 for k, v in net.state_dict().items()}}
    torch.save({"model": net.state_dict(), "ema": average}, tmp_path / "net.pth")
    read = read_weights(tmp_path / "net.pth")
    assert all(torch.equal(read[name], value) for name, value in net.state_dict().items())


def test_a_folder_is_not_a_file(net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save(net.state_dict(), tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(FileNotFoundError, match=r" is a folder\. Give a file in it, such as \S+last\.ckpt"):
        read_weights(tmp_path)
