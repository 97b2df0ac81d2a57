import lightning as L
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tiedconv.data import Digits


def pictures(data, train):
    """The split's images as they are before the transform, one row of bytes each."""
    return {image.tobytes() for image in data.split(train).images}


def test_splits_are_disjoint_and_have_all_images():
    data = Digits()
    train, val = data.split(train=True), data.split(train=False)
    assert (len(train), len(val)) == (1437, 360)
    distinct = len({image.tobytes() for image in load_digits().images})
    assert len(pictures(data, True) | pictures(data, False)) == distinct
    assert len(pictures(data, True) & pictures(data, False)) <= 1797 - distinct


def test_validation_has_equal_shares_of_every_class():
    counts = np.bincount(Digits().split(train=False).labels)
    assert counts.min() >= 34
    assert counts.max() <= 37


def test_images_are_normalised_to_zero_mean_and_unit_spread():
    images = torch.cat([x for x, _ in Digits(image_size=8).val_dataloader()])
    assert images.shape == (360, 1, 8, 8)
    assert images.mean().item() == pytest.approx(0, abs=0.05)
    assert images.std().item() == pytest.approx(1, abs=0.05)


def first_batch(seed, epoch, num_workers=0):
    L.seed_everything(seed, verbose=False)
    torch.rand(seed + epoch + num_workers)  # whatever else was drawn before must not matter
    loader = Digits(num_workers=num_workers).train_dataloader()
    loader.sampler.set_epoch(epoch)
    return next(iter(loader))


def test_order_and_augmentation_are_a_function_of_seed_and_epoch():
    images, labels = first_batch(0, 3)
    for repeated in (first_batch(0, 3), first_batch(0, 3, num_workers=1)):
        assert torch.equal(images, repeated[0])
        assert torch.equal(labels, repeated[1])
    assert not torch.equal(labels, first_batch(0, 4)[1])
    assert not torch.equal(labels, first_batch(1, 3)[1])


def test_augmentation_differs_from_epoch_to_epoch_and_validation_images_stay():
    data = Digits()
    train = data.train_dataloader().dataset
    assert not torch.equal(train[0, 5][0], train[1, 5][0])
    assert torch.equal(train[0, 5][0], train[0, 5][0])
    assert torch.equal(data.split(train=False)[0][0], data.split(train=False)[0][0])


def test_augmentation_leaves_the_generators_alone():
    train = Digits().train_dataloader().dataset
    state = torch.get_rng_state()
    train[0, 0]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 4}, r"image_size must be at least 8, .* got 4"),
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, r"num_workers must be at least 0, got -1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Digits(**arguments)
