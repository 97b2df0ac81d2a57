"""What the functions say to wrong calls: the kind of error and the sentence the user reads."""

import pytest
import torch

from tiedconv.ops import split_tied_conv2d, tied_conv1d, tied_conv2d, tied_conv3d, tied_linear

X = torch.zeros(1, 8, 5, 5)
WEIGHT = torch.zeros(4, 4, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"blocks": 0}, ValueError, r"tied_conv2d: blocks must be at least 1, got blocks=0\."),
        ({"groups": 0}, ValueError, r"tied_conv2d: groups must be at least 1, got groups=0\."),
        ({"bias": 0}, TypeError, r"tied_conv2d: bias must be a tensor, got 0 \(int\)\."),
        (
            {"stride": torch.tensor(2)},
            TypeError,
            r"tied_conv2d: stride must be one int or 2 of them, got tensor\(2\)\.",
        ),
        ({"groups": 3}, ValueError, r"tied_conv2d: the 4 rows of the weight are not divisible by groups=3\."),
        ({"stride": 0}, RuntimeError, r"tied_conv2d: stride must be at least 1, got 0\."),
        ({"dilation": 0}, RuntimeError, r"tied_conv2d: dilation must be at least 1, got 0\."),
        ({"padding": -1}, RuntimeError, r"tied_conv2d: padding must be at least 0, got -1\."),
        (
            {"padding": "full"},
            RuntimeError,
            r'padding must be an int, a tuple of ints, "same" or "valid", got \'full\'',
        ),
        (
            {"padding": "same", "stride": (1, 2)},
            RuntimeError,
            r'tied_conv2d: padding="same" needs stride 1, got stride=\(1, 2\)\. Give the padding as numbers\.',
        ),
        (
            {"bias": torch.zeros(8)},
            RuntimeError,
            r"expected bias \(4,\), one entry per row of the weight and shared by the blocks, got \(8,\)\.$",
        ),
        (
            {"bias": torch.zeros(4, dtype=torch.float64)},
            RuntimeError,
            r"tied_conv2d: the input is torch\.float32 and the bias torch\.float64\. Convert one of them, or use "
            r"torch\.autocast\.",
        ),
    ],
)
def test_tied_conv2d_says_what_is_wrong_with_an_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        tied_conv2d(X, WEIGHT, **{"blocks": 2, **arguments})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(8, 5), r"^tied_conv2d: expected input \(N, 8, H, W\) or \(8, H, W\), got \(8, 5\)\.$"),
        (torch.zeros(1, 1, 8, 5, 5), r"expected input \(N, 8, H, W\) or \(8, H, W\), got \(1, 1, 8, 5, 5\)\.$"),
        (torch.zeros(1, 6, 5, 5), r"expected input \(N, 8, H, W\) or \(8, H, W\), got \(1, 6, 5, 5\)\.$"),
        (
            torch.zeros(1, 8, 5, 5, dtype=torch.uint8),
            r"tied_conv2d: expected a floating-point input, got dtype=torch\.uint8\. Convert it, e\.g\. x\.float\(\)",
        ),
        (
            torch.zeros(1, 8, 5, 5, dtype=torch.float64),
            r"tied_conv2d: the input is torch\.float64 and the weight torch\.float32\. Convert one of them",
        ),
    ],
)
def test_tied_conv2d_says_what_is_wrong_with_the_input(x, message):
    with pytest.raises(RuntimeError, match=message):
        tied_conv2d(x, WEIGHT, blocks=2)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_larger_than_the_input_is_torchs_own_error(memory_format, groups):
    x = torch.zeros(1, 8 * groups, 2, 5).contiguous(memory_format=memory_format)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        tied_conv2d(x, torch.zeros(4 * groups, 4, 3, 3), groups=groups, blocks=2)


def test_a_dtype_mismatch_without_data_reads_the_same():
    weight = torch.zeros(4, 4, 3, 3, device="meta")
    with pytest.raises(RuntimeError, match=r"the input is torch\.float64 and the weight torch\.float32"):
        tied_conv2d(torch.zeros(1, 8, 5, 5, dtype=torch.float64, device="meta"), weight, blocks=2)


