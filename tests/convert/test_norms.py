import pytest
import torch
from torch import nn

from tiedconv.convert import recalibrate_norms_


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.ReLU(),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GroupNorm(2, 4),
    )


def test_statistics_are_the_mean_over_the_batches():
    model = network()
    model[0].eval()  # a mode of its own, which must stay
    batches = [torch.randn(5, 3, 8, 8) * (i + 1) for i in range(3)]
    assert recalibrate_norms_(model, batches) == 1
    with torch.no_grad():
        maps = [model[0](batch).double() for batch in batches]
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variance = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
    torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), variance, rtol=1e-5, atol=1e-6)
    assert model[1].momentum == 0.3
    assert (model[0].training, model[1].training, model.training) == (False, True, True)


def test_a_model_without_norms_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert recalibrate_norms_(model, torch.zeros(1, 3, 4, 4)) == 0


def test_no_images_are_refused_and_the_norms_stay():
    model = network()
    with pytest.raises(ValueError, match="recalibrate_norms_: images holds no image"):
        recalibrate_norms_(model, torch.zeros(0, 3, 8, 8))
    model[1].running_mean += 1
    with pytest.raises(ValueError, match=r"^recalibrate_norms_: Sequential does not run on images.* expected input"):
        recalibrate_norms_(model, torch.zeros(1, 2, 8, 8))
    assert model[1].running_mean.tolist() == [1] * 4
    assert model[1].momentum == 0.3
    assert model[1].training


def test_norms_keep_their_statistics_if_a_later_batch_fails():
    model = network()
    recalibrate_norms_(model, torch.randn(4, 3, 8, 8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"^recalibrate_norms_: .*expected input"):
        recalibrate_norms_(model, [torch.randn(4, 3, 8, 8), torch.randn(4, 2, 8, 8)])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model[1].momentum == 0.3
