"""What in an image the filters of a layer respond to: their guided-backpropagation patterns."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._meta import copied


class PatternReader:
    """Reads the patterns of the filters of several layers, from one forward pass a batch of images.

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

    def read(self, images: Tensor, examined: Mapping[str, list[int]]) -> Iterator[tuple[str, Tensor]]:
        """Yield each layer of ``examined`` and the patterns of these of its channels, (N, K, C * H * W).

        The patterns of one layer are all that is held at a time, beside the network's own activations.
        """
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            means = self.means(images)
        for layer, channels in examined.items():
            # The images of a batch do not touch each other in evaluation mode, so the gradient of a channel's sum over
            # them is each image's own: one backward pass gives the channel's patterns on all of them.
            sums = means[layer].sum(dim=0)
            patterns = images.new_empty(len(images), len(channels), images[0].numel())
            for row, channel in enumerate(channels):
                patterns[:, row] = torch.autograd.grad(sums[channel], images, retain_graph=True)[0].flatten(1)
            yield layer, patterns

    def means(self, images: Tensor) -> dict[str, Tensor]:
        """Return the spatial means of each layer's channels, (N, C), from a pass that ends when all are known."""
        found: dict[str, Tensor] = {}

        def keep(layer: str, output: Any) -> None:
            if layer not in found:
                # At once: a later operation may change the output in place.
                found[layer] = self._mean(layer, output)
            if len(found) == len(self._channels):
                raise _AllFound

        handles = [
            self._twin.get_submodule(layer).register_forward_hook(lambda m, args, out, layer=layer: keep(layer, out))
            for layer in self._channels
        ]
        try:
            self._twin(images)
        except _AllFound:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for layer in self._channels:
            if layer not in found:
                raise ValueError(f"filter_similarity: the layer {layer!r} is not reached in a forward pass.")
        return found

    def _mean(self, layer: str, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() < 2:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"filter_similarity: the layer {layer!r} must return one tensor (N, C, ...), got {got}.")
        expected = self._channels[layer]
        if expected is not None and output.shape[1] != expected:
            raise ValueError(
                f"filter_similarity: the layer {layer!r} must return its {expected} channels (num_chs in "
                f"feature_info) second, (N, {expected}, ...), got {tuple(output.shape)}. Pass layers that do."
            )
        return output.flatten(2).mean(2) if output.dim() > 2 else output


class _AllFound(Exception):  # noqa: N818  a signal, not an error
    """Ends the forward pass: what comes after the deepest layer is not needed."""


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
