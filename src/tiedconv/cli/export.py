"""``tiedconv export``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import nn

from ..bench.int8 import FileRow, check_fits, check_int8, compare_int8
from ..data import ClassificationData
from ..export import ExportedFile, Layout, save_pretrained, weight_bytes
from ..export.formats import Format, check_export, default_layout, write_format
from ..models import build_model
from ..models.inputs import check_images
from ..models.inputs import input_size as made_for
from ..models.named import TORCHVISION, is_random
from ._console import Progress, new_table, table_console


def export(
    model: str,
    output: Path,
    format: Format = "onnx",
    layout: Layout | None = None,
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool = False,
    input_size: tuple[int, int, int] | None = None,
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
    layout = layout or default_layout(format)
    if int8:
        check_int8(format, layout, data, dynamic_size=dynamic_size, batch_size=batch_size, rounds=rounds)
    elif data is not None:
        raise ValueError(f"data is for --int8, got {type(data).__name__}. Add --int8 or leave --data out.")
    check_export(output, format, layout, int8=int8, checkpoint=checkpoint, input_size=input_size, batch_size=batch_size)
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
    size = input_size or (data.input_size if data else made_for(network))
    if data:
        data.prepare_data()
        check_fits(network, data, size)
        check_images(network, data.pretrained_cfg)
    with Progress() as progress:
        progress("writing the file, and checking what it computes")
        file = write_format(
            network, output, format, layout, input_size=size, dynamic_size=dynamic_size, batch_size=batch_size
        )
        rows = compare_int8(file, format, data, rounds=rounds, progress=progress) if data else ()
    console.print(_table(network, layout, file.path, file.bytes, file))
    if data:
        console.print(_int8_table(rows, data))


def _int8_table(rows: Sequence[FileRow], data: ClassificationData) -> Table:
    table = new_table(
        ["file"],
        ("", "MB", "top-1 %", "images/s", "x float32"),
        title=f"{type(data).__name__}, {len(data.split(train=False))} validation images",  # type: ignore[arg-type]
        caption=f"batches of {rows[0].batch}, threads {torch.get_num_threads()}; median ± half the interquartile range",
    )
    for row in rows:
        table.add_row(
            escape(str(row.file.path)),
            row.name,
            _mb(row.file.bytes),
            f"{100 * row.top1:.2f}",
            f"{row.images_per_s.median:.0f} ±{row.images_per_s.spread:.0f}",
            f"{row.speedup.median:.2f} ±{row.speedup.spread:.2f}",
        )
    return table


def _table(model: nn.Module, layout: Layout, path: Path, size: int, checked: ExportedFile | None) -> Table:
    """Return how large the file is, beside the weights in both layouts and of a dense network, and how exact."""
    numbers = ("layout", "MB", "thin", "fast", "dense", "error", "of largest", "images checked")
    caption = "MB of the file; of the weights in each layout and of a dense network"
    table = new_table(["file"], numbers, caption=caption)
    errors = ("-", "-", "-")
    if checked:
        shapes = "\n".join("x".join(map(str, shape)) for shape in checked.shapes)
        errors = (f"{checked.max_abs_error:.1e}", f"{checked.max_rel_error:.1e}", shapes)
    table.add_row(escape(str(path)), layout, _mb(size), *map(_mb, weight_bytes(model).values()), *errors)
    return table


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f}"
