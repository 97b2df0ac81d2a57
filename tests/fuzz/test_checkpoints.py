"""Files of weights and folders of models after an accident: the weights, or a refusal that names the file."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import strategies as st
from safetensors.torch import save
from tests.fuzz.cases import JUNK, attempt, damaged, fuzz, mutated
from torch import nn

from tiedconv.export import from_pretrained, save_pretrained
from tiedconv.models import load_weights
from tiedconv.models.weights import read_checkpoint


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


STATE = network().state_dict()
LIGHTNING = {
    "pytorch-lightning_version": "2.5.0",
    "state_dict": {f"model.{key}": value for key, value in STATE.items()},
    "hyper_parameters": {"model": "resnet18", "num_classes": 2, "optimization": {}},
}
FILES = {
    "state.pt": saved(STATE),
    "old.pth": saved(STATE, _use_new_zipfile_serialization=False),
    "last.ckpt": saved(LIGHTNING),
    "model.safetensors": save(STATE),
}


class Rich:
    """An object that a state dict must not hold."""


OTHERS = [
    pickle.dumps(STATE["0.weight"].tolist()), pickle.dumps(Rich), saved([1, 2]), saved(None), saved({"a": 1}),
    saved({}),
    saved({"state_dict": {"a": None}}), saved({1: torch.ones(1)}), saved({"model": network()}), saved(torch.ones(2)),
    saved({"state_dict": {}, "pytorch-lightning_version": "1"}), b"not a checkpoint", b"PK\x03\x04", b"\x80\x02.",
    saved({**LIGHTNING, "hyper_parameters": [1]}), saved({**LIGHTNING, "hyper_parameters": "x"}),
    saved({**LIGHTNING, "state_dict": {3: torch.ones(1)}}), saved({**STATE, "0.weight": STATE["0.weight"].to_sparse()}),
    saved({**STATE, "0.weight": STATE["0.weight"].to("meta")}), saved({**STATE, "0.weight": STATE["0.weight"][None]}),
    saved({**STATE, "0.weight": STATE["0.weight"].to(torch.complex64)}),
    (200).to_bytes(8, "little") + b"{}", (2**62).to_bytes(8, "little") + b"{}", bytes(8),
]  # fmt: skip


@st.composite
def zipped(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a checkpoint whose archive is whole and whose members are not."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        victim = draw(st.sampled_from(old.namelist()))
        for name in old.namelist():
            data = old.read(name)
            if name == victim:
                if draw(st.integers(0, 3)) == 0:
                    continue
                data = draw(damaged(data)) if data else b"x"
            new.writestr(name, data)
    return buffer.getvalue()


@st.composite
def checkpoints(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(list(FILES)))
    what = draw(st.sampled_from(["damaged", "damaged", "zipped", "other", "suffix"]))
    content = FILES[name]
    if what == "other":
        return name, draw(st.sampled_from(OTHERS))
    if what == "suffix":
        return name, FILES[draw(st.sampled_from(list(FILES)))]
    if what == "zipped" and zipfile.is_zipfile(io.BytesIO(content)):
        return name, draw(zipped(content))
    return name, draw(damaged(content))


@fuzz(80, file=checkpoints())
def test_a_checkpoint_is_read_or_named(tmp_path, file):
    name, content = file
    path = tmp_path / name
    path.write_bytes(content)
    found, error = attempt(lambda: read_checkpoint(path), name)
    if error is None:
        state, arguments = found
        assert all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items())
        assert isinstance(arguments, dict)
    model = network()
    _, refused = attempt(lambda: load_weights(model, path), name)
    if error is not None or refused is not None:  # all of the weights or none
        assert refused is not None
        assert all(torch.equal(value, STATE[key]) for key, value in model.state_dict().items())
    elif found[0].keys() == STATE.keys():
        same = [
            torch.equal(value.to(STATE[key].dtype), found[0][key].to(STATE[key].dtype))
            for key, value in model.state_dict().items()
        ]
        assert all(same) or any(v.is_floating_point() and v.isnan().any() for v in found[0].values())


PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "m."]
PLACES = ["state_dict", "state_dict_ema", "model", "model_ema", "ema", "net", "params", "current_model_state"]
PLACES += ["averaging_state", "pytorch-lightning_version", "hyper_parameters"]


@st.composite
def wrapped(draw: st.DrawFn) -> Any:
    """Draw what another training could have saved: prefixes of all or some names, averages, and junk beside them."""

    def state() -> dict[str, Any]:
        prefix, part = "".join(draw(st.lists(st.sampled_from(PREFIXES), max_size=3))), draw(st.sampled_from("  013"))
        named = {key if key[0] == part else prefix + key: value for key, value in STATE.items()}
        return {
            **named,
            **draw(st.sampled_from([{}, {}, {"n_averaged": torch.tensor(2)}, {"loss.weight": torch.ones(1)}])),
        }

    odd = [
        None,
        {},
        [1],
        "x",
        {"a": 1},
        {"n_averaged": torch.tensor([0, 1])},
        {"n_averaged": torch.tensor(0)},
        STATE["0.bias"],
    ]
    what = st.sampled_from(["state", "state", "nested", "odd"])
    made = {"state": state, "nested": lambda: {"module": state(), "n": 1}, "odd": lambda: draw(st.sampled_from(odd))}
    keys = draw(st.lists(st.sampled_from(PLACES), max_size=4, unique=True))
    return {key: made[draw(what)]() for key in keys} if keys else state()


@fuzz(60, content=wrapped())
def test_weights_of_another_training_are_loaded_or_refused(tmp_path, content):
    path = tmp_path / "net.pth"
    torch.save(content, path)
    model = network().apply(lambda layer: [nn.init.zeros_(parameter) for parameter in layer.parameters()])
    _, error = attempt(lambda: load_weights(model, path), "net.pth")
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, STATE[key] if error is None else torch.zeros_like(parameter))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders as ``save_pretrained`` writes them, of a tied model and of one that ``tie_`` tied."""
    import tiedconv

    parent = tmp_path_factory.mktemp("models")
    tied = timm.create_model("resnet_tiny", num_classes=3, in_chans=1, base_width=16)
    tiedconv.tie_(tied, blocks=2, example_inputs=torch.zeros(1, 1, 16, 16))
    plain = timm.create_model("tiedresnet_tiny", num_classes=3)
    save_pretrained(tied, parent / "tied", model_args={"base_width": 16})
    return [parent / "tied", save_pretrained(plain, parent / "plain")]


