"""What every layer of a network costs and what its features do, measured in one pass over images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._counting import counted_macs
from .._meta import copied
from ..nn import SplitTiedConv2d, TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, TiedConv1d, TiedConv2d, TiedConv3d, SplitTiedConv2d)
_LAYERS = (*_CONVS, nn.Linear, TiedLinear)


@dataclass(frozen=True)
class LayerSummary:
    r"""One layer's cost, weights and activations.

    The effective rank says how many directions the features of a layer use: with :math:`K` channels that are not dead,
    :math:`K` if none of them are correlated, 1 if all say the same. It is the participation ratio of the eigenvalues
    :math:`\lambda_i` of the channels' correlation matrix :math:`R`,
    :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2 = K^2 / \lVert R \rVert_F^2`. Correlation, not covariance, as the
    norm after a convolution removes the scale of its channels.

    Attributes:
        name: qualified name.
        kind: name of its class, such as ``"TiedConv2d"``.
        blocks: numbers of blocks, one per split; ``(1,)`` if nothing is shared.
        groups: numbers of groups, likewise.
        params: parameters, bias included.
        macs: multiply-adds for one image, over all calls in a forward pass.
        shape: the output for one image, :math:`(C, H, W)` for images, with the channels first for every kind.
        weight_norm: Euclidean norm of the weights, without the bias.
        weight_std: their standard deviation.
        mean, std: of all activations, which are the layer's own outputs, before any norm.
        dead: share of the channels, 0-1, whose output is the same number everywhere in all images.
        rank: effective rank of the channels over all positions of all images, 0 if all are dead.
        samples: how many positions that is measured on. ``rank`` is at most ``samples - 1``, so it says something about
            the layer only where there are many more samples than channels.
    """

    name: str
    kind: str
    blocks: tuple[int, ...]
    groups: tuple[int, ...]
    params: int
    macs: int
    shape: tuple[int, ...]
    weight_norm: float
    weight_std: float
    mean: float
    std: float
    dead: float
    rank: float
    samples: int

    @property
    def rank_share(self) -> float:
        """The effective rank over the number of channels, 0-1."""
        return self.rank / self.shape[0]

    @property
    def measurable(self) -> bool:
        """Whether there were more positions than channels; if not, ``rank`` says more about the images."""
        return self.samples > self.shape[0]


def summarize(model: nn.Module, images: Tensor | Iterable[Tensor], *, batch_size: int = 16) -> list[LayerSummary]:
    """Measure every convolution and linear layer, tied or not, on images.

    A copy of the model in evaluation mode is read once. Per layer :math:`C^2` numbers are kept, whatever the number of
    images.

    Args:
        model: any network that takes ``images``.
        images: one tensor, or batches; normalised as the model expects them, on its device.
        batch_size: how many images of one tensor are computed at once.

    Shape:
        - images: :math:`(N, C, H, W)`, or whatever the model takes, with :math:`N` first.

    Returns:
        One entry per layer, in the order of their first calls. Layers that the forward pass does not call as modules
        are left out.

    Raises:
        ValueError: if there are no images or no layers, if a layer returns numbers that are not finite, or if
            ``batch_size`` is below 1.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), TiedConv2d(8, 16, 3, blocks=2))
        >>> first, second = summarize(net, torch.randn(4, 3, 12, 12))
        >>> second.kind, second.blocks, second.shape, second.params  # 8 * 4 * 3 * 3 + 8
        ('TiedConv2d', (2,), (16, 8, 8), 296)
        >>> second.macs  # 16 * 4 * 3 * 3 for each of 64 positions
        36864
    """
    if batch_size < 1:
        raise ValueError(f"summarize: batch_size must be at least 1, got batch_size={batch_size}.")
    twin = copied(model).eval()
    layers = {name: module for name, module in twin.named_modules() if isinstance(module, _LAYERS)}
    if not layers:
        raise ValueError(f"summarize: {type(model).__name__} has no convolution and no linear layer.")
    moments: dict[str, _Moments] = {}

    def note(name: str, module: nn.Module, output: Tensor) -> None:
        if name not in moments:
            moments[name] = _Moments(_channels_first(module, output).shape[1])
        moments[name].add(_channels_first(module, output))

    for name, module in layers.items():
        module.register_forward_hook(lambda module, args, output, name=name: note(name, module, output))
    seen = 0
    with torch.no_grad(), counted_macs(layers) as macs:
        for batch in images.split(batch_size) if isinstance(images, Tensor) else images:
            if len(batch):
                twin(batch)
                seen += len(batch)
    if not seen:
        raise ValueError("summarize: expected at least one image, got none.")
    return [_summary(name, layers[name], entry, round(macs[name] / seen)) for name, entry in moments.items()]


class _Moments:
    """Sums over the positions of a layer's outputs: of channels, of products of two channels; lowest and highest."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.shape: tuple[int, ...] = ()
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)
        self.low = torch.full((channels,), torch.inf, dtype=torch.float64)
        self.high = -self.low

    def add(self, output: Tensor) -> None:
        """Take in an output, (N, C, ...)."""
        self.shape = tuple(output.shape[1:])
        for image in output:  # one at a time, as float64 takes twice the memory
            values = image.double().cpu().reshape(len(image), -1)
            self.low = torch.minimum(self.low, values.amin(dim=1))
            self.high = torch.maximum(self.high, values.amax(dim=1))
            self.count += values.shape[1]
            self.total += values.sum(dim=1)
            self.products.addmm_(values, values.T)


def _summary(name: str, layer: Any, moments: _Moments, macs: int) -> LayerSummary:
    if not moments.products.isfinite().all():
        raise ValueError(
            f"summarize: the layer {name!r} returns numbers that are not finite. Check the weights and the images."
        )
    means = moments.total / moments.count
    covariance = moments.products / moments.count - means.outer(means)
    variances = covariance.diagonal().clamp_min(0)
    live = (moments.low < moments.high) & (variances > 0)
    weights = list(layer.weights) if isinstance(layer, SplitTiedConv2d) else [layer.weight]
    values = torch.cat([weight.detach().double().flatten() for weight in weights])
    return LayerSummary(
        name,
        type(layer).__name__,
        _per_split(getattr(layer, "blocks", 1)),
        _per_split(getattr(layer, "groups", 1)),
        sum(parameter.numel() for parameter in layer.parameters()),
        macs,
        moments.shape,
        values.norm().item(),
        values.std(correction=0).item(),
        means.mean().item(),
        (variances.mean() + means.var(correction=0)).sqrt().item(),
        1 - live.double().mean().item(),
        _effective_rank(covariance[live][:, live]),
        moments.count,
    )


def _effective_rank(covariance: Tensor) -> float:
    deviations = covariance.diagonal().sqrt()
    correlation = (covariance / deviations.outer(deviations)).clamp(-1, 1)
    return len(correlation) ** 2 / correlation.square().sum().item() if len(correlation) else 0.0


def _channels_first(layer: nn.Module, output: Tensor) -> Tensor:
    return output if isinstance(layer, _CONVS) else output.movedim(-1, 1)


def _per_split(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)
