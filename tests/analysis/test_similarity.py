"""tiedconv.analysis.similarity against patterns computed by hand and by captum."""

import copy
import weakref

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from tiedconv.analysis import LayerSimilarity, evenly_spaced, filter_similarity


def cosines(patterns: torch.Tensor) -> torch.Tensor:
    """Mean over images of the cosines between the rows of patterns (N, K, D)."""
    unit = F.normalize(patterns.double(), dim=2)
    return (unit @ unit.transpose(1, 2)).mean(0)


def test_a_linear_layer_has_the_weights_themselves_as_patterns():
    # A 1x1 convolution's channel mean has the gradient w[c] / (H * W) at every pixel: the cosines are those of w.
    conv = nn.Conv2d(3, 6, 1)
    [result] = filter_similarity(nn.Sequential(conv), ["0"], torch.randn(2, 3, 4, 5))
    torch.testing.assert_close(result.matrix, cosines(conv.weight.detach().flatten(1)[None]), atol=1e-6, rtol=0)


def test_two_layers_match_guided_backpropagation_written_out():
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 10, 3)
    net = nn.Sequential(first, nn.ReLU(inplace=True), second)
    images = torch.randn(3, 2, 7, 7)
    hidden = first(images)
    rows = []
    for channel in range(10):
        size = second(hidden).shape[2:].numel()
        at_output = torch.zeros(3, 10, 5, 5)
        at_output[:, channel] = 1 / size
        at_relu = F.conv_transpose2d(at_output, second.weight)
        at_hidden = at_relu.clamp_min(0) * (hidden > 0)
        rows.append(F.conv_transpose2d(at_hidden, first.weight, padding=1).flatten(1))
    [result] = filter_similarity(net, ["2"], images, batch_size=3)
    torch.testing.assert_close(result.matrix, cosines(torch.stack(rows, 1).detach()), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_all_layers_of_one_pass_match_captum():
    from captum.attr import GuidedBackprop

    net = timm.create_model("test_resnet", num_classes=4).eval()
    images = torch.randn(3, 3, 32, 32)
    layers = ["layer1", "layer3.0.bn2", "conv1", "layer3"]  # bn2: the shortcut is added to its output in place
    results = filter_similarity(net, layers, images, max_channels=5, batch_size=2)
    for layer, result in zip(layers, results, strict=True):
        twin = copy.deepcopy(net)
        kept = []
        twin.get_submodule(layer).register_forward_hook(lambda m, args, out, kept=kept: kept.append(out.clone()))

        class Means(nn.Module):
            def __init__(self, twin, kept):
                super().__init__()
                self.twin, self.kept = twin, kept

            def forward(self, x):
                self.kept.clear()
                self.twin(x)
                return self.kept[0].mean((2, 3))

        for module in twin.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        guided = GuidedBackprop(Means(twin, kept))
        rows = [guided.attribute(images.clone().requires_grad_(), target=c).flatten(1) for c in result.channels]
        assert result.layer == layer
        torch.testing.assert_close(result.matrix, cosines(torch.stack(rows, 1).detach()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [(5,), (1, 4), (2, 2, 1)])
def test_batches_count_like_one_tensor(sizes):
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3))
    images = torch.randn(5, 3, 8, 8)
    expected = filter_similarity(net, ["0", "2"], images)
    results = filter_similarity(net, ["0", "2"], iter(images.split(sizes)), batch_size=2)
    for result, same in zip(results, expected, strict=True):
        torch.testing.assert_close(result.matrix, same.matrix, atol=1e-6, rtol=0)
        assert torch.equal(result.images, same.images)


def test_batches_are_let_go_and_each_goes_through_the_model_once():
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3))
    forward = nn.Conv2d.forward
    seen = []
    alive: list[weakref.ref] = []

    def batches():
        for _ in range(6):
            batch = torch.randn(2, 3, 8, 8)
            alive.append(weakref.ref(batch))
            assert sum(ref() is not None for ref in alive) <= 2
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv2d, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
        filter_similarity(net, ["0", "2"], batches(), batch_size=2)
    assert seen == [2, 2] * 6