SMALL_JUNK = [value for value in JUNK if not (isinstance(value, int) and value > 10)]
CONFIG_TEXTS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"{}",
    b'{"architecture": "tiedresnet_tiny"}',
    b"[" * 20_000,
    b"\xff\xfe",
]
CONFIG_TEXTS += [
    b'{"architecture": "tiedresnet_tiny", "pretrained_cfg": {}}',
    b'{"architecture": 7, "pretrained_cfg": {}}',
]


def put(folder: Path, source: Path, **files: bytes | None) -> Path:
    for name in ("config.json", "model.safetensors"):
        content = files.get(name.partition(".")[0], b"")
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content or (source / name).read_bytes())
    return folder


@fuzz(16, number=st.integers(0, 1), data=st.data())
def test_a_folder_with_another_config_is_read_or_refused(tmp_path, folders, number, data):
    config = json.loads((folders[number] / "config.json").read_text())
    text = data.draw(
        st.one_of(
            mutated(config, SMALL_JUNK).map(lambda c: json.dumps(c).encode()),
            mutated(config, SMALL_JUNK).map(lambda c: json.dumps(c).encode()),
            damaged(json.dumps(config).encode()),
            st.sampled_from(CONFIG_TEXTS),
        )
    )
    folder = put(tmp_path, folders[number])
    (folder / "config.json").write_bytes(text)
    model, error = attempt(lambda: from_pretrained(folder), "from_pretrained", "config", "tie_")
    if error is None:
        assert isinstance(model, nn.Module)
        assert not model.training


@fuzz(6, number=st.integers(0, 1), data=st.data())
def test_a_folder_with_other_weights_is_read_or_refused(tmp_path, folders, number, data):
    content = (folders[number] / "model.safetensors").read_bytes()
    weights = data.draw(
        st.one_of(damaged(content[:4000]), damaged(content), st.sampled_from([*FILES.values(), None, b"x"]))
    )
    folder = put(tmp_path, folders[number], model=weights)
    model, error = attempt(lambda: from_pretrained(folder), "model.safetensors")
    assert error is not None or not model.training
