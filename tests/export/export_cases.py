"""A small network with every kind of tied layer, and networks that cannot be exported."""

import torch
from tests.randomized import randomize_norms
from torch import Tensor, nn

from tiedconv.nn import SplitTiedConv2d, TiedConv2d, TiedSE


class EveryLayer(nn.Module):
    """Tied layers so thin that, but for the export, some of them would be computed with repeated filters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = TiedConv2d(4, 16, 3, padding=1, bias=False, blocks=2)
        self.norm = nn.BatchNorm2d(16)
        self.groups = TiedConv2d(16, 16, 3, stride=2, padding=1, groups=2, blocks=2)
        self.tied = SplitTiedConv2d(16, 16, 3, padding=1, blocks=(2, 2))
        self.untied = SplitTiedConv2d(16, 16, 3, padding=1, groups=(2, 2), blocks=(1, 1))
        self.pointwise = TiedConv2d(16, 16, 1, blocks=8)
        self.attention = TiedSE(16, reduction=2, blocks=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.untied(self.tied(self.groups(x)))
        return self.head(self.attention(self.pointwise(x)).mean((2, 3)))

    def filters(self) -> int:
        """Numbers in all weights, each tied one counted once."""
        return sum(p.numel() for p in self.parameters() if p.dim() > 1)


class OneSize(nn.Module):
    """Learned positions, as in a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.position).mean((2, 3))


class Boxes(nn.Module):
    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return [{"boxes": x}]


def every_layer() -> EveryLayer:
    return randomize_norms(EveryLayer())
