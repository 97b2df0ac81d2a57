"""``tiedconv export``."""

import copy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from .._extras import require
from .._files import check_writable
from .._meta import on_meta
from ..bench._timer import interleaved
from ..convert import untie_
from ..data import ClassificationData
from ..export import ExportedFile, open_onnx, quantize_onnx, to_onnx, to_program
from ..export.quantize import top1
from ..models.named import TORCHVISION
from ._console import table_console
from ._models import input_size as made_for
from ._models import is_random, load_model

CALIBRATION_IMAGES = 256


def export(
    model: str,
    output: Path,
    format: Literal["onnx", "torch-export", "safetensors"] = "onnx",
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool = False,
    input_size: str | list[int] = "",
    dynamic_size: bool = True,
    batch_size: int | None = None,
    untie: bool = False,
    int8: bool = False,
    data: ClassificationData | None = None,
    rounds: int = 20,
) -> None:
    """Write a model to a file for other programs, and check there that it computes the same.

    ONNX files and programs of torch.export are loaded again and given random images of several numbers and sizes;
    where the outputs differ, there is an error and no file. Tied filters are stored once in every format.

    Args:
        model: name of a timm model, tied or not, torchvision/<name>, a folder that an export to safetensors wrote, or
            hf-hub:<repository>.
        output: a file that ends in .onnx for onnx and .pt2 for torch-export; a folder for safetensors.
        format: onnx; torch-export, a program for torch.export.load; safetensors, weights and config.json in a folder
            that loads by its name.
        checkpoint: weights to load, such as a last.ckpt of `tiedconv fit`.
        num_classes: classes of the model. Default: those of the checkpoint.
        in_chans: channels of an image. Default: those of the checkpoint.
        pretrained: load the library's weights.
        input_size: channels,height,width of an image. Default: those of the data, or what the model is for.
        dynamic_size: images may have any height and width; false for models that have one size, such as ViT.
        batch_size: the only number of images that the file takes. Default: any.
        untie: write tied filters out for each block: a larger file, in which runtimes can fuse more.
        int8: write also <output>.int8.onnx, with integers of 8 bits, and print top-1 accuracy on the validation images
            and speed of both files on this CPU.
        data: for int8, a data module such as Digits, FashionMNIST or ImageFolder: calibration on training images.
        rounds: for int8, measured calls of both files, in turns.
    """
    _check(format, output, untie, int8, data, batch_size, rounds)
    _check_kept(checkpoint, output, int8)
    given = {"num_classes": num_classes, "in_chans": in_chans, "pretrained": pretrained or None}
    kwargs = {name: value for name, value in given.items() if value is not None}
    network = load_model(model, checkpoint, **kwargs)
    console = table_console()
    if is_random(model, checkpoint, kwargs):
        console.print(f"{model} has random weights. --checkpoint or --pretrained loads others.", markup=False)
    if format == "safetensors":
        from ..export.hub import save_pretrained

        save_pretrained(network, output, architecture=model if model.startswith(TORCHVISION) else None)
        console.print(_table(network, output, sum(file.stat().st_size for file in output.iterdir()), None))
        return
    size = _size(input_size) or (data.input_size if data else made_for(network))
    if data:
        data.prepare_data()
        _check_fits(network, data, size)
    write = to_onnx if format == "onnx" else to_program
    written = copy.deepcopy(network)
    if untie:
        untie_(written)
    file = write(written, output, input_size=size, dynamic_size=dynamic_size, batch_size=batch_size)
    console.print(_table(network, file.path, file.bytes, file))
    if data:
        _int8(console, file.path, data, rounds)


def _check(
    format: str,
    output: Path,
    untie: bool,
    int8: bool,
    data: ClassificationData | None,
    batch_size: int | None,
    rounds: int,
) -> None:
    """Check what needs no model, before one is loaded."""
    if untie and format == "safetensors":
        raise ValueError("export: safetensors holds the model that its name builds. Leave --untie out.")
    if int8 and format != "onnx":
        raise ValueError(f"export: int8 is for --format onnx, got {format}. Leave one of them out.")
    if int8 and data is None:
        raise ValueError("export: int8 is calibrated on images. Give --data, such as --data Digits.")
    if data is not None and not int8:
        raise ValueError(f"export: data is for --int8, got {type(data).__name__}. Add --int8 or leave --data out.")
    if int8 and batch_size is not None:
        raise ValueError(f"export: int8 runs on batches of any size, got batch_size={batch_size}. Leave it out.")
    if rounds < 2:
        raise ValueError(f"export: rounds must be at least 2, for a spread, got rounds={rounds}.")
    if format == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, extra="export")  # before an hour of loading
    if format != "safetensors":
        check_writable("output", output, who="export")


