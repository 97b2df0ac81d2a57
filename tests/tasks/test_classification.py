import inspect
import math

import lightning as L
import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging

from tiedconv.data import Digits
from tiedconv.tasks import ClassificationTask, Optimization, quiet_lightning

BATCHES = 3


class InterruptionError(Exception):
    pass


class Interrupt(L.Callback):
    """Stop the training in the middle of an epoch, as a kill would."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise InterruptionError


class LearningRates(L.Callback):
    def __init__(self):
        self.used = []

    def on_train_batch_start(self, trainer, *_):
        self.used.append(trainer.optimizers[0].param_groups[0]["lr"])


def make_task(**options):
    L.seed_everything(3, verbose=False)
    return ClassificationTask("resnet_tiny", 10, 1, **options)


def make_trainer(folder, epochs=2, callbacks=(), **options):
    defaults = {
        "accelerator": "cpu",
        "limit_train_batches": BATCHES,
        "limit_val_batches": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(default_root_dir=folder, max_epochs=epochs, callbacks=list(callbacks), **{**defaults, **options})


def test_any_data_module_of_lightning_will_do(tmp_path):
    pairs = torch.utils.data.TensorDataset(torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))
    data = L.LightningDataModule()
    data.train_dataloader = data.val_dataloader = lambda: torch.utils.data.DataLoader(pairs, 4)
    trainer = make_trainer(tmp_path, epochs=1, enable_model_summary=True)
    with quiet_lightning(advice=False):
        trainer.fit(make_task(), datamodule=data)
    assert trainer.current_epoch == 1


def rates(tmp_path, optimization, epochs):
    recorder = LearningRates()
    make_trainer(tmp_path, epochs, [recorder], limit_val_batches=0).fit(
        make_task(optimization=optimization), Digits(batch_size=4)
    )
    return recorder.used


def test_step_schedule_is_the_papers(tmp_path):
    used = rates(tmp_path, Optimization(lr=0.1, decay_epochs=2), epochs=5)
    expected = [0.1 * 0.1 ** (epoch // 2) for epoch in range(5) for _ in range(BATCHES)]
    assert used == pytest.approx(expected)


def test_cosine_schedule_warms_up_and_ends_at_min_lr(tmp_path):
    used = rates(tmp_path, Optimization(lr=0.1, schedule="cosine", warmup_epochs=2, min_lr=0.01), epochs=6)
    steps, warm = 6 * BATCHES, 2 * BATCHES
    rising = [0.001 + (0.1 - 0.001) * t / warm for t in range(warm)]
    falling = [0.01 + 0.09 * (1 + math.cos(math.pi * t / steps)) / 2 for t in range(warm, steps)]
    assert used == pytest.approx(rising + falling)


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
def test_weight_decay_spares_norms_and_biases_when_asked(tmp_path, decay_norm_and_bias):
    task = make_task(optimization=Optimization(weight_decay=0.5, decay_norm_and_bias=decay_norm_and_bias))
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(task, Digits(batch_size=4))
    decayed = {
        id(p) for group in trainer.optimizers[0].param_groups if group["weight_decay"] > 0 for p in group["params"]
    }
    assert (id(task.model.bn1.weight) in decayed) is decay_norm_and_bias
    assert (id(task.model.fc.bias) in decayed) is decay_norm_and_bias
    assert id(task.model.conv1.weight) in decayed


@pytest.mark.parametrize("augmented", [False, True])
def test_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, augmented):
    options = {"optimization": Optimization(lr=0.05, schedule="cosine")}
    if augmented:
        options |= {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1, "model_kwargs": {"drop_path_rate": 0.3}}

    def train(folder, resume=None, callbacks=()):
        task = make_task(**options)
        checkpoint = ModelCheckpoint(folder, filename="saved", save_on_train_epoch_end=True)
        trainer = make_trainer(folder, 3, [*callbacks, checkpoint], enable_checkpointing=True)
        trainer.fit(task, Digits(batch_size=8), ckpt_path=resume, weights_only=True)
        return task.state_dict(), trainer.callback_metrics

    whole, metrics = train(tmp_path / "whole")
    with pytest.raises(InterruptionError):
        train(tmp_path / "parts", callbacks=[Interrupt(epoch=2)])
    resumed, resumed_metrics = train(tmp_path / "parts", resume=tmp_path / "parts" / "saved.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert resumed_metrics == metrics


def test_loss_of_a_step_is_smoothed_cross_entropy(tmp_path):
    seen = []

    class Record(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen.append(batch)

    task = make_task(label_smoothing=0.1)
    twin = timm.create_model("resnet_tiny", num_classes=10, in_chans=1)
    twin.load_state_dict(task.model.state_dict())
    trainer = make_trainer(tmp_path, 1, [Record()], limit_train_batches=1)
    trainer.fit(task, Digits(batch_size=8))
    images, labels = seen[0]
    log_p = F.log_softmax(twin(images), -1)
    expected = -(0.9 * log_p[range(len(labels)), labels] + 0.1 * log_p.mean(-1)).mean()
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_validation_counts_top1_and_top5(tmp_path):
    task = make_task()
    trainer = make_trainer(tmp_path, limit_val_batches=1.0)
    data = Digits(batch_size=100)
    metrics = trainer.validate(task, data, verbose=False)[0]
    task.eval()
    with torch.no_grad():
        logits = torch.cat([task(x) for x, _ in data.val_dataloader()])
    labels = torch.cat([y for _, y in data.val_dataloader()])
    rank = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert metrics["val/top1"] == pytest.approx((rank < 1).float().mean().item())
    assert metrics["val/top5"] == pytest.approx((rank < 5).float().mean().item())
    assert metrics["val/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_ema_weights_end_up_in_the_model(tmp_path):
    plain, averaged = make_task(), make_task()
    make_trainer(tmp_path, 1).fit(plain, Digits(batch_size=8))
    make_trainer(tmp_path, 1, [EMAWeightAveraging(decay=0.5)]).fit(averaged, Digits(batch_size=8))
    start = make_task().model.fc.weight
    last, mean = plain.model.fc.weight, averaged.model.fc.weight
    assert not torch.equal(last, mean)
    assert (mean - start).norm() < (last - start).norm()


def test_bf16_and_channels_last_train(tmp_path):
    task = make_task(channels_last=True)
    make_trainer(tmp_path, 1, precision="bf16-mixed").fit(task, Digits(batch_size=8))
    assert task.model.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert task.model.layer1[0].conv2.weight.dtype == torch.float32


def test_compile_leaves_the_names_of_the_state_dict():
    assert make_task(compile=True).state_dict().keys() == make_task().state_dict().keys()
    assert make_task(compile=True).model._compiled_call_impl is not None


def test_checkpoint_gives_the_task_back(tmp_path):
    task = make_task(optimization=Optimization(lr=0.02))
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(task, Digits(batch_size=4))
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    assert loaded.optimization == Optimization(lr=0.02)
    assert set(task.hparams) == set(inspect.signature(ClassificationTask).parameters)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in task.state_dict().items())


def test_mixup_needs_an_even_batch(tmp_path):
    with pytest.raises(ValueError, match="batch_size=7 must be even"):
        make_trainer(tmp_path, 1).fit(make_task(mixup=0.1), Digits(batch_size=7))


def test_schedule_needs_epochs_beyond_the_warm_up(tmp_path):
    task = make_task(optimization=Optimization(warmup_epochs=2))
    with pytest.raises(ValueError, match="needs more than warmup_epochs=2, got max_epochs=2"):
        make_trainer(tmp_path, 2).fit(task, Digits(batch_size=8))


def test_overfit_batches_repeat_the_same_images(tmp_path):
    trainer = make_trainer(tmp_path, 2, limit_train_batches=1.0, limit_val_batches=0, overfit_batches=2)
    with pytest.warns(UserWarning, match="requested to overfit"):
        trainer.fit(make_task(), Digits(batch_size=8))
    assert trainer.global_step == 4


def test_unknown_model_and_bad_options():
    with pytest.raises(ValueError, match="no model is called 'resnet_tyni'"):
        ClassificationTask("resnet_tyni")
    with pytest.raises(ValueError, match=r"at least 2 classes, got 1. Give data with more"):
        ClassificationTask("resnet_tiny", num_classes=1)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got 1.0"):
        ClassificationTask("resnet_tiny", label_smoothing=1.0)
    with pytest.raises(ValueError, match="lr must be positive, got 0"):
        Optimization(lr=0)
    with pytest.raises(ValueError, match="mixup must not be negative, got -1"):
        ClassificationTask("resnet_tiny", mixup=-1)
    with pytest.raises(ValueError, match=r"min_lr must not exceed lr=0.1, got 0.5"):
        Optimization(min_lr=0.5)
    with pytest.raises(ValueError, match="warmup_epochs must not be negative, got -1"):
        Optimization(warmup_epochs=-1)


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
@pytest.mark.filterwarnings("ignore:Swapping scheduler")
def test_a_callback_may_put_its_own_schedule_in_the_place_of_the_tasks(tmp_path):
    recorder = LearningRates()
    averaging = StochasticWeightAveraging(swa_lrs=0.5, swa_epoch_start=1, annealing_epochs=1)
    make_trainer(tmp_path, 3, [recorder, averaging], limit_val_batches=0).fit(make_task(), Digits(batch_size=4))
    assert recorder.used[0] == 0.1
    assert recorder.used[2 * BATCHES] == 0.5


def test_networks_with_auxiliary_outputs_are_trained_on_their_logits():
    task = ClassificationTask("torchvision/googlenet", 10, model_kwargs={"init_weights": False}).train()
    images = torch.randn(2, 3, 32, 32)
    torch.manual_seed(0)
    logits = task(images)
    torch.manual_seed(0)
    assert torch.equal(logits, task.model(images).logits)