def test_images_of_different_sizes_may_follow_each_other():
    conv = nn.Conv2d(3, 4, 1)
    batches = [torch.randn(1, 3, 6, 6), torch.randn(2, 3, 9, 5)]
    [result] = filter_similarity(nn.Sequential(conv), ["0"], batches)
    torch.testing.assert_close(result.matrix, cosines(conv.weight.detach().flatten(1)[None]), atol=1e-6, rtol=0)
    assert result.images.tolist() == [[3] * 4] * 4


def test_no_batch_and_batches_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match=r"there is no image, images yields no batch\. Pass at least one"):
        filter_similarity(Unused(), ["used"], iter(()))
    labelled = [(torch.zeros(1, 3, 4, 4), torch.zeros(1))]
    with pytest.raises(TypeError, match=r"got tuple\. Of a loader of images and labels pass \(images for images, _ in"):
        filter_similarity(Unused(), ["used"], labelled)


def test_the_matrix_is_symmetric_with_a_unit_diagonal_in_range():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3))
    [result] = filter_similarity(net, ["3"], torch.randn(4, 3, 9, 9))
    assert torch.equal(result.matrix, result.matrix.T)
    assert torch.equal(result.matrix.diagonal(), torch.ones(12, dtype=torch.float64))
    assert result.matrix.abs().max() <= 1
    assert result.pairs().shape == (66,)


def test_identical_filters_have_similarity_one_and_opposite_ones_minus_one():
    conv = nn.Conv2d(3, 3, 3)
    with torch.no_grad():
        conv.weight[1] = 2 * conv.weight[0]
        conv.weight[2] = -conv.weight[0]
    [result] = filter_similarity(nn.Sequential(conv), ["0"], torch.randn(2, 3, 6, 6))
    expected = torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    torch.testing.assert_close(result.matrix, expected)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    net = timm.create_model("test_resnet", num_classes=4).train(training)
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    relu = next(m for m in net.modules() if isinstance(m, nn.ReLU))
    state = copy.deepcopy(net.state_dict())
    grads = {name: p.grad.clone() for name, p in net.named_parameters()}
    images = torch.randn(2, 3, 32, 32)
    filter_similarity(net, None, images, max_channels=4)
    assert net.training is training
    assert relu.inplace
    assert not images.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(p.grad, grads[name]) and p.requires_grad for name, p in net.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())


def test_dead_filters_are_left_out_and_counted():
    conv = nn.Conv2d(3, 5, 3)
    with torch.no_grad():
        conv.weight[[1, 4]] = 0
    [result] = filter_similarity(nn.Sequential(conv), ["0"], torch.randn(2, 3, 6, 6))
    assert result.channels == [0, 2, 3]
    assert result.dead == 2
    assert result.matrix.isfinite().all()
    assert sum(result.histogram().counts) == 3


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_layer_without_a_living_pair_has_an_empty_histogram(value):
    conv = nn.Conv2d(3, 2, 3)
    nn.init.constant_(conv.weight, value)
    [result] = filter_similarity(nn.Sequential(conv), ["0"], torch.randn(1, 3, 6, 6))
    assert (result.channels, result.dead, result.mean) == ([], 2, 0.0)
    assert sum(result.histogram().counts) == 0


def test_a_pair_is_averaged_over_the_images_on_which_both_filters_live():
    # Filter 0 sees only bright images through the ReLU, filter 1 only dark ones, filter 2 both.
    first, second = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 3, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        second.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).view(3, 2, 1, 1))
    images = torch.stack([torch.ones(1, 2, 2), -torch.ones(1, 2, 2)])
    [result] = filter_similarity(nn.Sequential(first, nn.ReLU(), second), ["2"], images)
    assert result.images.tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 2]]
    assert result.pairs().tolist() == pytest.approx([1.0, 1.0])
    assert result.matrix[0, 1] == 0


def test_tiny_gradients_keep_their_direction():
    conv = nn.Conv2d(3, 4, 3)
    scaled = copy.deepcopy(conv)
    with torch.no_grad():
        scaled.weight.mul_(1e-30)
    images = torch.randn(1, 3, 6, 6)
    [expected] = filter_similarity(nn.Sequential(conv), ["0"], images)
    [result] = filter_similarity(nn.Sequential(scaled), ["0"], images)
    torch.testing.assert_close(result.matrix, expected.matrix, atol=1e-5, rtol=0)


