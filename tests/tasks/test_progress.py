import re
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from tiedconv.data import Digits
from tiedconv.tasks import ClassificationTask, progress
from tiedconv.tasks.progress import Outlook, PlainProgress, progress_bar, step_memory

QUIET = {"accelerator": "cpu", "logger": False, "enable_model_summary": False, "enable_checkpointing": False}
FEW = {"limit_train_batches": 3, "limit_val_batches": 2, "num_sanity_val_steps": 0, "max_epochs": 2}


@pytest.fixture
def training():
    return ClassificationTask("tiedresnet_tiny", 10, 1), Digits(batch_size=4, num_workers=0)


def test_epochs_and_minutes_get_a_line_each_where_no_terminal_is(training, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    bar = progress_bar()
    assert isinstance(bar, PlainProgress)
    trainer = L.Trainer(**QUIET, **FEW, callbacks=[bar], default_root_dir=tmp_path)
    trainer.fit(*training)
    trainer.test(*training)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("epoch", "validate,", "test,"))]
    expected = []
    for epoch in (1, 2):
        expected += [rf"epoch {epoch}, step {i} of 3, loss \d\S*, \S+ s per step, \d+ s left" for i in (1, 2, 3)]
        expected += [rf"validate, batch {i} of 2, \S+ s per step, \d+ s left" for i in (1, 2)]
        expected += [rf"epoch {epoch} of 2: .*val/top1 0.*train/loss \d[^,]*" + (", .* left" if epoch < 2 else "")]
    expected += [rf"test, batch {i} of \d+, .*" for i in range(1, len(lines) - len(expected) + 1)]
    for pattern, line in zip(expected, lines, strict=True):
        assert re.fullmatch(pattern, line), line
    assert lines[-1].startswith("test,")


def test_accumulated_gradients_leave_the_loss_of_a_step(training, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    few = {**FEW, "max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 0}
    trainer = L.Trainer(
        **QUIET, **few, accumulate_grad_batches=4, callbacks=[progress_bar()], default_root_dir=tmp_path
    )
    trainer.fit(*training)
    printed = [float(loss) for loss in re.findall(r"step \d of 4, loss ([^,]*)", capsys.readouterr().err)]
    assert sum(printed) / 4 == pytest.approx(trainer.callback_metrics["train/loss"].item(), rel=0.01)


def test_the_time_of_a_step_is_that_since_the_last_line_without_validations(monkeypatch, capsys):
    clock = iter([0, 50, 100, 500, 560])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    bar = PlainProgress()
    for step in range(3):
        bar._print_step("step", step, 10)
    bar.on_validation_start(None, None)
    for step in (3, 4):
        bar._print_step("step", step, 10)
    assert capsys.readouterr().err.splitlines() == [
        "step 3 of 10, 50 s per step, 6 min left",
        "step 5 of 10, 60 s per step, 5 min left",
    ]


def test_what_backward_keeps_is_counted_once():
    """Each convolution keeps its input, which the ReLU before it keeps as its output; the last ReLU keeps its own."""
    convs = [nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2)]
    model = nn.Sequential(convs[0], nn.ReLU(inplace=True), convs[1], nn.ReLU(inplace=True))
    fixed, per_image = step_memory(model, torch.zeros(1, 8, 16, 16))
    assert fixed == 3 * 2 * 4 * 8 * 8 * 9
    assert per_image == 3 * 4 * 8 * 16 * 16


def test_a_batch_too_large_for_the_machine_is_said_before_the_first_step(training, monkeypatch, capsys):
    fixed, per_image = step_memory(training[0].model, torch.zeros(1, *training[1].input_size))
    monkeypatch.setattr(progress, "_memory", lambda device: fixed + 3 * per_image)
    trainer = L.Trainer(**QUIET, **{**FEW, "max_epochs": 1}, callbacks=[Outlook()], enable_progress_bar=False)
    with pytest.warns(UserWarning, match=r"a step of 4 images needs about .* GB\. Give --data\.batch_size 2 or less"):
        trainer.fit(*training)
    assert "3 steps per epoch of 4 images, about 0.0 GB in float32\n" in capsys.readouterr().out


def test_a_container_has_the_memory_that_it_is_allowed(tmp_path):
    cpu, limit = torch.device("cpu"), tmp_path / "memory.max"
    built_in = progress._memory(cpu, limit)
    assert built_in > 2**20
    for text, expected in (("max\n", built_in), ("1048576\n", 2**20), (f"{2**60}\n", built_in)):
        limit.write_text(text)
        assert progress._memory(cpu, limit) == expected
