"""What in an image the filters of a layer respond to: their guided-backpropagation patterns."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._meta import copied


class PatternReader:
    """Reads the patterns of the filters of several layers, from one forward pass per batch of images.

    Args:
        model: stays as it is; a copy in evaluation mode is read.
        channels: the layers and how many channels each must return, None where that is not known.
    """

    def __init__(self, model: nn.Module, channels: Mapping[str, int | None]) -> None:
        self._twin = copied(model).eval().requires_grad_(False)
        for module in self._twin.modules():
            if isinstance(module, nn.ReLU):
                module.forward = _GuidedReLU.apply  # type: ignore[method-assign]
        self._channels = dict(channels)
        for layer in channels:
            hook = lambda module, args, output, layer=layer: self._keep(layer, output)  # noqa: E731
            self._twin.get_submodule(layer).register_forward_hook(hook)

    def read(self, images: Tensor, max_channels: int | None) -> Iterator[tuple[str, list[int], Tensor]]:
        """Yield each layer, its examined channels, and their patterns, (N, K, C * H * W).

        The patterns of one layer are all that is held at a time, besides the network's own activations.
        """
        images = images.detach().requires_grad_()
        self._means: dict[str, Tensor] = {}
        with torch.enable_grad():
            self._twin(images)
        for layer in self._channels:
            if layer not in self._means:
                raise ValueError(f"the layer {layer!r} is not reached in a forward pass.")
            # The images of a batch do not touch each other in evaluation mode, so the gradient of a channel's sum over
            # them is each image's own: one backward pass gives the channel's patterns on all of them.
            sums = self._means[layer].sum(dim=0)
            # Multiples of one step where the limit divides the channels: then channel c and its namesake in the next
            # tied block, c + C/B, are both examined.
            channels = evenly_spaced(len(sums), len(sums) if max_channels is None else max_channels)
            patterns = images.new_empty(len(images), len(channels), images[0].numel())
            for row, channel in enumerate(channels):
                patterns[:, row] = torch.autograd.grad(sums[channel], images, retain_graph=True)[0].flatten(1)
            yield layer, channels, patterns

    def _keep(self, layer: str, output: Any) -> None:
        """Keep the spatial means of a layer's first output, at once: a later operation may change it in place."""
        if layer in self._means:
            return
        if not isinstance(output, Tensor) or output.dim() < 2:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"the layer {layer!r} must return one tensor (N, C, ...), got {got}.")
        expected = self._channels[layer]
        if expected is not None and output.shape[1] != expected:
            raise ValueError(
                f"the layer {layer!r} must return its {expected} channels (num_chs in feature_info) second, "
                f"(N, {expected}, ...), got {tuple(output.shape)}. Pass layers that do."
            )
        self._means[layer] = output.flatten(2).mean(2) if output.dim() > 2 else output


def check_layers(model: nn.Module, layers: Iterable[str]) -> None:
    """Raise ValueError if ``model`` lacks one of ``layers``, with the names nearest to it."""
    names = [name for name, _ in model.named_modules() if name]
    for layer in layers:
        if layer not in names:
            nearest = ", ".join(difflib.get_close_matches(layer, names, n=3, cutoff=0.0))
            raise ValueError(f"{type(model).__name__} has no layer {layer!r}. Nearest names: {nearest}.")


def evenly_spaced(length: int, count: int) -> list[int]:
    """Return at most ``count`` indices below ``length``, ascending from 0 and evenly spaced.

    Example:
        >>> evenly_spaced(10, 4), evenly_spaced(3, 4)
        ([0, 2, 5, 7], [0, 1, 2])
    """
    count = min(length, count)
    return [i * length // count for i in range(count)]


class _GuidedReLU(torch.autograd.Function):
    """ReLU that sends only positive gradients back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        output = x.clamp_min(0)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad.clamp_min(0), output, 0)  # one pass less than torch.where
