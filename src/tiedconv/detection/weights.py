"""Weights of a trained classifier for the backbone of a detector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor


def pretrained_from(path: str | Path, name: str, model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with which ``timm.create_model(name, ...)`` starts from the weights in a file.

    Args:
        path: a checkpoint of ``tiedconv fit``, a state dict of the timm model saved by ``torch.save``, or the same as
            ``.safetensors``.
        name: the timm model that the weights are of.
        model_kwargs: its other arguments.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds the weights of another network; the classifier's last layer may be of any size.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"pretrained_from: {path} does not exist. Give a classifier's checkpoint.")
    state = _read(path)
    with torch.device("meta"):
        classifier: Any = timm.create_model(name, **model_kwargs)
    last = classifier.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{layer}." for layer in ([last] if isinstance(last, str) else last))
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    expected = {key: value.shape for key, value in classifier.state_dict().items() if not key.startswith(heads)}
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    reshaped = [key for key in expected if key in state and state[key].shape != expected[key]]
    if missing or unknown or reshaped:
        listed = "; ".join(
            f"{what}: {len(keys)}, such as {keys[0]}"
            for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", reshaped))
            if keys
        )
        raise ValueError(f"pretrained_from: {path} does not hold the weights of {name} ({listed}).")
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(  # noqa: TRY004  the file is at fault, not an argument's type
            f"pretrained_from: {path} must hold a state dict, got a {type(content).__name__}."
        )
    if "state_dict" in content:  # Lightning's checkpoint of a task, which keeps the network under "model"
        content = {
            key.removeprefix("model."): value
            for key, value in content["state_dict"].items()
            if key.startswith("model.")
        }
    return dict(content)
