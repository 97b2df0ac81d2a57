import copy

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tiedconv.analysis.summary import summarize
from tiedconv.metrics.counts import count
from tiedconv.nn import SplitTiedConv2d, TiedConv2d, TiedLinear


class Net(nn.Module):
    """Every kind of layer; ``shared`` is called twice, ``spare`` never."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Conv2d(3, 3, 1)
        self.head = TiedLinear(12, 6, blocks=3)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.shared = TiedConv2d(8, 8, 3, padding=1, groups=2, bias=False, blocks=2)
        self.split = SplitTiedConv2d(8, 12, 3, blocks=(1, 2))
        self.tokens = nn.Linear(12, 12)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.shared(torch.relu(self.shared(self.norm(self.stem(x)))))
        x = self.split(x).flatten(2).transpose(1, 2)
        return self.head(self.tokens(x).mean(dim=1))


def outputs(net, name, images):
    """Return what a layer returns over all calls as rows of channels, in float64."""
    net, rows = copy.deepcopy(net).eval(), []
    layer = net.get_submodule(name)
    last = isinstance(layer, (nn.Linear, TiedLinear))
    layer.register_forward_hook(
        lambda module, args, output: rows.append((output if last else output.movedim(1, -1)).detach().numpy())
    )
    with torch.no_grad():
        net(images)
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in rows]).astype(np.float64)


def participation_ratio(rows):
    live = rows[:, np.ptp(rows, axis=0) > 0]
    values = np.linalg.eigvalsh(np.corrcoef(live, rowvar=False))
    return values.sum() ** 2 / (values**2).sum()


@pytest.mark.parametrize("form", ["tensor", "batches"])
def test_every_number_against_numpy(form):
    net, images = Net(), torch.randn(7, 3, 11, 9)
    layers = summarize(net, images if form == "tensor" else iter(images.split(3)), batch_size=2)
    assert [layer.name for layer in layers] == ["stem", "shared", "split", "tokens", "head"]
    for layer in layers:
        rows = outputs(net, layer.name, images)
        assert layer.samples == len(rows)
        assert layer.mean == pytest.approx(rows.mean(), rel=1e-5, abs=1e-8)
        assert layer.std == pytest.approx(rows.std(), rel=1e-5)
        assert layer.rank == pytest.approx(participation_ratio(rows), rel=1e-4)
        assert layer.rank_share == layer.rank / rows.shape[1]
        module = net.get_submodule(layer.name)
        weights = np.concatenate([p.detach().numpy().ravel() for n, p in module.named_parameters() if "weight" in n])
        assert layer.weight_norm == pytest.approx(np.linalg.norm(weights), rel=1e-5)
        assert layer.weight_std == pytest.approx(weights.std(), rel=1e-5)
        assert layer.params == sum(p.numel() for p in module.parameters())
        assert layer.dead == 0
    _, shared, split, tokens, head = layers
    assert (shared.kind, shared.blocks, shared.groups, shared.shape) == ("TiedConv2d", (2,), (2,), (8, 6, 5))
    assert (split.kind, split.blocks, split.groups, split.shape) == ("SplitTiedConv2d", (1, 2), (1, 1), (12, 4, 3))
    assert (tokens.shape, tokens.blocks, head.shape, head.blocks) == ((12, 12), (1,), (6,), (3,))
    assert shared.macs == 2 * 30 * 8 * 2 * 9  # two calls, 30 positions, 8 channels of which each sees 8 / (2 * 2)
    assert split.macs == 12 * (6 * 4 * 9 + 6 * 2 * 9)
    assert head.macs == 6 * 4
    assert (head.measurable, tokens.measurable) == (True, True)  # 7 > 6 and 84 > 12


@pytest.mark.parametrize("build", [lambda: torchvision.models.resnet18(), lambda: timm.create_model("tiedresnet_tiny")])
def test_multiply_adds_sum_to_those_of_torchs_counter(build):
    model = build()
    layers = summarize(model, torch.randn(1, 3, 32, 32))
    assert sum(layer.macs for layer in layers) == count(model, (3, 32, 32)).macs


def conv_with(weight, bias):
    conv = nn.Conv2d(1, len(weight), 1)
    conv.weight.data = torch.tensor(weight, dtype=torch.float32).reshape(-1, 1, 1, 1)
    conv.bias.data = torch.tensor(bias, dtype=torch.float32)
    return conv


def test_channels_that_repeat_each_other_are_one_direction_whatever_their_scale():
    images = torch.randn(5, 1, 8, 8)
    [layer] = summarize(conv_with([1, 3, -0.01], [0, 5, 0]), images)
    assert layer.rank == pytest.approx(1, abs=1e-4)


def test_uncorrelated_channels_are_as_many_directions():
    conv = nn.Conv2d(6, 6, 1, bias=False)
    conv.weight.data = torch.diag(torch.arange(1.0, 7)).reshape(6, 6, 1, 1)
    basis = torch.linalg.qr(torch.randn(64, 6).sub_(0))[0]
    basis = torch.linalg.qr(basis - basis.mean(dim=0))[0]  # orthogonal, each of mean 0
    [layer] = summarize(conv, basis.T.reshape(1, 6, 8, 8))
    assert layer.rank == pytest.approx(6, rel=1e-4)


@given(st.integers(1, 8), st.integers(0, 4), st.floats(0, 100))
@settings(max_examples=25)
def test_dead_channels_are_counted_and_left_out(alive, dead, shift):
    conv = conv_with([1.0] * alive + [0.0] * dead, [0.0] * alive + [shift] * dead)
    [layer] = summarize(conv, torch.randn(2, 1, 4, 4))
    assert layer.dead == pytest.approx(dead / (alive + dead))
    assert layer.rank == pytest.approx(1)


def test_a_dead_layer_has_rank_0():
    [layer] = summarize(conv_with([0.0, 0.0], [1.0, 2.0]), torch.randn(2, 1, 4, 4))
    assert (layer.dead, layer.rank, layer.mean, layer.std) == (1, 0, 1.5, 0.5)


def test_the_model_is_left_as_it_was():
    net = Net().train()
    net.split.eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    summarize(net, torch.randn(3, 3, 11, 9))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_mistakes_are_named():
    images = torch.randn(2, 3, 11, 9)
    with pytest.raises(ValueError, match="summarize: ReLU has no convolution and no linear layer"):
        summarize(nn.ReLU(), images)
    with pytest.raises(ValueError, match="summarize: expected at least one image, got none"):
        summarize(Net(), [])
    with pytest.raises(ValueError, match="summarize: expected at least one image, got none"):
        summarize(Net(), images[:0])
    with pytest.raises(ValueError, match="summarize: batch_size must be at least 1, got batch_size=0"):
        summarize(Net(), images, batch_size=0)
    with pytest.raises(ValueError, match="summarize: the layer 'stem' returns numbers that are not finite"):
        summarize(Net(), images * torch.inf)
