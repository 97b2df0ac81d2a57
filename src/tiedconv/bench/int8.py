"""Accuracy and speed of an exported classifier beside its int8 twin."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import ClassificationData
from ..export import ExportedFile, Layout
from ..export.formats import ENGINES, Format, int8_path
from ..export.quantize import load_nncf
from .timer import Progress, Quartiles, interleaved

CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class FileRow:
    """Measurements of one file on validation images.

    Attributes:
        name: ``"float32"`` or ``"int8"``.
        file: the file.
        batch: images per call.
        top1: share of the validation images that are classified correctly, 0-1.
        images_per_s: of calls that take turns with the other file's.
        speedup: how many times as fast as the float32 file, round by round.
    """

    name: str
    file: ExportedFile
    batch: int
    top1: float
    images_per_s: Quartiles
    speedup: Quartiles


def check_int8(
    format: Format,
    layout: Layout,
    data: ClassificationData | None,
    *,
    dynamic_size: bool = True,
    batch_size: int | None = None,
    rounds: int = 20,
) -> None:
    """Raise unless an int8 file can be made and measured with these arguments, as far as no model is needed for that.

    Raises:
        ModuleNotFoundError: if the package that quantizes is not installed.
        ValueError: if an argument is out of range or does not go with the others.
    """
    if format not in ENGINES:
        raise ValueError(f"int8 is for --format onnx or openvino, got {format}. Leave one of them out.")
    if data is None:
        raise ValueError("int8 is calibrated on images. Give --data, such as --data Digits.")
    if format == "openvino" and layout == "thin" and dynamic_size:
        raise ValueError(
            "OpenVINO computes int8 networks in the thin layout wrongly for images of any size. Give --layout fast, or "
            "--dynamic_size false."
        )
    if batch_size is not None:
        raise ValueError(f"int8 runs on batches of any size, got batch_size={batch_size}. Leave it out.")
    if rounds < 2:
        raise ValueError(f"rounds must be at least 2, for a spread, got rounds={rounds}.")
    if format == "openvino":
        load_nncf()


def check_fits(model: nn.Module, data: ClassificationData, input_size: Sequence[int]) -> None:
    """Raise ValueError unless the images and classes of ``data`` fit a classifier for images (C, H, W)."""
    channels, name = data.input_size[0], type(data).__name__
    if tuple(input_size) != tuple(data.input_size):
        given, own = (",".join(map(str, size)) for size in (input_size, data.input_size))
        raise ValueError(
            f"input_size={given}, but {name} has images of {own}. Leave --input_size out, or set the data's size."
        )
    expected = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), channels)
    if expected != channels:
        raise ValueError(
            f"the model takes images of {expected} channels, {name} has {channels}. Give the checkpoint of a model "
            f"trained on these data, or --in_chans {channels}."
        )
    with torch.no_grad():
        outputs = model(torch.zeros(1, *input_size)).shape[-1]
    if outputs != data.num_classes:
        raise ValueError(
            f"the model has {outputs} outputs, {name} has {data.num_classes} classes. Give the checkpoint of a model "
            f"trained on these data, or --num_classes {data.num_classes}."
        )


def compare_int8(
    file: ExportedFile,
    format: Format,
    data: ClassificationData,
    *,
    rounds: int = 20,
    progress: Progress = lambda *_: None,
) -> tuple[FileRow, FileRow]:
    """Write the int8 twin of a float32 file beside it, and measure both on validation images.

    Args:
        file: as written by :func:`tiedconv.export.to_onnx` or :func:`tiedconv.export.to_openvino`.
        format: ``"onnx"`` or ``"openvino"``.
        data: its training images calibrate the int8 file (256, or all if there are fewer).
        rounds: measured calls of both files, in turns.
        progress: told what is being done.

    Returns:
        The float32 file and the int8 one.

    Raises:
        RuntimeError: as :func:`tiedconv.export.quantize_onnx`.
    """
    engine = ENGINES[format]
    progress("calibrating the int8 file", 0, None)
    small = engine.quantize(file.path, data.training_images(CALIBRATION_IMAGES), int8_path(file.path))
    files = {"float32": file, "int8": small}
    runs = {name: engine.open(written.path) for name, written in files.items()}
    images, _ = next(iter(data.val_dataloader()))
    times = interleaved(
        {name: partial(run, images) for name, run in runs.items()},
        rounds=rounds,
        progress=partial(progress, "timing both files"),
    )
    float32, int8 = (
        FileRow(
            name,
            files[name],
            len(images),
            top1(run, _shown(data.val_dataloader(), f"classifying with {name}", progress)),
            times[name].rate(len(images)),
            times[name].speedup_over(times["float32"]),
        )
        for name, run in runs.items()
    )
    return float32, int8


def _shown(loader: DataLoader[Any], what: str, progress: Progress) -> Iterator[Any]:
    for done, batch in enumerate(loader):
        progress(what, done, len(loader))
        yield batch


def top1(run: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of images, 0-1, that a classifier gives their own class.

    Args:
        run: a network, or what :func:`tiedconv.export.open_onnx` and :func:`tiedconv.export.open_openvino` return.
        batches: images (N, C, H, W) with their classes (N).
    """
    hits = torch.cat([run(images).argmax(1) == classes for images, classes in batches])
    return hits.float().mean().item()