def test_channels_are_chosen_evenly():
    net = nn.Sequential(nn.Conv2d(3, 12, 1))
    [result] = filter_similarity(net, ["0"], torch.randn(1, 3, 4, 4), max_channels=4)
    assert result.channels == [0, 3, 6, 9]
    [result] = filter_similarity(net, ["0"], torch.randn(1, 3, 4, 4), max_channels=None)
    assert result.channels == list(range(12))


def test_default_layers_are_the_stages():
    net = timm.create_model("test_resnet", num_classes=4)
    results = filter_similarity(net, None, torch.randn(1, 3, 32, 32), max_channels=2)
    assert [result.layer for result in results] == [stage["module"] for stage in net.feature_info]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 64, "window_size": 2, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
            r"'layers\.0' must return its 12 channels .* second, \(N, 12, ...\), got \(2, 16, 16, 12\)\. Pass layers",
        ),
        ("test_vit", {"img_size": 64}, r"'blocks\.0' must return its 64 channels .* got \(2, 17, 64\)"),
    ],
)
def test_stages_that_return_their_channels_last_are_refused(name, arguments, message):
    net = timm.create_model(name, num_classes=4, **arguments)
    with pytest.raises(ValueError, match=message):
        filter_similarity(net, None, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_resnet", "tiedresnet_tiny"])
def test_stages_have_the_channels_of_feature_info(name):
    net = timm.create_model(name, num_classes=4)
    results = filter_similarity(net, None, torch.randn(1, 3, 32, 32), max_channels=2)
    assert [len(r.channels) + r.dead for r in results] == [2] * len(net.feature_info)
    for result, stage in zip(results, net.feature_info, strict=True):
        assert set(result.channels) <= {0, stage["num_chs"] // 2}


@pytest.mark.parametrize(("length", "count"), [(3, 5), (12, 4), (100, 7), (64, 64)])
def test_indices_are_evenly_spaced(length, count):
    indices = evenly_spaced(length, count)
    assert len(indices) == min(length, count)
    steps = {b - a for a, b in zip(indices, [*indices[1:], length], strict=True)}
    assert indices[0] == 0
    assert max(steps) - min(steps) <= 1


def test_a_vector_layer_counts_as_channels():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    [result] = filter_similarity(net, ["1"], torch.randn(1, 3, 2, 2))
    assert result.matrix.shape == (5, 5)


def test_histogram_counts_each_pair_once():
    matrix = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 1.0], [0.5, 1.0, 1.0]], dtype=torch.float64)
    layer = LayerSimilarity("conv", [0, 1, 2], matrix, torch.full((3, 3), 2), dead=0)
    histogram = layer.histogram(bins=4)
    assert histogram.edges == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert histogram.counts == [1, 0, 0, 2]
    assert histogram.mean == pytest.approx(0.5 / 3)
    with pytest.raises(ValueError, match="bins must be at least 1, got bins=0"):
        layer.histogram(bins=0)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    ("layers", "arguments", "message"),
    [
        (["usde"], {}, r"Unused has no layer 'usde'. Nearest names: used, unused"),
        (["unused"], {}, r"the layer 'unused' is not reached"),
        (["used"], {"max_channels": 0}, r"max_channels must be at least 1, got max_channels=0"),
        (["used"], {"batch_size": 0}, r"batch_size must be at least 1"),
        (None, {}, r"Unused has no feature_info that names its stages. Pass layers"),
    ],
)
def test_mistakes_are_explained(layers, arguments, message):
    with pytest.raises(ValueError, match=message):
        filter_similarity(Unused(), layers, torch.randn(1, 3, 4, 4), **arguments)


@pytest.mark.parametrize("shape", [(3, 4, 4), (0, 3, 4, 4)])
def test_images_must_be_a_batch(shape):
    with pytest.raises(ValueError, match=r"expected images \(N, C, H, W\) with N >= 1"):
        filter_similarity(Unused(), ["used"], torch.zeros(shape))


def test_a_layer_must_return_one_tensor():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ValueError, match=r"'0' must return one tensor \(N, C, ...\), got tuple"):
        filter_similarity(nn.Sequential(Pair()), ["0"], torch.zeros(1, 3, 4, 4))
