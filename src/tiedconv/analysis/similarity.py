"""How alike the filters of a layer are: cosine similarity of their guided-backpropagation patterns (Figs. 1, 9)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._checks import named
from ._patterns import PatternReader, check_layers


@dataclass(frozen=True)
class Histogram:
    """Histogram of the similarities of a layer's pairs of filters.

    Attributes:
        layer: qualified name of the layer.
        edges: bin edges from -1 to 1, one more than ``counts``.
        counts: how many pairs fell into each bin; the last bin includes 1.
        mean: mean similarity over the pairs, 0 if there are none.
    """

    layer: str
    edges: list[float]
    counts: list[int]
    mean: float


@dataclass(frozen=True, eq=False)
class LayerSimilarity:
    """Similarities between the filters of one layer.

    A filter whose guided gradient is zero or not finite on every image has no pattern: it is left out of ``channels``
    and ``matrix`` and counted in ``dead``.

    Attributes:
        layer: qualified name of the layer.
        channels: the :math:`K` output channels that ``matrix`` is about, ascending.
        matrix: :math:`(K, K)`, float64, symmetric, in [-1, 1] with a unit diagonal; each entry is the mean over
            the images on which both filters have a pattern.
        images: :math:`(K, K)`, how many images that mean is over. A pair with 0 does not count.
        dead: how many of the examined filters have no pattern.
    """

    layer: str
    channels: list[int]
    matrix: Tensor
    images: Tensor
    dead: int

    def pairs(self) -> Tensor:
        """Return the similarities of the pairs i < j as a vector."""
        upper = torch.ones_like(self.images, dtype=torch.bool).triu(diagonal=1)
        return self.matrix[upper & (self.images > 0)]

    @property
    def mean(self) -> float:
        """Mean similarity over the pairs, 0 if there are none."""
        pairs = self.pairs()
        return pairs.mean().item() if pairs.numel() else 0.0

    def histogram(self, bins: int = 40) -> Histogram:
        """Return the pairs counted in ``bins`` equal bins over [-1, 1].

        Raises:
            ValueError: if ``bins`` is below 1.
        """
        if bins < 1:
            raise ValueError(f"LayerSimilarity.histogram: bins must be at least 1, got bins={bins}.")
        edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)
        counts = torch.histogram(self.pairs(), edges).hist.long()
        return Histogram(self.layer, edges.tolist(), counts.tolist(), self.mean)


@named("filter_similarity")
def filter_similarity(
    model: nn.Module,
    layers: Sequence[str] | None,
    images: Tensor | Iterable[Tensor],
    *,
    max_channels: int | None = 64,
    batch_size: int = 4,
) -> list[LayerSimilarity]:
    r"""Compare the filters of each layer by what they respond to in the images (paper, Figs. 1 and 9).

    The pattern of a filter (an output channel) on an image is the gradient of the channel's spatial mean with respect
    to the image, by guided backpropagation (Springenberg et al., 2015): every ``torch.nn.ReLU`` module on the way back
    also sets negative gradients to zero. Other activations, and a ReLU called as a function, keep their own gradient.
    The similarity of two filters on one image is the cosine between their patterns over all input channels and
    pixels; a layer's matrix is the mean over the images. It is computed on a copy of the model in evaluation mode.

    Args:
        model: any network that takes ``images``.
        layers: qualified names, as in ``model.named_modules()``. Each must return one tensor with the channels second;
            of a layer called several times in a forward pass, the first call counts. None: those that end the stages of
            a timm model by its ``feature_info``, and return the ``num_chs`` channels that it names.
        images: normalised as the model expects them, on its device: a tensor, or an iterable of batches, which need
            not fit into the memory together. Batches may differ in size.
        max_channels: examine at most so many channels per layer, evenly spaced over all of them. None: every channel.
        batch_size: how many images go through the model at once. The memory is that of the model's activations on
            them and of ``batch_size`` times ``max_channels`` images, whatever the number of images.

    Shape:
        - images, or each batch: :math:`(N, C, H, W)`, :math:`N` at least 1.

    Returns:
        One entry per layer, in the order of ``layers``.

    Raises:
        ValueError: if a layer is unknown, is not reached or returns something else; with ``layers=None``, if the model
            names no stages or one returns its channels elsewhere, as Swin (N, H, W, C) and ViT (N, tokens, C) do; if
            there is no image; if ``max_channels`` or ``batch_size`` is below 1.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
        >>> first, second = filter_similarity(net, ["0", "2"], torch.randn(4, 3, 12, 12))
        >>> second.matrix.shape, second.channels == list(range(16))
        (torch.Size([16, 16]), True)
        >>> sum(second.histogram(bins=20).counts)  # 16 * 15 / 2 pairs
        120
    """
    for name, value in {"max_channels": max_channels, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {name}={value}.")
    if layers is None:
        expected: dict[str, int | None] = {stage["module"]: stage.get("num_chs") for stage in _stages(model)}
    else:
        expected = dict.fromkeys(layers)
    check_layers(model, expected)
    reader = PatternReader(model, expected)
    sums: dict[str, _Sums] = {}
    for batch in _batches(images, batch_size):
        for layer, channels, patterns in reader.read(batch, max_channels):
            entry = sums.setdefault(layer, _Sums(channels))
            for rows in patterns:
                entry.add(rows)
    if not sums:
        raise ValueError("there is no image, images yields no batch. Pass at least one.")
    return [sums[layer].result(layer) for layer in expected]


def _stages(model: nn.Module) -> list[dict[str, Any]]:
    stages = getattr(model, "feature_info", None)
    if not isinstance(stages, list) or not stages or not all(stage.get("module") for stage in stages):
        raise ValueError(
            f"{type(model).__name__} has no feature_info that names its stages. Pass layers, names from "
            "model.named_modules()."
        )
    return stages


class _Sums:
    """The similarities of one layer's filters, summed over images; the memory does not depend on how many."""

    def __init__(self, channels: list[int]) -> None:
        self.channels = channels
        self.total = torch.zeros(len(channels), len(channels), dtype=torch.float64)
        self.images = torch.zeros(len(channels), len(channels), dtype=torch.long)

    def add(self, patterns: Tensor) -> None:
        """Add one image's patterns, (K, D)."""
        # In float64, where no gradient is too small to be squared; Apple's GPUs do not have it.
        rows = (patterns.cpu() if patterns.device.type == "mps" else patterns).double()
        alive = (rows != 0).any(dim=1) & rows.isfinite().all(dim=1)
        unit = F.normalize(torch.where(alive[:, None], rows, 0), dim=1, eps=torch.finfo(rows.dtype).tiny)
        self.total += (unit @ unit.T).cpu()
        self.images += alive.long().outer(alive.long()).cpu()

    def result(self, layer: str) -> LayerSimilarity:
        live = self.images.diagonal() > 0
        total, images = self.total[live][:, live], self.images[live][:, live]
        matrix = (total / images.clamp_min(1)).clamp(-1, 1)
        matrix = (matrix + matrix.T) / 2  # exactly symmetric, whatever order the products were summed in
        matrix.fill_diagonal_(1)
        channels = [channel for channel, kept in zip(self.channels, live.tolist(), strict=True) if kept]
        return LayerSimilarity(layer, channels, matrix, images, dead=len(self.channels) - len(channels))


def _batches(images: Tensor | Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    for batch in [images] if isinstance(images, Tensor) else images:
        if not isinstance(batch, Tensor):
            raise TypeError(
                f"batches must be tensors (N, C, H, W), got {type(batch).__name__}. "
                "Of a loader of images and labels pass (images for images, _ in loader)."
            )
        if batch.dim() != 4 or not len(batch):
            raise ValueError(f"expected images (N, C, H, W) with N >= 1, got {tuple(batch.shape)}.")
        yield from batch.split(batch_size)
