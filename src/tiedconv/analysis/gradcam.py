"""Where a classifier looks: Grad-CAM heat maps (Selvaraju et al., 2017; paper, Figs. 8 and A.1)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import pooling

from .._checks import named
from .._extras import require
from .._meta import copied
from ._patterns import check_layers

_POOLING = (
    pooling._AvgPoolNd,
    pooling._MaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._LPPoolNd,
    nn.FractionalMaxPool2d,
)
# The first three return what they are given, and would lend it their name; attention's (N, heads, L, L) is not a map.
_NO_MAPS = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Softmax)


@dataclass(frozen=True, eq=False)
class GradCam:
    """Heat maps of one model, one per image, and the classes that they explain; tensors on the CPU.

    Attributes:
        layer: qualified name of the layer whose output was weighted.
        heat: :math:`(N, H', W')`, not negative, in the size of the layer's output and in no unit. All 0 where nothing
            in the layer speaks for the class.
        targets: :math:`(N)`, the explained class of each image.
        scores: :math:`(N)`, its score, before any softmax.
        probabilities: :math:`(N)`, its share of the softmax over all classes.
        num_classes: how many classes the model tells apart.
        image_size: :math:`(H, W)` of the images.
    """

    layer: str
    heat: Tensor
    targets: Tensor
    scores: Tensor
    probabilities: Tensor
    num_classes: int
    image_size: tuple[int, int]

    def upsampled(self) -> Tensor:
        """Return the heat in the images' size, bilinear, each map divided by its maximum, :math:`(N, H, W)`."""
        heat = F.interpolate(self.heat[:, None], self.image_size, mode="bilinear", align_corners=False)[:, 0]
        return heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)

    def coverage(self) -> Tensor:
        """Return which share of each image is hotter than half of its maximum, :math:`(N)` in 0-1."""
        return (self.upsampled() > 0.5).double().mean(dim=(1, 2))

    def inside(self, masks: Tensor) -> Tensor:
        """Return which share of each image's heat lies on its object, :math:`(N)` in 0-1; 0 where the map is all 0.

        Args:
            masks: :math:`(N, H, W)`, bool, the object's pixels.

        Raises:
            RuntimeError: if the masks have another shape.
        """
        heat = self.upsampled().double()
        if masks.shape != heat.shape:
            raise RuntimeError(
                f"GradCam.inside: expected a mask for each image, {tuple(heat.shape)}, got {tuple(masks.shape)}."
            )
        total = heat.sum(dim=(1, 2))
        return (heat * masks.cpu()).sum(dim=(1, 2)) / total.clamp_min(torch.finfo(heat.dtype).tiny)


@named("grad_cam")
def grad_cam(
    model: nn.Module,
    images: Tensor,
    *,
    layer: str | None = None,
    targets: Tensor | None = None,
    batch_size: int = 16,
) -> GradCam:
    r"""Map where a classifier finds what speaks for a class (Selvaraju et al., 2017; paper, Figs. 8 and A.1).

    With :math:`A_k` channel :math:`k` of the layer's output and :math:`y` the score of the class, the heat is
    :math:`\max(0, \sum_k \alpha_k A_k)`, where :math:`\alpha_k` is the spatial mean of
    :math:`\partial y / \partial A_k`. It is computed on a copy of the model in evaluation mode.

    Args:
        model: any classifier that takes ``images`` and returns one score per class, :math:`(N, K)`.
        images: normalised as the model expects them, on its device.
        layer: qualified name, as in ``model.named_modules()``, of a module that returns a map :math:`(N, C, H', W')`;
            of one called several times in a forward pass, the last call counts. None: the last one before the pooling
            whose map has more than one position, such as ``layer4`` of a ResNet.
        targets: the class to explain for each image. None: that of the highest score.
        batch_size: how many images are computed at once.

    Shape:
        - images: :math:`(N, C, H, W)`, :math:`N` at least 1.
        - targets: :math:`(N)`.

    Raises:
        ValueError: if the layer is unknown, is not reached or returns no map; with ``layer=None``, if the model has no
            map after its last tokens, as ViT and Swin have none; if ``targets`` or ``batch_size`` is not as described.
        RuntimeError: if ``images`` or what the model returns has another shape.
        ModuleNotFoundError: if captum is not installed.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> cam = grad_cam(net, torch.randn(4, 3, 12, 12))
        >>> cam.layer, cam.heat.shape, cam.upsampled().shape, cam.coverage().shape
        ('1', torch.Size([4, 10, 10]), torch.Size([4, 12, 12]), torch.Size([4]))
    """
    if images.dim() != 4 or not len(images):
        raise RuntimeError(f"expected images (N, C, H, W) with N >= 1, got {tuple(images.shape)}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got batch_size={batch_size}.")
    attr = require("captum.attr", extra="analysis")
    twin = copied(model).eval().requires_grad_(False)
    classes, layer = _look(twin, images[:1], layer)
    if targets is not None:
        _check_targets(targets, len(images), classes)
    cam = attr.LayerGradCam(twin, twin.get_submodule(layer))
    heat, chosen, scores = [], [], []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        with torch.no_grad():
            logits = twin(batch)
        aims = logits.argmax(dim=1) if targets is None else targets[start : start + batch_size].to(logits.device)
        heat.append(cam.attribute(batch, target=aims, relu_attributions=True)[:, 0].detach().float().cpu())
        chosen.append(aims.cpu())
        scores.append(logits.float().cpu())
    every, aims = torch.cat(scores), torch.cat(chosen).long()
    return GradCam(
        layer,
        torch.cat(heat),
        aims,
        every.gather(1, aims[:, None])[:, 0],
        every.softmax(dim=1).gather(1, aims[:, None])[:, 0],
        classes,
        (images.shape[2], images.shape[3]),
    )


