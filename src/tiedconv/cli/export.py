"""``tiedconv export``."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from .._files import check_writable
from ..bench.timer import interleaved
from ..data import ClassificationData
from ..export import (
    ExportedFile,
    Layout,
    deploy,
    open_onnx,
    open_openvino,
    quantize_onnx,
    quantize_openvino,
    save_pretrained,
    to_onnx,
    to_openvino,
    to_program,
    weight_bytes,
)
from ..export.onnx_files import check_onnx_installed
from ..export.openvino_files import check_openvino_installed
from ..export.quantize import load_nncf, top1
from ..models import build_model
from ..models.inputs import input_size as made_for
from ..models.named import TORCHVISION, is_random
from ._console import table_console

CALIBRATION_IMAGES = 256


class _Engine(NamedTuple):
    """What writes, quantizes and runs the files of a format, and checks that all for it is installed."""

    check_installed: Callable[[], None]
    write: Callable[..., ExportedFile]
    quantize: Callable[..., ExportedFile]
    open: Callable[[Path], Callable[[Tensor], Tensor]]


_ENGINES = {
    "onnx": _Engine(check_onnx_installed, to_onnx, quantize_onnx, open_onnx),
    "openvino": _Engine(check_openvino_installed, to_openvino, quantize_openvino, open_openvino),
}


def export(
    model: str,
    output: Path,
    format: Literal["onnx", "openvino", "torch-export", "safetensors"] = "onnx",
    layout: Layout | None = None,
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool = False,
    input_size: str | list[int] = "",
    dynamic_size: bool = True,
    batch_size: int | None = None,
    int8: bool = False,
    data: ClassificationData | None = None,
    rounds: int = 20,
) -> None:
    """Write a model to a file for other programs, and check there that it computes the same.

    Files of ONNX and OpenVINO and programs of torch.export are loaded again and given random images of several numbers
    and sizes; where the outputs differ, there is an error and no file.

    Args:
        model: name of a timm model, tied or not, torchvision/<name>, a folder that an export to safetensors wrote, or
            hf-hub:<repository>.
        output: a file that ends in .onnx for onnx, .xml for openvino and .pt2 for torch-export; a folder for
            safetensors.
        format: onnx; openvino, an .xml with its weights in a .bin beside it; torch-export, a program for
            torch.export.load; safetensors, weights and config.json in a folder that loads by its name.
        layout: fast, ordinary layers that engines run fastest, in a larger file; thin, tied filters stored once, in
            the smallest file. Default: fast for onnx and openvino, thin for torch-export and safetensors.
        checkpoint: weights to load, such as a last.ckpt of `tiedconv fit`.
        num_classes: classes of the model. Default: those of the checkpoint.
        in_chans: channels of an image. Default: those of the checkpoint.
        pretrained: load the library's weights.
        input_size: channels,height,width of an image. Default: those of the data, or what the model is for.
        dynamic_size: images may have any height and width; false for models that have one size, such as ViT.
        batch_size: the only number of images that the file takes. Default: any.
        int8: for onnx and openvino, write also <output>.int8.onnx or .int8.xml, with integers of 8 bits, and print
            top-1 accuracy on the validation images and speed of both files on this CPU.
        data: for int8, a data module such as Digits, FashionMNIST or ImageFolder: calibration on training images.
        rounds: for int8, measured calls of both files, in turns.
    """
    layout = layout or ("fast" if format in _ENGINES else "thin")
    _check(format, layout, int8, data, batch_size, dynamic_size, rounds)
    _check_output(format, output, int8, checkpoint)
    given = {"num_classes": num_classes, "in_chans": in_chans, "pretrained": pretrained or None}
    kwargs: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    network = build_model(model, checkpoint=checkpoint, **kwargs).eval()
    console = table_console()
    if is_random(model, checkpoint, pretrained):
        console.print(f"{model} has random weights. --checkpoint or --pretrained loads others.", markup=False)
    if format == "safetensors":
        save_pretrained(network, output, architecture=model if model.startswith(TORCHVISION) else None)
        console.print(_table(network, layout, output, sum(file.stat().st_size for file in output.iterdir()), None))
        return
    size = _size(input_size) or (data.input_size if data else made_for(network))
    if data:
        data.prepare_data()
        _check_fits(network, data, size)
    write = _ENGINES[format].write if format in _ENGINES else to_program
    written = deploy(network) if layout == "fast" else network
    file = write(written, output, input_size=size, dynamic_size=dynamic_size, batch_size=batch_size)
    console.print(_table(network, layout, file.path, file.bytes, file))
    if data:
        _int8(console, _ENGINES[format], file, data, rounds)


def _check(
    format: str,
    layout: Layout,
    int8: bool,
    data: ClassificationData | None,
    batch_size: int | None,
    dynamic_size: bool,
    rounds: int,
) -> None:
    """Check what needs no model, before one is loaded."""
    if layout == "fast" and format == "safetensors":
        raise ValueError(
            "export: safetensors holds the model that its name builds, in the layout thin. Leave --layout out, or give "
            "--format onnx, openvino or torch-export."
        )
    if int8 and format not in _ENGINES:
        raise ValueError(f"export: int8 is for --format onnx or openvino, got {format}. Leave one of them out.")
    if int8 and data is None:
        raise ValueError("export: int8 is calibrated on images. Give --data, such as --data Digits.")
    if data is not None and not int8:
        raise ValueError(f"export: data is for --int8, got {type(data).__name__}. Add --int8 or leave --data out.")
    if int8 and format == "openvino" and layout == "thin" and dynamic_size:
        raise ValueError(
            "export: OpenVINO computes int8 networks in the thin layout wrongly for images of any size. Take --layout "
            "fast, or --dynamic_size false."
        )
    if int8 and batch_size is not None:
        raise ValueError(f"export: int8 runs on batches of any size, got batch_size={batch_size}. Leave it out.")
    if rounds < 2:
        raise ValueError(f"export: rounds must be at least 2, for a spread, got rounds={rounds}.")
    if format in _ENGINES:  # before an hour of loading
        _ENGINES[format].check_installed()
    if format == "openvino" and int8:
        load_nncf()


def _check_output(format: str, output: Path, int8: bool, checkpoint: Path | None) -> None:
    """Check that files can be written, and not over the one that the weights are read from."""
    if format != "safetensors":
        check_writable("output", output)
    files = [output, *([_int8_path(output)] if int8 else [])]
    if format == "openvino":
        files += [file.with_suffix(".bin") for file in files]
    for written in files:
        if checkpoint is not None and checkpoint.exists() and written.exists() and written.samefile(checkpoint):
            raise ValueError(
                f"export: {written} would be written over --checkpoint {checkpoint}. Give another --output."
            )


def _int8_path(output: Path) -> Path:
    return output.with_suffix(f".int8{output.suffix}")


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


def _int8(console: Console, engine: _Engine, file: ExportedFile, data: ClassificationData, rounds: int) -> None:
    """Write the int8 twin and print both files' size, accuracy and speed."""
    small = engine.quantize(file.path, data.training_images(CALIBRATION_IMAGES), _int8_path(file.path))
    files = {"float32": file, "int8": small}
    runs = {name: engine.open(written.path) for name, written in files.items()}
    images, _ = next(iter(data.val_dataloader()))
    times = interleaved({name: partial(run, images) for name, run in runs.items()}, rounds=rounds)
    table = Table(
        title=f"{type(data).__name__}, {len(data.split(train=False))} validation images",  # type: ignore[arg-type]
        caption=f"batches of {len(images)}, threads {torch.get_num_threads()}; median ± half the interquartile range",
        box=SIMPLE,
    )
    table.add_column("file")
    for header in ("", "MB", "top-1 %", "images/s", "x float32"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, written in files.items():
        rate, ratio = len(images) / times[name].median, times[name].speedup_over(times["float32"])
        table.add_row(
            str(written.path),
            name,
            _mb(written.bytes),
            f"{100 * top1(runs[name], data.val_dataloader()):.2f}",
            f"{rate:.0f} ±{rate * times[name].spread / times[name].median:.0f}",
            f"{ratio.median:.2f} ±{ratio.spread:.2f}",
        )
    console.print(table)


def _table(model: nn.Module, layout: Layout, path: Path, size: int, checked: ExportedFile | None) -> Table:
    """Say how large the file is, beside the weights in both layouts and of a dense network, and how exact."""
    table = Table(caption="MB of the file; of the weights in each layout and of a dense network", box=SIMPLE)
    table.add_column("file")
    for header in ("layout", "MB", "thin", "fast", "dense", "error", "of largest", "images checked"):
        table.add_column(header, justify="right", no_wrap=True)
    errors = ("-", "-", "-")
    if checked:
        shapes = "\n".join("x".join(map(str, shape)) for shape in checked.shapes)
        errors = (f"{checked.max_abs_error:.1e}", f"{checked.max_rel_error:.1e}", shapes)
    table.add_row(str(path), layout, _mb(size), *map(_mb, weight_bytes(model).values()), *errors)
    return table


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f}"
