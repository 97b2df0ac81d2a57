import copy

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from tiedconv.analysis.gradcam import GradCam, grad_cam
from tiedconv.nn import TiedConv2d


class Net(nn.Module):
    """A small classifier with what goes wrong easily: in-place ReLU, norm, dropout, a functional head."""

    def __init__(self, conv=nn.Conv2d, **kwargs):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.conv = conv(8, 12, 3, padding=1, **kwargs)
        self.norm = nn.BatchNorm2d(12)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12, 5)
        nn.init.zeros_(self.fc.bias)  # or it alone decides on the class, and nothing in the maps speaks for it

    def forward(self, x):
        x = self.drop(self.act(self.norm(self.conv(F.relu(self.stem(x))))))
        return self.fc(x.mean(dim=(2, 3)) ** 2)


def by_hand(net, images, targets=None):
    """Grad-CAM of ``net.act`` written out: one image at a time, in float64."""
    net = copy.deepcopy(net).double().eval()
    maps = []
    for i, image in enumerate(images.double()):
        features = F.relu(net.norm(net.conv(F.relu(net.stem(image[None]))))).detach().requires_grad_()
        scores = net.fc(features.mean(dim=(2, 3)) ** 2)[0]
        target = int(scores.argmax() if targets is None else targets[i])
        [gradient] = torch.autograd.grad(scores[target], features)
        weights = gradient[0].mean(dim=(1, 2)).numpy()
        maps.append(np.maximum(np.einsum("k,khw->hw", weights, features[0].detach().numpy()), 0))
    return np.stack(maps)


@pytest.fixture
def net():
    net = Net(TiedConv2d, blocks=2)
    nn.init.uniform_(net.norm.running_mean)
    nn.init.uniform_(net.norm.running_var, 0.5, 2)
    return net


@pytest.mark.parametrize("targets", [None, [4, 0, 2, 2, 1]])
@pytest.mark.parametrize("batch_size", [2, 16])
def test_heat_is_the_rectified_sum_of_the_maps_weighted_by_their_mean_gradients(net, targets, batch_size):
    images = torch.randn(5, 3, 16, 12)
    cam = grad_cam(net, images, targets=targets and torch.tensor(targets), batch_size=batch_size)
    expected = by_hand(net, images, targets)
    assert cam.layer == "act"
    assert cam.heat.shape == (5, 8, 6)
    assert expected.max() > 0
    np.testing.assert_allclose(cam.heat.numpy(), expected, rtol=1e-4, atol=1e-6)
    scores = net.eval()(images).detach()
    assert cam.targets.tolist() == (targets or scores.argmax(dim=1).tolist())
    for i, target in enumerate(cam.targets):
        assert cam.scores[i] == pytest.approx(scores[i, target].item(), rel=1e-5)
        assert cam.probabilities[i] == pytest.approx(F.softmax(scores[i], dim=0)[target].item(), rel=1e-5)
    assert cam.num_classes == 5


def test_another_layer_is_weighted_before_what_changes_its_output_in_place(net):
    images = torch.randn(2, 3, 16, 12)
    cam = grad_cam(net, images, layer="norm")  # the in-place ReLU behind it must not reach the maps
    net.eval()
    features = net.norm(net.conv(F.relu(net.stem(images)))).detach().requires_grad_()
    scores = net.fc(F.relu(features).mean(dim=(2, 3)) ** 2)
    [gradient] = torch.autograd.grad(scores.max(dim=1).values.sum(), features)
    expected = F.relu((gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)).detach()
    torch.testing.assert_close(cam.heat, expected, rtol=1e-4, atol=1e-6)


def test_the_model_is_left_as_it_was(net):
    net.train()
    net.norm.eval()
    net.stem.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    wants = [parameter.requires_grad for parameter in net.parameters()]
    grad_cam(net, torch.randn(2, 3, 16, 12))
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == wants
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("model", "layer", "size"),
    [
        (lambda: torchvision.models.resnet18(), "layer4", 64),
        (lambda: timm.create_model("tiedresnet_tiny"), "layer4", 28),
        (lambda: timm.create_model("resnet18"), "layer4", 64),
        (lambda: timm.create_model("resnet18"), "layer3", 32),  # layer4 has one position
        (lambda: torchvision.models.mobilenet_v3_small(), "features", 64),
        (lambda: torchvision.models.squeezenet1_1(), "classifier.2", 64),  # the convolution of its classes
        (lambda: timm.create_model("regnetx_002"), "s4", 64),
        (lambda: timm.create_model("convnext_atto"), "stages", 64),
        (lambda: timm.create_model("mobilenetv3_small_100"), "blocks", 64),
        (lambda: timm.create_model("efficientnet_lite0"), "bn2", 64),
    ],
)
def test_the_last_map_before_pooling(model, layer, size):
    assert grad_cam(model(), torch.randn(1, 3, size, size)).layer == layer


