"""How alike the filters of a layer are: cosine similarity of their guided-backpropagation patterns (Figs. 1, 9)."""

import copy
import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._extras import require


@dataclass(frozen=True)
class Histogram:
    """Histogram of one layer's pairwise similarities.

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

    A filter without a pattern (its guided gradient is zero, or not finite, on every image) is similar to nothing: it is
    left out of ``channels`` and ``matrix`` and counted in ``dead``.

    Attributes:
        layer: qualified name of the layer.
        channels: the :math:`K` output channels that ``matrix`` is about, ascending.
        matrix: :math:`(K, K)`, float64, symmetric, in [-1, 1] with a unit diagonal; each entry is the mean over
            the images on which both filters have a pattern.
        images: :math:`(K, K)`, how many images that mean is over. Where it is 0, ``matrix`` holds 0 and the pair counts
            nowhere.
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


def filter_similarity(
    model: nn.Module,
    layers: Sequence[str] | None,
    images: Tensor,
    *,
    max_channels: int | None = 64,
    batch_size: int = 64,
) -> list[LayerSimilarity]:
    r"""Compare the filters of each layer by what they respond to in the images (paper, Figs. 1 and 9).

    The pattern of a filter (an output channel) on an image is the gradient of the channel's spatial mean with respect
    to the image, by guided backpropagation (Springenberg et al., 2015): every ``torch.nn.ReLU`` module on the way back
    also sets negative gradients to zero. Other activations, and a ReLU called as a function, keep their own gradient.
    The similarity of two filters on one image is the cosine between their patterns over all input channels and
    pixels; a layer's matrix is the mean over the images. All this happens on a copy of the model in evaluation mode,
    the model itself is left as it is.

    Args:
        model: any network that takes ``images``.
        layers: qualified names, as in ``model.named_modules()``. Each must return one tensor with the channels second;
            of a layer called several times in a forward pass, the first call counts. None: :func:`stage_layers`, whose
            outputs must have the ``num_chs`` channels of ``feature_info``.
        images: normalised as the model expects them, on its device.
        max_channels: examine at most so many channels a layer, evenly spaced over all of them. None: every channel.
        batch_size: how many patterns are computed at once. Together with the channels examined it bounds the memory,
            whatever the number of images.

    Shape:
        - images: :math:`(N, C, H, W)`, :math:`N` at least 1.

    Returns:
        One entry a layer, in the order of ``layers``.

    Raises:
        ValueError: if a layer is unknown, is not reached or returns something else; with ``layers=None``, if the model
            names no stages or one returns its channels elsewhere, as Swin (N, H, W, C) and ViT (N, tokens, C) do; if
            there is no image; if ``max_channels`` or ``batch_size`` is below 1.
        ModuleNotFoundError: if captum is not installed.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
        >>> first, second = filter_similarity(net, ["0", "2"], torch.randn(4, 3, 12, 12))
        >>> second.matrix.shape, second.channels == list(range(16))
        (torch.Size([16, 16]), True)
        >>> sum(second.histogram(bins=20).counts)  # 16 * 15 / 2 pairs
        120
    """
    _check_arguments(images, max_channels, batch_size)
    stages = {stage["module"]: stage.get("num_chs") for stage in _stages(model)} if layers is None else {}
    layers = list(stages) if layers is None else list(layers)
    _check_layers(model, layers)
    attr = require("captum.attr", extra="analysis")
    twin = _guidable_copy(model)
    cuts = [_ChannelMeans(twin, layer) for layer in layers]
    counts = [_count_channels(means, images[:1], stages.get(means.layer)) for means in cuts]
    results = []
    for layer, means, channels in zip(layers, cuts, counts, strict=True):
        # Multiples of one step where the limit divides the channels: then channel c and its namesake in the next tied
        # block, c + C/B, are both examined.
        examined = torch.tensor(evenly_spaced(channels, channels if max_channels is None else max_channels))
        with means.listening():
            guided = attr.GuidedBackprop(means)
            patterns = (_patterns(guided, image, examined, batch_size) for image in images)
            results.append(_compare(layer, examined, patterns))
    return results


def stage_layers(model: nn.Module) -> list[str]:
    """Return the modules that end the stages of a timm model, by its ``feature_info``: what ``layers=None`` means.

    These names are the same for a network and its tied twin, and so are their channel counts.

    Raises:
        ValueError: if the model has no ``feature_info`` with modules of its own.
    """
    return [stage["module"] for stage in _stages(model)]


def evenly_spaced(length: int, count: int) -> list[int]:
    """Return at most ``count`` indices below ``length``, ascending from 0 and evenly spaced.

    Example:
        >>> evenly_spaced(10, 4), evenly_spaced(3, 4)
        ([0, 2, 5, 7], [0, 1, 2])
    """
    count = min(length, count)
    return [i * length // count for i in range(count)]


def _stages(model: nn.Module) -> list[dict[str, Any]]:
    info = getattr(model, "feature_info", None)
    stages = info if isinstance(info, list) else []
    modules = dict(model.named_modules())
    if not stages or any(not stage.get("module") or stage["module"] not in modules for stage in stages):
        raise ValueError(
            f"filter_similarity: {type(model).__name__} has no feature_info that names its stages. "
            "Pass layers, names from model.named_modules()."
        )
    return stages


class _Reached(Exception):  # noqa: N818  a signal, not an error
    """Carries the layer's output out of the forward pass: what comes after the layer is not needed."""


