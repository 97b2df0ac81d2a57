"""Tied layers in a network of your own: the same small CNN with ordinary and with tied layers, trained alike.

    python examples/own_network.py    # about half a minute on two cores; --quick takes seconds

`TiedConv2d` and `TiedLinear` take what `nn.Conv2d` and `nn.Linear` take, and `blocks`. The training loop is plain
PyTorch and knows nothing of them.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import tiedconv
from tiedconv.nn import TiedConv2d, TiedLinear

BLOCKS = 2


class Net(nn.Module):
    """A CNN for 8x8 grey images. Its layers are built by the two classes it is given."""

    def __init__(self, conv: Callable[..., nn.Module], linear: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),  # one input channel cannot be split into blocks: stays as it is
            nn.BatchNorm2d(32),
            nn.ReLU(),
            conv(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            conv(64, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = linear(128 * 2 * 2, 128)
        self.classify = nn.Linear(128, 10)  # ties would make classes share weights: stays as it is

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(F.relu(self.hidden(self.features(images).flatten(1))))


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model.eval()(images).argmax(1) == labels).float().mean().item()


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one epoch")
    epochs = 1 if parser.parse_args().quick else 15

    digits = load_digits()  # 1,797 handwritten digits that scikit-learn ships
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16 - 0.3
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    seen, new = order[360:], order[:360]

    nets = {
        "untied": Net(nn.Conv2d, nn.Linear),
        "tied": Net(partial(TiedConv2d, blocks=BLOCKS), partial(TiedLinear, blocks=BLOCKS)),
    }
    print(f"{len(seen)} digits to train on for {epochs} epochs, {len(new)} to test on\n")
    print(f"{'network':<8}{'parameters':>12}{'accuracy':>12}")
    for name, net in nets.items():
        train(net, images[seen], labels[seen], epochs)
        print(f"{name:<8}{parameters(net):>12,}{accuracy(net, images[new], labels[new]):>12.1%}")
    print(f"\nOne image more is {1 / len(new):.1%}: one training each does not tell which is better.")

    # The same network without touching its code: tie_ replaces the layers of one that is built already.
    report = tiedconv.tie_(Net(nn.Conv2d, nn.Linear), BLOCKS, init="random", example_inputs=torch.zeros(1, 1, 8, 8))
    print(f"tie_ ties {', '.join(report.blocks)} likewise: {report.params:,} -> {report.tied_params:,} parameters.")


if __name__ == "__main__":
    main()
