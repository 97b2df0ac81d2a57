"""Models saved to a folder or the Hugging Face Hub, in timm's format."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from .._checks import named
from ..convert.placement import TIED
from ..models import build_model
from ..models.named import TORCHVISION, tie_as_saved
from ..models.saved import CONFIG, HUB, WEIGHTS, build_arguments
from ..models.weights import describe_difference, sizes
from ._card import model_card
from .program import whole

_CARD = "README.md"
_TIED: Any = tuple(TIED.values())


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    architecture: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    dataset: str | None = None,
    license: str | None = None,
) -> Path:
    """Save a model to a folder: ``config.json`` in timm's format, ``model.safetensors`` and a card, ``README.md``.

    A model of timm or of this library loads by ``timm.create_model("local-dir:<folder>", pretrained=True)``. One with
    layers that :func:`tiedconv.tie_` replaced loads by :func:`tiedconv.export.from_pretrained`; ``config.json`` has
    their blocks under ``"tiedconv"``. A network of your own class loads into an instance that you build. Dropout rates
    are not saved.

    Args:
        model: on any device, in any memory format; it stays untouched.
        folder: where. An older model there is replaced as a whole; a folder with other files is refused.
        architecture: ``"torchvision/<name>"`` for a model of torchvision, which does not know its name.
        model_args: the arguments that the model was built with, if they cannot be read off it; for torchvision's models
            all but ``num_classes``.
        metrics: accuracies for the card, such as ``{"top1": 0.93}``.
        dataset: what the model was trained on, for the card; ``"<user>/<name>"`` is linked on the Hub.
        license: of the weights, in the Hub's words. Default: timm's for its models, BSD-3-Clause for torchvision's,
            else MIT.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder holds other files, or the model is not what its name and arguments build.
    """
    card = {"metrics": metrics, "dataset": dataset, "license": license}
    return _save(model, Path(folder), Path(folder).absolute().name, architecture, model_args, **card)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Add model",
    keep_card: bool = False,
    **options: Any,
) -> str:
    """Upload to a repository of the Hub what :func:`save_pretrained` writes.

    Args:
        model: as in :func:`save_pretrained`.
        repo_id: ``"<user>/<name>"``; created if it does not exist.
        private: whether a repository that is created is private.
        token: for the Hub. Default: that of ``hf auth login``.
        commit_message: of the one commit.
        keep_card: keep the repository's own ``README.md``, if it has one.
        options: ``architecture``, ``model_args``, ``metrics``, ``dataset`` and ``license`` of :func:`save_pretrained`.

    Returns:
        The address of the repository.

    Raises:
        ValueError: as :func:`save_pretrained`; nothing is uploaded or created then.
    """
    with TemporaryDirectory() as parent:
        folder = _save(model, Path(parent) / "model", HUB + repo_id, **options)
        api = huggingface_hub.HfApi(token=token, library_name="tiedconv")
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        kept = [_CARD] if keep_card and api.file_exists(repository.repo_id, _CARD) else None
        api.upload_folder(
            repo_id=repository.repo_id, folder_path=folder, commit_message=commit_message, ignore_patterns=kept
        )
    return str(repository)


def _save(
    model: nn.Module,
    folder: Path,
    source: str,
    architecture: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    **card: Any,
) -> Path:
    folder = folder.absolute()  # "." has a name too
    _check_replaceable(folder)
    state = _state(model)
    config = _describe(model, architecture, dict(model_args or {}))
    text = model_card(model, config, source, **card)
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / WEIGHTS) as part:
        save_file(state, part, metadata={"format": "pt"})
        part.with_name(CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        part.with_name(_CARD).write_text(text, encoding="utf-8")
    return folder


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"save_pretrained: {folder} is a file. Give another folder.")
    # Hidden ones may stay: .git of a repository, and what a kill left of an older attempt.
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if others := [name for name in names if name not in (CONFIG, WEIGHTS, _CARD)]:
        raise ValueError(f"save_pretrained: {folder} holds other files, such as {others[0]}. Give another folder.")


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the weights: safetensors takes neither tensors that share memory nor channels_last ones."""
    state = model.state_dict()
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or value.is_meta or value.layout != torch.strided:
            raise ValueError(f"save_pretrained: {key} is not a tensor with values, and cannot be saved.")
        state[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return state


def _describe(model: nn.Module, architecture: str | None, model_args: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``config.json``, and check that it builds this model."""
    kind, of_torchvision = type(model).__name__, type(model).__module__.startswith("torchvision.models.")
    tied = {name: m.blocks for name, m in model.named_modules() if isinstance(m, _TIED) and m.blocks > 1}
    if of_torchvision:
        if architecture is None or not architecture.startswith(TORCHVISION):
            raise ValueError(
                f"save_pretrained: a {kind} of torchvision does not know which model it is. Give "
                f'architecture="{TORCHVISION}<name>".'
            )
        kwargs = {**sizes(model, model.state_dict()), **model_args}
        entry = {"library": "torchvision", "kwargs": kwargs, "tied": {}}
        config: dict[str, Any] = {"architecture": architecture, "tiedconv": entry}
        if hasattr(model, "pretrained_cfg"):  # of the data that it was trained on
            config["pretrained_cfg"] = model.pretrained_cfg
    elif architecture is not None:
        raise ValueError(
            f"save_pretrained: architecture={architecture!r} is for models of torchvision, got a {kind}. Leave it out."
        )
    elif hasattr(model, "pretrained_cfg") and hasattr(model, "num_classes"):
        config = _timm_config(model, model_args)
    else:
        return {"architecture": kind, "tiedconv": {"library": None, "kwargs": {}, "tied": tied}}
    with named("save_pretrained"):
        arguments = build_arguments(config, {})
    with torch.device("meta"):
        like = build_model(config["architecture"], **arguments)
    built = dict(like.named_modules())  # with the tied layers of the architecture itself
    tied = {name: blocks for name, blocks in tied.items() if name in built and not isinstance(built[name], _TIED)}
    if tied:
        config.setdefault("tiedconv", {"library": "timm", "kwargs": {}})["tied"] = tied
        tie_as_saved(like, tied)
    difference = describe_difference(like.state_dict(), model.state_dict())
    if difference:
        name = config["architecture"]
        raise ValueError(
            f"save_pretrained: the model is not what {name} builds ({difference}). Give the arguments that it was "
            "built with as model_args; in place of a deployed or untied model, save the one that it came from."
        )
    return config


@named("save_pretrained")
def _timm_config(model: nn.Module, model_args: dict[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG
        save_config_for_hf(model, str(path), model_args=model_args)
        config = json.loads(path.read_text(encoding="utf-8"))
    # transformers passes num_classes to timm beside these arguments.
    config.get("model_args", {}).pop("num_classes", None)
    return config