class _ChannelMeans(nn.Module):
    """The model cut after a layer: image → spatial mean of each of the layer's channels, (N, C)."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model = model
        self.layer = layer

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hook the layer for the time of the block."""

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            raise _Reached(output)

        handle = self.model.get_submodule(self.layer).register_forward_hook(stop)
        try:
            yield
        finally:
            handle.remove()

    def forward(self, x: Tensor) -> Tensor:
        output = self.output(x)
        return output.flatten(2).mean(2) if output.dim() > 2 else output

    def output(self, x: Tensor) -> Tensor:
        """Return what the layer returns, (N, C, ...)."""
        try:
            self.model(x)
        except _Reached as reached:
            output = reached.args[0]
        else:
            raise ValueError(f"filter_similarity: the layer {self.layer!r} is not reached in a forward pass.")
        if not isinstance(output, Tensor) or output.dim() < 2:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"filter_similarity: the layer {self.layer!r} must return one tensor (N, C, ...), got {got}."
            )
        return output


def _guidable_copy(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    for module in twin.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # captum hooks a ReLU's input, which must survive the call
    return twin


@torch.no_grad()
def _count_channels(means: _ChannelMeans, image: Tensor, expected: int | None) -> int:
    """Return how many channels the layer has, which must be as many as ``expected`` if that is known."""
    with means.listening():
        output = means.output(image)
    if expected is not None and output.shape[1] != expected:
        raise ValueError(
            f"filter_similarity: the layer {means.layer!r} must return its {expected} channels (num_chs in "
            f"feature_info) second, (N, {expected}, ...), got {tuple(output.shape)}. Pass layers that do."
        )
    return output.shape[1]


def _patterns(guided: Any, image: Tensor, channels: Tensor, batch_size: int) -> Tensor:
    """Return the patterns of some channels on one image (C, H, W) as rows, (K, C * H * W), in float64."""
    rows = []
    for chunk in channels.to(image.device).split(batch_size):
        batch = image.expand(len(chunk), *image.shape).clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")  # they are removed again
            rows.append(guided.attribute(batch, target=chunk).detach().flatten(1).cpu())
    return torch.cat(rows).double()


def _compare(layer: str, examined: Tensor, patterns: Iterator[Tensor]) -> LayerSimilarity:
    count = len(examined)
    total = torch.zeros(count, count, dtype=torch.float64)
    images = torch.zeros(count, count, dtype=torch.long)
    for rows in patterns:
        alive = (rows != 0).any(dim=1) & rows.isfinite().all(dim=1)
        unit = F.normalize(torch.where(alive[:, None], rows, 0), dim=1, eps=torch.finfo(rows.dtype).tiny)
        total += unit @ unit.T
        images += alive.long().outer(alive.long())
    live = images.diagonal() > 0
    total, images = total[live][:, live], images[live][:, live]
    matrix = (total / images.clamp_min(1)).clamp(-1, 1)
    matrix = (matrix + matrix.T) / 2  # exactly symmetric, whatever order the products were summed in
    matrix.fill_diagonal_(1)
    return LayerSimilarity(layer, examined[live].tolist(), matrix, images, dead=int((~live).sum()))


def _check_arguments(images: Tensor, max_channels: int | None, batch_size: int) -> None:
    if images.dim() != 4 or not len(images):
        raise ValueError(f"filter_similarity: expected images (N, C, H, W) with N >= 1, got {tuple(images.shape)}.")
    for name, value in {"max_channels": max_channels, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ValueError(f"filter_similarity: {name} must be at least 1, got {name}={value}.")


def _check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    names = [name for name, _ in model.named_modules() if name]
    for layer in layers:
        if layer not in names:
            nearest = difflib.get_close_matches(layer, names, n=3, cutoff=0.0)
            raise ValueError(
                f"filter_similarity: {type(model).__name__} has no layer {layer!r}. "
                f"Nearest names: {', '.join(nearest)}."
            )
