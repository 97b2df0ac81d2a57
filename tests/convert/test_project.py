"""Projections against least squares over the explicit linear map from a tied weight to its untied form."""

import pytest
import torch
from hypothesis import given, settings
from tests.convert.cases import Case, cases, repeated, spread
from torch import Tensor
from torch.testing import assert_close

from tiedconv.convert.project import OutputFit, project_bias, project_weight, projection_error

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def nearest(untie, tied_shape: tuple[int, ...], target: Tensor) -> Tensor:
    """Return the tied tensor whose untied form is nearest to ``target``; ``untie`` is linear."""
    count = torch.Size(tied_shape).numel()
    columns = [untie(unit.reshape(tied_shape)).flatten() for unit in torch.eye(count, dtype=target.dtype)]
    return torch.linalg.lstsq(torch.stack(columns, 1), target.flatten()[:, None]).solution.reshape(tied_shape)


@settings(max_examples=40)
@given(case=cases())
def test_the_projection_is_the_least_squares_solution(case: Case):
    layer, share = case.layer(), {"groups": case.groups, "blocks": case.blocks}
    weight = layer.weight.detach()
    tied = project_weight(weight, **share)
    shape = (weight.shape[0] // case.blocks, weight.shape[1] // case.blocks, *weight.shape[2:])
    assert_close(tied, nearest(lambda w: spread(w, **share), shape, weight), **EXACT)
    distance = (weight - spread(tied, **share)).norm() / weight.norm()
    assert projection_error(weight, tied, blocks=case.blocks) == pytest.approx(distance.item(), abs=1e-7)


@settings(max_examples=20)
@given(case=cases())
def test_the_bias_is_the_least_squares_solution(case: Case):
    share = {"groups": case.groups, "blocks": case.blocks}
    bias = torch.randn(case.groups * case.blocks * case.c_out, dtype=torch.float64)
    expected = nearest(lambda b: repeated(b, **share), (case.groups * case.c_out,), bias)
    assert_close(project_bias(bias, **share), expected, **EXACT)


@settings(max_examples=20)
@given(case=cases())
def test_the_projection_of_an_untied_weight_is_the_tied_one(case: Case):
    share = {"groups": case.groups, "blocks": case.blocks}
    shape = (case.groups * case.c_out, case.c_in, *case.layer().weight.shape[2:])
    tied = torch.randn(shape, dtype=torch.float64)
    assert_close(project_weight(spread(tied, **share), **share), tied, **EXACT)
    assert projection_error(spread(tied, **share), tied, blocks=case.blocks) < 1e-7


def test_the_error_of_complex_weights_counts_their_imaginary_parts():
    weight = torch.tensor([[1.0, 9.0], [9.0, 3.0]], dtype=torch.complex128) * 1j
    tied = project_weight(weight, blocks=2)
    assert_close(tied, torch.tensor([[2.0j]], dtype=torch.complex128))
    assert projection_error(weight, tied, blocks=2) == pytest.approx((164 / 172) ** 0.5)


def test_a_weight_of_zeros_has_no_error():
    assert projection_error(torch.zeros(4, 4), torch.zeros(2, 2), blocks=2) == 0


def test_half_precision_is_summed_in_double():
    weight = torch.full((8, 8), 200.0, dtype=torch.float16)  # its square is out of the type's range
    assert projection_error(weight, project_weight(weight, blocks=2), blocks=2) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_an_output_fit_does_not_depend_on_how_samples_are_divided_into_batches(dtype):
    weight, bias = torch.randn(3, 4, dtype=dtype), torch.randn(3, dtype=dtype)
    x, y = torch.randn(6, 8, 5, dtype=dtype), torch.randn(6, 6, 5, dtype=dtype)
    results = []
    for sizes in ([6], [1, 2, 3]):
        fit = OutputFit(weight, bias, groups=1, blocks=2)
        for part, wanted in zip(x.split(sizes), y.split(sizes), strict=True):
            fit.add(part, wanted)
        results.append(fit.solve())
    assert_close(results[0], results[1], **EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_error_of_an_output_fit_is_that_of_what_it_found(dtype):
    fit = OutputFit(torch.randn(3, 4, dtype=dtype), None, groups=1, blocks=2)
    x, y = torch.randn(6, 8, 5, dtype=dtype), torch.randn(6, 6, 5, dtype=dtype)
    fit.add(x, y)
    weight, _, error = fit.solve()
    found = torch.einsum("oi,nil->nol", spread(weight, blocks=2), x)
    assert error == pytest.approx(((found - y).norm() / y.norm()).item())


def test_without_input_an_output_fit_stays_where_it_starts():
    weight, bias = torch.randn(3, 4), torch.randn(3)
    fit = OutputFit(weight, bias, groups=1, blocks=2)
    assert fit.finite
    found, shift, error = fit.solve()
    assert_close((found.float(), shift.float(), error), (weight, bias, 0.0))
