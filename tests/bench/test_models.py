import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from tiedconv.bench import Quartiles, Timing, models, throughput
from tiedconv.bench.models import ModelOptions, ModelRow, measure


def classifier(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 4))


def network(name):
    """A model of its own class, so that nothing compiled for another one fits it."""
    return nn.Sequential(nn.Conv2d(3, 2 + len(name), 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def any_name(monkeypatch):
    monkeypatch.setattr(models, "check_model", lambda name: None)
    monkeypatch.setattr(models, "build_model", network)


def small(**options):
    return ModelOptions(**{"models": ("a", "bb"), "batch": 2, "image_size": 8, "rounds": 3, **options})


@pytest.mark.parametrize("train", [False, True])
def test_throughput_runs_every_model_and_only_training_changes_weights(train):
    networks = {"a": classifier(8), "b": classifier(16)}
    before = {name: model[1].weight.clone() for name, model in networks.items()}
    rates = throughput(networks, torch.randn(5, 1, 8, 8), train=train, rounds=3)
    assert {name: len(values) for name, values in rates.items()} == {"a": 3, "b": 3}
    assert all(rate > 0 for values in rates.values() for rate in values)
    for name, model in networks.items():
        assert torch.equal(before[name], model[1].weight) is not train
        assert model.training is train


def test_real_models_in_all_that_can_be_measured_here():
    names = ("resnet_tiny", "tiedresnet_tiny", "tiedresnet_tiny (released)")
    options = small(models=names, modes=("eager", "optimized"), rounds=2, image_size=16)
    for quantity, dtype in options.groups()[:3]:
        rows = measure(options, quantity, dtype)
        assert [row.error for row in rows] == [""] * len(rows)
        assert {(row.model, row.mode, row.memory_format) for row in rows} == {
            (name, mode, memory_format)
            for name in names
            for mode in (["eager"] if quantity == "train" else ["eager", "optimized"])
            for memory_format in ("contiguous", "channels_last")
        }
        assert {row.batch for row in rows} == {1 if quantity == "latency" else 2}
        assert all(len(row.timing.seconds) == 2 and row.ratio and row.ratio_to_best for row in rows)


@pytest.mark.usefixtures("any_name")
def test_models_and_images_have_the_format_dtype_and_mode_asked_for(monkeypatch):
    seen = []

    def step(model, images):
        seen.append((tuple(images.shape), images.dtype, model[0].weight.dtype, model.training))
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
        return lambda: None

    monkeypatch.setattr(models, "inference", step)
    monkeypatch.setattr(models, "train_step", step)
    options = small(memory_formats=("channels_last",), dtypes=("bfloat16",), models=("a",))
    for quantity in ("latency", "throughput", "train"):
        measure(options, quantity, "bfloat16")
    half = torch.bfloat16
    assert seen == [((n, 3, 8, 8), half, half, train) for n, train in ((1, False), (2, False), (2, True))]


@pytest.mark.usefixtures("any_name")
def test_every_compiled_model_is_compiled_once_for_its_shape(monkeypatch):
    compiled = []

    def backend(graph, inputs):
        sizes = [n for x in inputs for n in (*x.shape, *x.stride())]
        assert all(type(n) is int for n in sizes)  # for these sizes, not for any
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    # Ten, which is more than torch keeps of one piece of code by default.
    options = small(models=("a", "bb", "ccc", "dddd", "eeeee"), modes=("compiled",))
    for quantity in ("latency", "throughput"):
        compiled.clear()
        rows = measure(options, quantity, "float32")
        assert [row.error for row in rows] == [""] * 10
        assert len(compiled) == 10


@pytest.mark.usefixtures("any_name")
def test_what_fails_has_a_row_with_the_error_and_the_others_have_figures(monkeypatch):
    def build(name):
        if name == "bb":
            raise RuntimeError("cannot be built")
        return nn.Conv2d(4, 4, 1) if name == "ccc" else network(name)  # images have three channels

    monkeypatch.setattr(models, "build_model", build)
    rows = measure(small(models=("a", "bb", "ccc", "dddd"), memory_formats=("contiguous",)), "latency", "float32")
    by_name = {row.model: row for row in rows}
    assert by_name["bb"].error == "RuntimeError: cannot be built"
    assert by_name["ccc"].error.startswith("RuntimeError: Given groups=1, weight of size [4, 4, 1, 1]")
    assert by_name["bb"].failures() == ["latency, float32, bb, eager, contiguous: RuntimeError: cannot be built"]
    assert by_name["bb"].value is by_name["bb"].ratio is None
    for name in ("a", "dddd"):
        assert by_name[name].failures() == []
        assert by_name[name].ratio.median > 0


@pytest.mark.usefixtures("any_name")
def test_memory_is_that_of_each_format_in_eager_mode(monkeypatch):
    def peak(build, shape, *, channels_last, dtype, device):
        assert (shape, dtype, device) == ((2, 3, 8, 8), torch.float32, "cpu")
        if channels_last:
            raise RuntimeError("killed")
        return {"a": 40.0, "bb": 30.0}[build.args[0]]

    monkeypatch.setattr(models, "train_step_peak_memory", peak)
    rows = measure(small(modes=("optimized", "eager")), "memory", "float32")
    assert [(row.mode, row.memory_format, row.mib) for row in rows[:2]] == [
        ("eager", "contiguous", 40.0),
        ("eager", "contiguous", 30.0),
    ]
    assert rows[1].value == Quartiles(30.0, 30.0, 30.0)
    assert rows[1].ratio == rows[1].ratio_to_best == Quartiles(0.75, 0.75, 0.75)
    assert [row.error for row in rows[2:]] == ["RuntimeError: killed"] * 2
    monkeypatch.setattr(models, "train_step_peak_memory", lambda *_, **__: None)
    assert "keeps no record" in measure(small(), "memory", "float32")[0].error


def row(model, memory_format="contiguous", seconds=(), quantity="latency", **more):
    timing = Timing(seconds) if seconds else None
    return ModelRow(quantity, "float32", model, "eager", memory_format, 4, timing, **more)


def test_ratios_are_to_the_same_mode_and_format_and_to_the_references_best():
    rows = models._compare(
        [
            row("ref", "contiguous", (4.0, 8.0)),
            row("ref", "channels_last", (2.0, 2.0)),
            row("own", "contiguous", (2.0, 1.0)),
            row("own", "channels_last"),
        ],
        "ref",
    )
    assert rows[2].ratio == Quartiles(5.0, 3.5, 6.5)  # of 4 / 2 and 8 / 1
    assert rows[2].ratio_to_best == Quartiles(1.5, 1.25, 1.75)  # of 2 / 2 and 2 / 1
    assert rows[0].ratio == Quartiles(1.0, 1.0, 1.0)
    assert rows[3].ratio is rows[3].ratio_to_best is None
    [alone] = models._compare([row("own", seconds=(1.0,))], "ref")
    assert alone.ratio is alone.ratio_to_best is None


def test_figures_have_the_unit_of_their_quantity():
    assert row("a", seconds=(0.5, 1.5)).value == Quartiles(1000.0, 750.0, 1250.0)
    assert row("a", seconds=(0.5, 1.0), quantity="throughput").value == Quartiles(6.0, 5.0, 7.0)
    assert row("a", seconds=(0.5, 1.0), quantity="train").value.median == 6.0


@pytest.mark.parametrize(
    "made",
    [
        row("a", seconds=(0.5, 1.5), ratio=Quartiles(2.0, 1.0, 3.0), ratio_to_best=Quartiles(1.0, 1.0, 1.0)),
        row("a", quantity="memory", mib=12.5),
        row("a", error="RuntimeError: no"),
    ],
)
def test_rows_survive_json(made):
    record = json.loads(json.dumps(made.record()))
    assert ModelRow.from_record(record) == made
    assert record["median"] == (made.value and made.value.median)
    assert record["unit"] == ("MiB" if made.quantity == "memory" else "ms")
    assert ModelRow.from_record(record) != replace(made, model="b")


def test_groups_leave_out_what_no_mode_can_do():
    options = ModelOptions(models=["resnet_tiny"], modes=["optimized"], dtypes=["float32", "bfloat16"])
    assert options.groups() == [(q, d) for d in ("float32", "bfloat16") for q in ("latency", "throughput")]
    assert len(ModelOptions(models=["resnet_tiny"]).groups()) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": []}, "bench: models must name at least one, each once, got none"),
        ({"models": ["resnet_tiny"] * 2}, "bench: models must name .* each once, got resnet_tiny, resnet_tiny"),
        ({"models": ["resnet_tyni"]}, "bench: no model is called 'resnet_tyni'"),
        ({"modes": ["fast"]}, "bench: modes must be among eager, compiled, optimized, got 'fast'"),
        ({"memory_formats": ["NHWC"]}, "bench: memory_formats must be among contiguous, channels_last, got 'NHWC'"),
        ({"dtypes": ["float16"]}, "bench: dtypes must be among float32, bfloat16, got 'float16'"),
        ({"quantities": ["speed"]}, "bench: quantities must be among latency, throughput, train, memory, got 'speed'"),
        ({"modes": ["optimized"], "quantities": ["train"]}, "train cannot be measured with modes=optimized. Add eager"),
        ({"batch": 0}, "bench: batch must be at least 1, got batch=0"),
        ({"image_size": 0}, "bench: image_size must be at least 1"),
        ({"device": "abacus"}, "bench: device must be cpu, cuda"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        ModelOptions(**{"models": ["resnet_tiny"], **options})
