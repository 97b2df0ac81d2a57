"""Which images a step takes, on how many processes, and after a resume."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import Dataset

from tiedconv.data import Digits
from tiedconv.data.base import ImageData
from tiedconv.tasks import ClassificationTask


class Numbers(Dataset):
    """Images that are their own number and one random draw."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor([index, torch.randint(10**6, ()).item()])


class Numbered(ImageData):
    def __init__(self, size, batch_size, world_size=1, rank=0, num_workers=0):
        super().__init__(batch_size, num_workers, None)
        self.size = size
        self.trainer = SimpleNamespace(world_size=world_size, global_rank=rank, train_dataloader=None)

    def build(self, train):
        return Numbers(self.size)


def steps(size, images_a_step, world_size, epoch):
    """What each step of an epoch reads on all processes together, sorted."""
    read = []
    for rank in range(world_size):
        loader = Numbered(size, images_a_step // world_size, world_size, rank).train_dataloader()
        loader.sampler.set_epoch(epoch)
        read.append([batch.tolist() for batch in loader])
    assert len({len(batches) for batches in read}) == 1
    return [sorted(image for batch in batches for image in batch) for batches in zip(*read, strict=True)]


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")


@pytest.mark.parametrize("size", [24, 25, 47, 48, 71, 73])
@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_a_step_reads_and_augments_the_same_images_with_any_number_of_processes(size, world_size):
    for epoch in (0, 1):
        alone = steps(size, 24, 1, epoch)
        assert steps(size, 24, world_size, epoch) == alone
        assert len(alone) == size // 24
        images = [image for step in alone for image, _ in step]
        assert len(set(images)) == len(images)
    assert steps(size, 24, 1, 0) != steps(size, 24, 1, 1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_a_set_smaller_than_a_step_is_one_step_of_all_images(world_size):
    (step,) = steps(10, 24, world_size, 0)
    assert {image for image, _ in step} == set(range(10))
    assert len(step) == -(-10 // world_size) * world_size  # every process has as many


@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_every_validation_image_is_read_once(world_size):
    read = [
        image
        for rank in range(world_size)
        for batch in Numbered(25, 4, world_size, rank).val_dataloader()
        for image, _ in batch.tolist()
    ]
    assert sorted(read) == list(range(25))


class KilledError(Exception):
    pass


class KillAt(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KilledError


def train(folder, data, callbacks=(), resume=None, **options):
    L.seed_everything(3, verbose=False)
    model_kwargs = {"drop_path_rate": 0.3}  # draws random numbers in every step
    task = ClassificationTask("tiedresnet_tiny", data.num_classes, data.in_chans, model_kwargs, mixup=0.2)
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=2,
        enable_checkpointing=bool(callbacks),
        **options,
    )
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    return task.state_dict(), {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")}


def interrupted(folder, killed, kept, workers=0, **options):
    """Train to the end, and again with a kill in a step and a resume ."""
    whole = train(folder / "whole", Digits(batch_size=4), **options)
    checkpoint = {"dirpath": folder, "filename": "kept", **kept}
    with pytest.raises(KilledError):
        train(folder, Digits(batch_size=4), [KillAt(killed), ModelCheckpoint(**checkpoint)], **options)
    data = Digits(batch_size=4, num_workers=workers)
    resumed = train(folder, data, [ModelCheckpoint(**checkpoint)], resume=folder / "kept.ckpt", **options)
    return whole, resumed


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "accumulate", "workers"), [(5, 1, 0), (7, 1, 1), (7, 2, 0)])
def test_a_training_killed_in_mid_epoch_ends_as_an_uninterrupted_one(tmp_path, killed, accumulate, workers):
    options = {"accumulate_grad_batches": accumulate, "limit_train_batches": 4 * accumulate, "max_epochs": 2}
    (whole, metrics), (resumed, resumed_metrics) = interrupted(
        tmp_path, killed, {"every_n_train_steps": 1}, workers, **options
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert resumed_metrics == metrics
    assert metrics["val/loss"] > 0


@pytest.mark.slow
def test_workers_begin_a_resumed_epoch_with_its_own_images(tmp_path):
    (whole, metrics), (resumed, resumed_metrics) = interrupted(
        tmp_path, 3, {"save_on_train_epoch_end": True}, workers=1, limit_train_batches=2, max_epochs=2
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert resumed_metrics == metrics