class _Return(NamedTuple):
    """What a module returned in a forward pass; ``kind`` is ``"map"``, ``"tokens"`` in either form, or empty."""

    name: str
    shape: tuple[int, ...] | None
    kind: str
    left_out: bool


@torch.no_grad()
def _record(model: nn.Module, image: Tensor) -> tuple[Any, list[_Return]]:
    """Return the model's output for one image, and what its modules returned, in the order of returning."""
    returns: list[_Return] = []
    pooled: list[Tensor] = []  # the last pooling's output, which modules around it may return as theirs

    def note(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(module, _POOLING):
            pooled[:] = [output]
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        left_out = isinstance(module, _NO_MAPS) or any(output is tensor for tensor in pooled)
        returns.append(_Return(name, shape, _kind(shape, image), left_out))

    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: note(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        return model(image), returns
    finally:
        for handle in handles:
            handle.remove()


def _kind(shape: tuple[int, ...] | None, image: Tensor) -> str:
    if shape is None or shape[:1] != image.shape[:1] or len(shape) not in (3, 4):
        return ""
    if len(shape) == 4 and _fits(shape[2:], image):
        return "map"
    return "tokens" if len(shape) == 3 or _fits(shape[1:3], image) else ""


def _fits(size: tuple[int, ...], image: Tensor) -> bool:
    """Say whether a size (H', W') is the image's divided by one stride, but for two pixels at the borders."""
    height, width = image.shape[2:]
    return min(size) > 1 and abs(size[0] * width - size[1] * height) <= 2 * max(height, width)


def _look(model: nn.Module, image: Tensor, layer: str | None) -> tuple[int, str]:
    """Return how many classes the model has, and the layer, found or checked."""
    check_layers(model, [] if layer is None else [layer])
    scores, returns = _record(model, image)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise RuntimeError(
            f"{type(model).__name__} must return a score for each class, (N, classes), got {got}. Pass a classifier."
        )
    if layer is None:
        return scores.shape[1], _choose(model, returns)
    of_layer = [entry for entry in returns if entry.name == layer]
    if not of_layer:
        raise ValueError(f"the layer {layer!r} is not reached in a forward pass.")
    if of_layer[-1].kind != "map":
        raise ValueError(
            f"the layer {layer!r} must return a map (N, C, H', W') of more than one position, got "
            f"{of_layer[-1].shape or 'no tensor'}. {_advice(returns)}"
        )
    return scores.shape[1], layer


def _choose(model: nn.Module, returns: list[_Return]) -> str:
    """Return the last module with a map; where several return the same tensor, that is the outermost."""
    left = [entry for entry in returns if entry.kind and not entry.left_out]
    if left and left[-1].kind == "map":
        return left[-1].name
    why = f": its last layers return tokens or channels last, as {left[-1].name!r} {left[-1].shape}" if left else ""
    raise ValueError(f"{type(model).__name__} has no map (N, C, H', W') before its pooling{why}. {_advice(returns)}")


def _advice(returns: list[_Return]) -> str:
    maps = list(dict.fromkeys(entry.name for entry in reversed(returns) if entry.kind == "map" and not entry.left_out))
    if not maps:
        return "No module returns a map: Grad-CAM is not for this model."
    return f"Modules that return a map, last first: {', '.join(maps[:5])}. Pass one as layer, or take another model."


def _check_targets(targets: Tensor, images: int, classes: int) -> None:
    if targets.shape != (images,) or targets.is_floating_point():
        got = f"{tuple(targets.shape)} of {targets.dtype}"
        raise ValueError(f"targets must be one class per image, {images} integers, got {got}.")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise ValueError(f"targets must be in 0 to {classes - 1}, got {low if low < 0 else high}.")