def _check_kept(checkpoint: Path | None, output: Path, int8: bool) -> None:
    """Check that no file is written over the one that the weights are read from."""
    for written in [output, *([_int8_path(output)] if int8 else [])]:
        if checkpoint is not None and checkpoint.exists() and written.exists() and written.samefile(checkpoint):
            raise ValueError(
                f"export: {written} would be written over --checkpoint {checkpoint}. Give another --output."
            )


def _int8_path(output: Path) -> Path:
    return output.with_suffix(".int8.onnx")


def _size(given: str | list[int]) -> tuple[int, ...]:
    try:
        size = tuple(int(n) for n in (filter(None, given.split(",")) if isinstance(given, str) else given))
    except ValueError:
        size = (0,)
    if size and (len(size) != 3 or min(size) < 1):
        raise ValueError(f"export: input_size must be channels,height,width, such as 3,224,224, got {given!r}.")
    return size


def _check_fits(model: nn.Module, data: ClassificationData, size: tuple[int, ...]) -> None:
    if tuple(size) != tuple(data.input_size):
        raise ValueError(
            f"export: input_size={','.join(map(str, size))}, but {type(data).__name__} has images of "
            f"{','.join(map(str, data.input_size))}. Leave --input_size out, or set the data's size."
        )
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), size[0])
    if channels != size[0]:
        raise ValueError(
            f"export: the model takes images of {channels} channels, {type(data).__name__} has {size[0]}. Give the "
            f"checkpoint of a model trained on these data, or --in_chans {size[0]}."
        )
    with torch.no_grad():
        outputs = model(torch.zeros(1, *size)).shape[-1]
    if outputs != data.num_classes:
        raise ValueError(
            f"export: the model has {outputs} outputs, {type(data).__name__} has {data.num_classes} classes. Give the "
            f"checkpoint of a model trained on these data, or --num_classes {data.num_classes}."
        )


def _int8(console: Console, path: Path, data: ClassificationData, rounds: int) -> None:
    """Write the int8 twin and print both files' size, accuracy and speed."""
    images_for_scales = data.training_images(CALIBRATION_IMAGES)
    small = quantize_onnx(path, images_for_scales, _int8_path(path))
    files = {"float32": path, "int8": small}
    images, _ = next(iter(data.val_dataloader()))
    times = interleaved({name: partial(open_onnx(file), images) for name, file in files.items()}, rounds=rounds)
    table = Table(
        title=f"{type(data).__name__}, {len(data.split(train=False))} validation images",  # type: ignore[arg-type]
        caption=f"batches of {len(images)}, threads {torch.get_num_threads()}; median ± half the interquartile range",
        box=SIMPLE,
    )
    table.add_column("file")
    for header in ("", "MB", "top-1 %", "images/s", "x float32"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, file in files.items():
        rate, ratio = len(images) / times[name].median, times[name].speedup_over(times["float32"])
        table.add_row(
            str(file),
            name,
            _mb(file.stat().st_size),
            f"{100 * top1(file, data.val_dataloader()):.2f}",
            f"{rate:.0f} ±{rate * times[name].spread / times[name].median:.0f}",
            f"{ratio.median:.2f} ±{ratio.spread:.2f}",
        )
    console.print(table)


def _table(model: nn.Module, path: Path, size: int, checked: ExportedFile | None) -> Table:
    """Say how large the file is, beside the weights of the model and of its twins without ties, and how exact."""
    caption = "MB of the file and of parameters: the model's, with filters for each block (untied), of a dense network"
    table = Table(caption=caption, box=SIMPLE)
    table.add_column("file")
    for header in ("MB", "parameters", "untied", "dense", "error", "of largest", "images checked"):
        table.add_column(header, justify="right", no_wrap=True)
    errors = ("-", "-", "-")
    if checked:
        shapes = "\n".join("x".join(map(str, shape)) for shape in checked.shapes)
        errors = (f"{checked.max_abs_error:.1e}", f"{checked.max_rel_error:.1e}", shapes)
    weights = [_parameter_bytes(twin) for twin in (model, _untied(model, "grouped"), _untied(model, "dense"))]
    table.add_row(str(path), _mb(size), *map(_mb, weights), *errors)
    return table


def _untied(model: nn.Module, form: Any) -> nn.Module:
    twin = on_meta(model)
    untie_(twin, form)
    return twin


def _parameter_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f}"