@pytest.mark.parametrize(
    ("function", "weight", "x", "message"),
    [
        (tied_conv1d, (4, 4, 3), (1, 5, 8), r"\(N, 8, L\) or \(8, L\), got \(1, 5, 8\).*x\.permute\(0, 2, 1\)\.$"),
        (tied_conv3d, (4, 4, 1, 1, 1), (1, 4, 5, 6, 8), r"\(N, 8, D, H, W\).*x\.permute\(0, 4, 1, 2, 3\), which"),
        (tied_conv1d, (4, 4), (1, 8, 5), r"tied_conv1d: expected the weight with 3 dimensions, .*, got \(4, 4\)\."),
        (tied_linear, (4, 4, 1), (1, 8), r"the weight with 2 dimensions, \(C_o/B, C_i/B\), got \(4, 4, 1\)\."),
        (
            tied_linear,
            (4, 4),
            (3, 7),
            r"^tied_linear: expected input \(\.\.\., 8\), as the weight is \(4, 4\) and blocks=2, got \(3, 7\)\.",
        ),
        (tied_linear, (4, 4), (), r"^tied_linear: expected input \(\.\.\., 8\), .* got \(\)\."),
    ],
)
def test_other_ranks_say_their_own_shapes(function, weight, x, message):
    with pytest.raises(RuntimeError, match=message):
        function(torch.zeros(x), torch.zeros(weight), blocks=2)


@pytest.mark.parametrize(
    ("x", "arguments", "error", "message"),
    [
        (torch.zeros(3, 8), {"blocks": 0}, ValueError, r"tied_linear: blocks must be at least 1, got blocks=0\."),
        (torch.zeros(3, 8), {"bias": torch.zeros(8)}, RuntimeError, r"tied_linear: expected bias \(4,\), .*got \(8,\)"),
        (
            torch.zeros(3, 8, dtype=torch.int64),
            {},
            RuntimeError,
            r"expected a floating-point input, got dtype=torch\.i",
        ),
        (torch.zeros(3, 8).double(), {}, RuntimeError, r"the input is torch\.float64 and the weight torch\.float32"),
    ],
)
def test_tied_linear_says_what_is_wrong(x, arguments, error, message):
    with pytest.raises(error, match=message):
        tied_linear(x, torch.zeros(4, 4), **{"blocks": 2, **arguments})


@pytest.mark.parametrize("shape", [(1, 0, 1, 1), (1, 1, 0, 1), (0, 1, 1, 1)])
def test_an_empty_weight_is_refused(shape):
    with pytest.raises(RuntimeError, match=r"tied_conv2d: the weight \(\d, \d, \d, 1\) is empty"):
        tied_conv2d(torch.zeros(2, shape[1], 4, 4), torch.zeros(shape))
    with pytest.raises(RuntimeError, match=r"split_tied_conv2d: weights\[0\] \(\d, \d, \d, 1\) is empty"):
        split_tied_conv2d(torch.zeros(2, shape[1], 4, 4), [torch.zeros(shape)], blocks=[1])


@pytest.mark.parametrize("shape", [(1, 0), (0, 1)])
def test_an_empty_matrix_is_refused(shape):
    with pytest.raises(RuntimeError, match=r"tied_linear: the weight \(\d, \d\) is empty\. Every dimension needs"):
        tied_linear(torch.zeros(2, 2 * shape[1]), torch.zeros(shape), blocks=2)


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_sparse_tensors_are_refused(name):
    message = rf"{name} must be a dense tensor, got layout=torch\.sparse_coo\. Pass {name}\.to_dense\(\)\.$"
    conv = {"x": X, "weight": WEIGHT, "bias": torch.zeros(4)}
    with pytest.raises(TypeError, match="^tied_conv2d: " + message):
        tied_conv2d(**{**conv, name: conv[name].to_sparse()}, blocks=2)
    linear = {"x": torch.zeros(1, 8), "weight": torch.zeros(4, 4), "bias": torch.zeros(4)}
    with pytest.raises(TypeError, match="^tied_linear: " + message):
        tied_linear(**{**linear, name: linear[name].to_sparse()}, blocks=2)
