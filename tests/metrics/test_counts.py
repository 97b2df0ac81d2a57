import math

import pytest
import torch
from torch import nn

import tiedconv
from tiedconv.metrics.counts import Counts, compare_with_paper, count, count_attention
from tiedconv.models.published import PublishedCount
from tiedconv.nn import TiedConv2d, TiedGlobalContext, TiedLinear, TiedSE


@pytest.mark.parametrize(
    ("model", "input_size", "params", "macs"),
    [
        # C_o C_i k² weights, and that times 6 x 6 positions
        (nn.Conv2d(4, 8, 3, bias=False), (4, 8, 8), 8 * 4 * 9, 8 * 4 * 9 * 36),
        # B² times fewer weights, B times fewer multiply-adds (eq. 3); half of the 8 x 8 positions in each direction
        (
            TiedConv2d(8, 16, 3, stride=2, padding=1, bias=False, blocks=4),
            (8, 8, 8),
            4 * 2 * 9,
            16 * 8 * 9 // 4 * 16,
        ),
        # B² G times fewer weights, B G times fewer multiply-adds (eq. 4)
        (
            TiedConv2d(16, 16, 3, padding=1, bias=False, blocks=2, groups=4),
            (16, 5, 5),
            16 * 16 * 9 // 16,
            16 * 16 * 9 // 8 * 25,
        ),
        (TiedConv2d(8, 8, 1, blocks=2), (8, 3, 3), 16 + 4, 8 * 8 // 2 * 9),
        (TiedLinear(12, 24, blocks=3), (12,), 12 * 24 // 9 + 8, 12 * 24 // 3),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)), (4, 8, 8), 8, 0),
    ],
)
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_by_hand(model: nn.Module, input_size: tuple[int, ...], params: int, macs: int, memory_format: str) -> None:
    if memory_format == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    assert count(model, input_size) == Counts(params, macs)


def test_a_tied_bottleneck_by_hand() -> None:
    # 4s x 32w on 256 channels: entry, splits with 1, 2, 4, 8 blocks, mixer, exit; then norms of 128, 4 x 32, 32, 256
    weights = [256 * 128 / 4, *(9 * 32 * 32 / b**2 for b in (1, 2, 4, 8)), 9 * 32 * 32 / 4, 160 * 256]
    macs = [256 * 128 / 2, *(9 * 32 * 32 / b for b in (1, 2, 4, 8)), 9 * 32 * 32 / 2, 160 * 256]

    counts = count(tiedconv.models.TiedBottleneck(256, 64), (256, 7, 7))

    assert counts == Counts(int(sum(weights)) + 2 * (128 + 128 + 32 + 256), int(sum(macs)) * 49)


def test_the_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}

    count(model, (3, 8, 8))

    assert all(module.training for module in model.modules())
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])


def test_shared_parameters_count_once() -> None:
    shared = nn.Linear(4, 4)
    assert count(nn.Sequential(shared, shared), (4,)) == Counts(20, 32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_any_dtype_and_device(dtype: torch.dtype) -> None:
    assert count(nn.Conv2d(2, 2, 1, dtype=dtype, device="meta"), (2, 3, 3)) == Counts(6, 36)


def test_attention_by_type_and_place() -> None:
    se = TiedSE(64, reduction=16, blocks=2)  # 2 * 64 * 4 / 4 weights, 2 + 32 biases
    gcb = TiedGlobalContext(64, reduction=4, blocks=2)  # 65 for the logit; 2 * 64 * 16 / 4, 8 + 32; norm 32
    model = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(3, 64, 1), se), "b": nn.Sequential(gcb, nn.Linear(5, 5))})

    assert count_attention(model) == 162 + 649
    assert count_attention(model, within=["b"]) == 649
    assert count_attention(nn.Sequential(se, se)) == 162


def test_attention_of_resnet_50_by_hand() -> None:
    channels = {256: 3, 512: 4, 1024: 6, 2048: 3}
    for blocks in (2, 4, 8):
        model = tiedconv.create_model(f"tiedseresnet50_b{blocks}", device="meta")
        expected = sum(n * (2 * c * (c // 16) // blocks**2 + (c + c // 16) // blocks) for c, n in channels.items())
        assert count_attention(model) == expected


def test_differences_are_per_cent_of_the_published_count() -> None:
    row = PublishedCount("1", "half of it", 51.114064, None, model="resnet50")
    (comparison,) = compare_with_paper([row])

    assert comparison.params_difference is not None
    assert math.isclose(comparison.params_difference, -50)
    assert comparison.gmacs_difference is None
    assert comparison.gmacs == pytest.approx(4.089, abs=1e-3)


def test_what_is_not_here_has_no_count() -> None:
    (comparison,) = compare_with_paper([PublishedCount("1", "elsewhere", 1.0, 1.0)])
    assert (comparison.params, comparison.gmacs, comparison.params_difference) == (None, None, None)
