"""Weights of a trained classifier for the backbone of a detector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from .._checks import named
from ..models.weights import classifiers, describe_difference, read_weights


def pretrained_from(path: str | Path, name: str, model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with which ``timm.create_model(name, ...)`` starts from the weights in a file.

    Args:
        path: as :func:`tiedconv.models.read_weights` reads them.
        name: the timm model that the weights are of.
        model_kwargs: its other arguments.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds more than weights, or those of another network; the classifier's last layer may
            be of any size.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"pretrained_from: {path} does not exist. Give a classifier's checkpoint.")
    with torch.device("meta"):
        classifier = timm.create_model(name, **model_kwargs)
    with named("pretrained_from"):
        state = read_weights(path, classifier)
    heads = tuple(f"{layer}." for layer in classifiers(classifier))
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    expected = {key: value for key, value in classifier.state_dict().items() if not key.startswith(heads)}
    difference = describe_difference(expected, state)
    if difference:
        raise ValueError(f"pretrained_from: {path} does not hold the weights of {name} ({difference}).")
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}
