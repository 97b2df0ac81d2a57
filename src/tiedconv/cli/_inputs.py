"""What the ``analyze`` commands are given: models, photos, an output folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._extras import require
from .._files import check_writable
from ..data.base import ImageFiles
from ..models import build_model
from ..models.inputs import eval_transform, input_size
from ..models.named import is_random
from ..report.page import Origin
from ._console import command_line


@dataclass(frozen=True)
class Given:
    """A model that a command was given."""

    label: str
    model: nn.Module
    weights: str  # as in Origin

    def photos(self, path: Path) -> ImageFiles:
        """Return the photos as the model is evaluated on them."""
        return ImageFiles(path, eval_transform(self.model), channels=input_size(self.model)[0])


def load(names: Sequence[str], checkpoints: Sequence[Path | None], pretrained: bool) -> list[Given]:
    """Load every model, so that a mistake in the last one comes to light before anything is computed."""
    files = checkpoints or [None] * len(names)
    if len(files) != len(names):
        raise ValueError(
            f"got {len(names)} models and {len(files)} checkpoints. Give one per model, separated by "
            "commas; an empty one stands for none."
        )
    pairs = list(zip(names, files, strict=True))
    labels = [f"{name}, {path.stem}" if path and names.count(name) > 1 else name for name, path in pairs]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two models would both be called {label!r}. Name each once.")
    torch.manual_seed(0)  # what is drawn is the same at every call
    given = []
    for label, (name, path) in zip(labels, pairs, strict=True):
        library = pretrained and path is None
        weights = str(path) if path else "random" if is_random(name, path, library) else "pretrained"
        model = build_model(name, checkpoint=path, pretrained=library).eval()
        given.append(Given(label, model, weights))
    return given


def check_output(output: Path, limit: int, files: Sequence[str]) -> None:
    """Check what can be checked before models are loaded."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got limit={limit}.")
    require("matplotlib", extra="analysis")
    for file in ("report.html", *files):
        check_writable("output", output / file)


def origin(given: Sequence[Given], **settings: Any) -> Origin:
    """Return what a report on these models was made with."""
    return Origin(command_line(), {entry.label: entry.weights for entry in given}, settings)
