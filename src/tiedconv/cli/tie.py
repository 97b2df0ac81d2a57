"""``tiedconv tie``."""

import json as json_format
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from .._files import write_whole
from ..compare import Budget
from ..compare.tying import Stage, tie_and_finetune
from ..convert import tie_
from ..convert.placement import Preset
from ..convert.tie import Init
from ..data import ClassificationData
from ..export.hub import save_pretrained
from ..models import build_model, check_model
from ..models.inputs import check_images, set_images
from ..models.named import TORCHVISION, is_name, is_random
from ..models.saved import WEIGHTS
from ..models.weights import read_checkpoint
from ..tasks.optimization import Optimization
from ._console import Progress, log, new_table, table_console


def tie(
    model: str,
    checkpoint: Path | None = None,
    model_kwargs: dict[str, Any] | None = None,
    blocks: int | dict[str, int] = 2,
    layers: Preset | None = None,
    init: Init = "project",
    data: ClassificationData | None = None,
    samples: int = 256,
    finetune: int = 0,
    optimization: Optimization = Optimization(lr=0.01, schedule="cosine"),
    seed: int = 0,
    output: Path = Path("runs/tie"),
) -> None:
    """Tie the layers of a model, and show what that does to it.

    Prints a table of all layers, and, with data, the accuracy before, after tying, after re-estimating the norms'
    statistics (unless init is data) and after fine-tuning. Writes the tied model (config.json, model.safetensors and a
    card) to output/model, which export, analyze and tiedconv.export.from_pretrained take, and the numbers to
    output/tying.json.

    Args:
        model: name of a timm model or torchvision/<name>; without data also a folder of a saved model, or
            hf-hub:<repository>.
        checkpoint: weights of it, from `tiedconv fit`, torch.save or .safetensors.
        model_kwargs: more arguments of the model. Default: those that a checkpoint of `tiedconv fit` was built with.
        blocks: how many blocks share a layer's weight; in a config file also numbers by patterns of layer names.
        layers: which layers a number of blocks is for (filter_fn of tie_): body, all but the output layers, the
            default; all; entry, the 1x1 convolutions that open a bottleneck; se, those of squeeze-and-excitation
            modules.
        init: project, nearest to the old weights; data, nearest to the old layers' outputs on images; random.
        data: a data module such as Digits, FashionMNIST, CIFAR10, ImageFolder or ImageNet, to measure and train on.
        samples: training images for init=data and for the norms' statistics.
        finetune: epochs to train the tied model.
        optimization: optimiser and schedule of that.
        seed: of random weights, of the training and of the choice of samples.
        output: folder for the tied model and the numbers.
    """
    torch.manual_seed(seed)
    console = table_console()
    if is_random(model, checkpoint, (model_kwargs or {}).get("pretrained", False)):
        console.print(f"{model} has random weights. --checkpoint loads trained ones.", markup=False)
    if data is None:
        if finetune or init == "data":
            raise ValueError("tie: finetune and init=data need images. Give --data, such as --data ImageFolder.")
        network = build_model(model, checkpoint=checkpoint, **(model_kwargs or {})).eval()
        report = tie_(network, blocks, layers, init)
        console.print(str(report), markup=False, soft_wrap=True)
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / "tying.json", json_format.dumps({"report": report.to_dict()}, indent=1))
        _save(network, model, output, console)
        return
    if not is_name(model):
        raise ValueError(
            f"tie: with data, model must be the name of a model, got {model}: a training is resumed from a name. Give "
            f"that name, and the saved model's {WEIGHTS} as checkpoint."
        )
    check_model(model)
    sizes: dict[str, Any] = {"num_classes": data.num_classes, "in_chans": data.in_chans}
    trained = {} if checkpoint is None else read_checkpoint(checkpoint)[1]
    if trained.get("tied") is not None:
        raise ValueError(f"tie: the model in {checkpoint} is tied already. Give the one from before.")
    kwargs = {**(trained.get("model_kwargs") or {}), **(model_kwargs or {})}
    network = build_model(model, checkpoint=checkpoint, **kwargs, **sizes).eval()
    check_images(network, data.pretrained_cfg)
    with Progress() as progress:
        report, stages = tie_and_finetune(
            network,
            model,
            data,
            output,
            kwargs=kwargs,
            blocks=blocks,
            filter_fn=layers,
            init=init,
            samples=samples,
            budget=Budget(finetune, optimization) if finetune else None,
            seed=seed,
            log=log,
            progress=partial(progress, "fitting layers"),
        )
    console.print(str(report), markup=False, soft_wrap=True)
    set_images(network, data.pretrained_cfg)
    console.print(_stages(stages))
    metrics = {"top1": stages[-1].top1, "top5": stages[-1].top5}
    _save(network, model, output, console, metrics=metrics, dataset=type(data).__name__)


def _save(network: Any, name: str, output: Path, console: Console, **card: Any) -> None:
    architecture = name if name.startswith(TORCHVISION) else None
    save_pretrained(network, output / "model", architecture=architecture, **card)
    console.print(f"Model:   {output / 'model'}\nNumbers: {output / 'tying.json'}", highlight=False, markup=False)


def _stages(stages: list[Stage]) -> Table:
    table = new_table(["stage"], ("params", "MACs", "top-1 %", "top-5 %", "loss"))
    for stage in stages:
        table.add_row(
            stage.name,
            f"{stage.params / 1e6:.2f} M",
            f"{stage.macs / 1e6:.1f} M",
            f"{100 * stage.top1:.2f}",
            f"{100 * stage.top5:.2f}",
            f"{stage.loss:.4f}",
        )
    return table
