"""What a folder or a repository of the Hub says about the model that is saved in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub

CONFIG, WEIGHTS = "config.json", "model.safetensors"
HUB = "hf-hub:"  # before the name of a repository
# Arguments that would read other files, or the network; others may have written the config.
_OTHER_SOURCES = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights"}
_WRITTEN = "Give a folder that save_pretrained or timm wrote."


def saved_folder(source: str, token: str | None = None) -> Path:
    """Return the folder with the files of ``source``, downloaded if it is a repository of the Hub."""
    if source.startswith(HUB):
        repo_id, _, revision = source.removeprefix(HUB).partition("@")
        files = huggingface_hub.snapshot_download(
            repo_id, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS], token=token
        )
        return Path(files)
    if not Path(source).is_dir():
        raise FileNotFoundError(f"there is no folder {source}. A repository of the Hub is called {HUB}<user>/<name>.")
    return Path(source)


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json`` as :func:`tiedconv.export.save_pretrained` or timm wrote it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {_WRITTEN}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. Save the model again.") from None
    entry = own_entry(config) if isinstance(config, dict) else None
    if (
        not isinstance(entry, dict)
        or not isinstance(config.get("architecture"), str)
        or entry.get("library", "") not in (None, "timm", "torchvision")
    ):
        raise ValueError(f"{path} does not describe a model. {_WRITTEN}")
    return config


def own_entry(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :func:`tiedconv.export.save_pretrained` adds to timm's format; timm itself adds nothing."""
    return config.get("tiedconv", {"library": "timm"})


def build_arguments(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of :func:`tiedconv.models.build_model`, without the name, for the model in ``config.json``.

    Raises:
        ValueError: if the model has no name, or an argument would fetch other weights.
    """
    name, entry = config["architecture"], own_entry(config)
    if entry["library"] is None:
        raise ValueError(
            f"{name} is a class of its own, which cannot be built by name. Give model=, an instance built as the saved "
            "one was."
        )
    kwargs = {**(entry.get("kwargs") or config.get("model_args") or {}), **changes}
    forbidden = sorted(_OTHER_SOURCES & set(kwargs))
    if forbidden:
        raise ValueError(
            f"{', '.join(forbidden)} must be set neither in {CONFIG} nor by the caller, as {WEIGHTS} has all weights. "
            "Leave it out."
        )
    if entry["library"] == "torchvision":
        return kwargs
    cfg = config.get("pretrained_cfg")
    if not isinstance(cfg, Mapping):
        raise ValueError(  # noqa: TRY004  the file is at fault, not an argument's type
            f'{CONFIG} has no "pretrained_cfg". Give one that timm >= 1.0 wrote.'
        )
    classes = config.get("num_classes", cfg.get("num_classes", 1000))
    return {"pretrained_cfg": {**cfg, "num_classes": classes}, "num_classes": classes, **kwargs}
