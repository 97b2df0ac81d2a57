"""Batch norms recalibrated for a changed network."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._checks import named
from .fit import Images, as_batches, check_runs, evaluation


@torch.no_grad()
def recalibrate_norms_(model: nn.Module, images: Images) -> int:
    """Estimate the running statistics of a model's batch norms again, from images.

    With projected or random tied weights, a layer's output has another mean and variance than the norm behind it
    learned. Do not use it after ``init="data"``: those weights are fitted to the statistics that the norms have.

    Args:
        model: only its batch norms are changed; those without running statistics stay.
        images: a tensor (N, ...) or batches of it, as :func:`tie_` takes them. The statistics are the mean over the
            batches.

    Returns:
        How many norms were changed.

    Raises:
        TypeError, ValueError: as :func:`tie_` about ``images``.
        Exception: what the model raises on a batch, such as torch's ValueError on one that is too small for a norm.
            No norm is changed by a call that fails.
    """
    with named("recalibrate_norms_"):
        batches = as_batches(images)
        check_runs(model, batches)
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        before = [(norm, norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms]
        with evaluation(model):  # torch's own update_bn would leave dropout on
            try:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # the plain mean over the batches
                    norm.training = True
                for batch in batches if norms else ():
                    model(batch.clone())  # which its code may change
            except BaseException:
                for norm, _, state in before:
                    norm.load_state_dict(state)
                raise
            finally:
                for norm, momentum, _ in before:
                    norm.momentum = momentum
    return len(norms)
