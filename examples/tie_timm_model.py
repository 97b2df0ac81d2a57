"""A trained timm model made smaller: tie its layers, recalibrate its norms, fine-tune, save.

    python examples/tie_timm_model.py                    # about a minute on two cores; --quick takes seconds
    python examples/tie_timm_model.py --model resnet18

The model is trained here on scikit-learn's digits, as nothing is downloaded. With a trained one of yours start at
step 1; up to the fine-tuning a few hundred images without labels are enough.
"""

import argparse
import copy
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import tiedconv
from tiedconv.convert import TieReport, recalibrate_norms_, search_blocks
from tiedconv.data import Digits
from tiedconv.export import from_pretrained, save_pretrained

Batches = DataLoader[tuple[Tensor, Tensor]]


def train(model: nn.Module, batches: Batches, epochs: int, lr: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(batches))
    model.train()
    for _ in range(epochs):
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, batches: Batches) -> float:
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in batches)
    return right / len(batches.dataset)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet10t", help="any of timm's")
    parser.add_argument("--output", type=Path, default=Path("runs/examples/tie_timm_model"))
    parser.add_argument("--quick", action="store_true", help="one epoch of a tiny model")
    args = parser.parse_args()
    name, epochs = ("test_resnet.r160_in1k", 1) if args.quick else (args.model, 5)

    torch.manual_seed(0)
    data = Digits(image_size=16 if args.quick else 32)
    training, validation = data.train_dataloader(), data.val_dataloader()
    # From the training images: those that accuracy is measured on must not choose weights.
    samples = [images for images, _ in training][:4]

    model = timm.create_model(name, num_classes=data.num_classes, in_chans=data.in_chans)
    train(model, training, epochs, lr=2e-3)
    print(f"{name}: {accuracy(model, validation):.1%} of 360 new digits right")

    print("\n1. Two blocks in every layer, weights nearest to the old ones: needs no images")
    tied = copy.deepcopy(model)
    describe(tiedconv.tie_(tied, blocks=2, example_inputs=torch.zeros(1, *data.input_size)), args.output / "blocks.txt")
    print(f"tied            {accuracy(tied, validation):>7.1%}")
    recalibrate_norms_(tied, samples)
    print(f"recalibrated    {accuracy(tied, validation):>7.1%}")
    train(tied, training, epochs=1, lr=5e-4)
    print(f"1 epoch trained {accuracy(tied, validation):>7.1%}")

    print("\n2. As many blocks as each layer bears for a quarter of the parameters, weights nearest to the old outputs")
    found = search_blocks(model, samples[:1], params=0.25, init="data")
    tied = copy.deepcopy(model)
    describe(tiedconv.tie_(tied, found.blocks, init="data", images=samples), args.output / "search.txt")
    print(f"tied            {accuracy(tied, validation):>7.1%}")  # the norms fit: no need to recalibrate them
    train(tied, training, epochs=1, lr=1e-4)
    top1 = accuracy(tied, validation)
    print(f"1 epoch trained {top1:>7.1%}")

    folder = save_pretrained(tied, args.output / "model", metrics={"top1": top1}, dataset="scikit-learn digits")
    print(f"\nsaved to {folder}; loaded again it has {accuracy(from_pretrained(folder), validation):.1%} right")


def describe(report: TieReport, table: Path) -> None:
    """Print what was tied in three lines, and write the table of all layers to a file."""
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(f"{report}\n", encoding="utf-8")
    print(f"{len(report.tied)} layers tied, {len(report.kept)} kept; every layer: {table}")
    print(f"parameters    {report.params:>12,} -> {report.tied_params:,}")
    print(f"multiply-adds {report.macs:>12,} -> {report.tied_macs:,}")


if __name__ == "__main__":
    main()