def test_what_pooling_returns_is_no_map_whatever_module_returns_it():
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    net = nn.Sequential(features, nn.Dropout(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    assert grad_cam(net, torch.randn(1, 3, 14, 18)).layer == "0.1"


class Head(nn.Module):
    def forward(self, x):
        return x.flatten(1).mean(dim=1, keepdim=True)


class ToTokens(nn.Module):
    def forward(self, x):
        return x.flatten(2).transpose(1, 2)


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize(("last", "shape"), [(ToTokens, "(1, 100, 24)"), (ChannelsLast, "(1, 10, 10, 24)")])
def test_networks_that_end_in_tokens_are_refused_with_what_to_pass(last, shape):
    net = nn.Sequential(nn.Conv2d(3, 24, 3), last(), Head())
    with pytest.raises(ValueError, match=r"grad_cam: Sequential has no map \(N, C, H', W'\) before its poo") as error:
        grad_cam(net, torch.randn(2, 3, 12, 12))
    assert f"as '1' {shape}. Modules that return a map, last first: 0. Pass one as layer" in str(error.value)
    assert grad_cam(net, torch.randn(2, 3, 12, 12), layer="0").heat.shape == (2, 10, 10)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_transformers_are_refused_and_attention_is_no_map(name):
    model = timm.create_model(name, depth=1) if "vit" in name else timm.create_model(name, depths=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"before its pooling: its last layers return tokens or .* patch_embed.proj"):
        grad_cam(model, torch.randn(1, 3, 224, 224))


def test_a_network_without_maps_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 4))
    with pytest.raises(ValueError, match="No module returns a map: Grad-CAM is not for this model"):
        grad_cam(net, torch.randn(1, 3, 3, 3))


class Unused(Net):
    def __init__(self):
        super().__init__()
        self.spare = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "covn"}, r"Unused has no layer 'covn'\. Nearest names: conv, "),
        ({"layer": "spare"}, "the layer 'spare' is not reached in a forward pass"),
        ({"layer": "fc"}, r"the layer 'fc' must return a map \(N, C, H', W'\) of more than one position, got \(1, 5\)"),
        ({"targets": torch.tensor([0, 5])}, r"targets must be in 0 to 4, got 5\."),
        ({"targets": torch.tensor([0, -1])}, r"targets must be in 0 to 4, got -1\."),
        ({"targets": torch.tensor([0])}, r"targets must be one class per image, 2 integers, got \(1,\) of torch.int64"),
        ({"targets": torch.ones(2)}, r"targets must be one class per image, 2 integers, got \(2,\) of torch.float32"),
        ({"batch_size": 0}, "batch_size must be at least 1, got batch_size=0"),
    ],
)
def test_mistakes_in_the_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=f"grad_cam: {message}"):
        grad_cam(Unused(), torch.randn(2, 3, 12, 12), **options)


def test_other_shapes_are_refused():
    with pytest.raises(RuntimeError, match=r"expected images \(N, C, H, W\) with N >= 1, got \(3, 12, 12\)"):
        grad_cam(Net(), torch.randn(3, 12, 12))
    with pytest.raises(RuntimeError, match=r"Conv2d must return a score for each class, .* got \(1, 4, 10, 10\)"):
        grad_cam(nn.Conv2d(3, 4, 3), torch.randn(2, 3, 12, 12))


def cam_of(heat, size):
    nothing = torch.zeros(len(heat))
    return GradCam("layer", heat, nothing.long(), nothing, nothing, 1, size)


def test_coverage_and_heat_inside_a_mask_on_maps_of_the_image_size():
    heat = torch.zeros(3, 4, 5)
    heat[0, 1, 2:4] = 7.0
    heat[1] = 0.3  # hot everywhere
    heat[0, 0, 0] = 3.5  # not above half of the maximum
    cam = cam_of(heat, (4, 5))
    assert cam.coverage().tolist() == [0.1, 1, 0]
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[:, 1] = True
    assert cam.inside(masks).tolist() == pytest.approx([14 / 17.5, 0.25, 0])
    with pytest.raises(RuntimeError, match=r"expected a mask for each image, \(3, 4, 5\), got \(4, 5\)"):
        cam.inside(masks[0])


def test_maps_are_brought_to_the_size_of_the_image_by_bilinear_interpolation():
    heat = torch.rand(2, 3, 4) + 0.1
    up = cam_of(heat, (12, 16)).upsampled()
    assert up.amax(dim=(1, 2)).tolist() == [1, 1]
    # Between the centres of the first two cells, (1.5, 1.5) and (1.5, 5.5) in pixels of the image, the value is linear.
    scale = F.interpolate(heat[:, None], (12, 16), mode="bilinear").amax(dim=(1, 2, 3))
    step = (up[:, 1, 4] - up[:, 1, 3]) * scale
    torch.testing.assert_close(step, (heat[:, 0, 1] - heat[:, 0, 0]) / 4)
