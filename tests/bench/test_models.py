import json
from dataclasses import asdict, replace
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
    defaults = {"models": ("a", "bb"), "memory_formats": ("contiguous", "channels_last"), "batch": 2, "image_size": 8}
    return ModelOptions(**{**defaults, "rounds": 3, **options})


@pytest.mark.parametrize("train", [False, True])
def test_throughput_runs_every_model_and_only_training_changes_weights(train):
    networks = {"a": classifier(8), "b": classifier(16)}
    before = {name: model[1].weight.clone() for name, model in networks.items()}
    rates = throughput(networks, torch.randn(5, 1, 8, 8), train=train, rounds=3)
    assert all(rates[name].q3 >= rates[name].q1 > 0 for name in "ab")
    for name, model in networks.items():
        assert torch.equal(before[name], model[1].weight) is not train
        assert model.training is train


@pytest.mark.slow
@pytest.mark.alone
def test_real_models_in_engines_that_read_files_and_in_torch():
    names = ("resnet_tiny", "tiedresnet_tiny")
    options = small(models=names, engines=("eager", "onnxruntime", "openvino"), rounds=2, image_size=16)
    formats = {"eager": ["contiguous", "channels_last"], "onnxruntime": [None], "openvino": [None]}
    for quantity, engines in (("throughput", [*formats]), ("train", ["eager"])):
        rows = measure(options, quantity)
        assert [row.error for row in rows] == [""] * len(rows)
        assert [(row.engine, row.memory_format, row.model) for row in rows] == [
            (engine, memory_format, name) for engine in engines for memory_format in formats[engine] for name in names
        ]
        assert all(len(row.timing.seconds) == 2 and row.ratio and row.ratio_to_best for row in rows)


@pytest.mark.usefixtures("any_name")
def test_no_weight_is_zero_behind_which_an_engine_could_be_wrong(monkeypatch):
    def build(name):
        model = network(name)
        nn.init.zeros_(model[0].weight)
        return model

    seen = []
    monkeypatch.setattr(models, "build_model", build)
    monkeypatch.setattr(models, "prepare", lambda engine, model, *_: seen.append(model) or model)
    measure(small(models=("a",), memory_formats=("contiguous",)), "latency")
    assert all(parameter.any() for parameter in seen[0].parameters())


@pytest.mark.usefixtures("any_name")
def test_progress_counts_models_and_then_rounds():
    told = []
    measure(small(models=("a",), memory_formats=("contiguous",)), "latency", lambda *call: told.append(call))
    rounds = [("latency: rounds", done, 5) for done in range(1, 6)]  # two to warm up
    assert told == [("latency: preparing", 0, 1), *rounds]


@pytest.mark.usefixtures("any_name")
def test_different_engines_rest_between_calls(monkeypatch):
    rests = []

    def time(steps, *, rest, **options):
        rests.append(rest)
        return {}, dict.fromkeys(steps, "not timed")

    monkeypatch.setattr(models, "try_interleaved", time)
    monkeypatch.setattr(models, "prepare", lambda engine, model, *_: model)
    for engines in (("eager",), ("eager", "onnxruntime")):
        measure(small(engines=engines), "latency")
    assert rests == [0, models.REST]


@pytest.mark.usefixtures("any_name")
def test_models_and_images_have_the_format_dtype_and_mode_asked_for(monkeypatch):
    seen = []

    def step(model, images, *, compiled=False):
        seen.append((tuple(images.shape), images.dtype, model[0].weight.dtype, model.training))
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
        return lambda: None

    monkeypatch.setattr(models, "inference", step)
    monkeypatch.setattr(models, "train_step", step)
    options = small(memory_formats=("channels_last",), dtype="bfloat16", models=("a",))
    for quantity in ("latency", "throughput", "train"):
        measure(options, quantity)
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
    options = small(models=("a", "bb", "ccc", "dddd", "eeeee"), engines=("compiled",))
    for quantity in ("latency", "throughput", "train"):
        compiled.clear()
        rows = measure(options, quantity)
        assert [row.error for row in rows] == [""] * 10
        assert len(compiled) == 10


@pytest.mark.usefixtures("any_name")
def test_what_fails_has_a_row_with_the_error_and_the_others_have_figures(monkeypatch):
    def build(name):
        if name == "bb":
            raise RuntimeError("cannot be built")
        return nn.Conv2d(4, 4, 1) if name == "ccc" else network(name)  # images have three channels

    monkeypatch.setattr(models, "build_model", build)
    rows = measure(small(models=("a", "bb", "ccc", "dddd"), memory_formats=("contiguous",)), "latency")
    by_name = {row.model: row for row in rows}
    assert by_name["bb"].error == "RuntimeError: cannot be built"
    assert by_name["ccc"].error.startswith("RuntimeError: Given groups=1, weight of size [4, 4, 1, 1]")
    assert by_name["bb"].failures() == ["latency, bb, eager, contiguous: RuntimeError: cannot be built"]
    assert by_name["bb"].value is by_name["bb"].ratio is None
    for name in ("a", "dddd"):
        assert by_name[name].failures() == []
        assert by_name[name].ratio.median > 0


@pytest.mark.usefixtures("any_name")
def test_memory_is_that_of_each_format_in_the_engines_of_torch(monkeypatch):
    def peak(build, shape, *, channels_last, dtype, device, compiled):
        assert (shape, dtype, device) == ((2, 3, 8, 8), torch.float32, "cpu")
        if channels_last:
            raise RuntimeError("killed")
        return {"a": 40.0, "bb": 30.0}[build.args[0]] + 10 * compiled

    monkeypatch.setattr(models, "train_step_peak_memory", peak)
    rows = measure(small(engines=("onnxruntime", "eager", "compiled")), "memory")
    assert [(row.engine, row.memory_format, row.mib) for row in rows] == [
        (engine, memory_format, None if memory_format == "channels_last" else mib + 10 * (engine == "compiled"))
        for engine in ("eager", "compiled")
        for memory_format in ("contiguous", "channels_last")
        for mib in (40.0, 30.0)
    ]
    assert rows[1].value == Quartiles(30.0, 30.0, 30.0)
    assert rows[1].ratio == rows[1].ratio_to_best == Quartiles(0.75, 0.75, 0.75)
    assert [row.error for row in rows[2:4]] == ["RuntimeError: killed"] * 2
    monkeypatch.setattr(models, "train_step_peak_memory", lambda *_, **__: None)
    told = []
    assert "keeps no record" in measure(small(), "memory", lambda *call: told.append(call))[0].error
    assert told[-1] == ("memory", 4, 4)  # so that a bar goes away before the table is printed


def row(model, memory_format="contiguous", seconds=(), quantity="latency", **more):
    timing = Timing(seconds) if seconds else None
    return ModelRow(quantity, "float32", model, "eager", memory_format, 4, timing, **more)


def test_ratios_are_to_the_same_engine_and_format_and_to_the_references_best():
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


def test_the_references_best_may_be_in_another_engine():
    fast = replace(row("ref", None, (1.0, 1.0)), engine="openvino")
    rows = models._compare([row("ref", seconds=(4.0, 4.0)), fast, row("own", seconds=(2.0, 2.0))], "ref")
    assert (rows[2].ratio.median, rows[2].ratio_to_best.median) == (2.0, 0.5)
    assert (fast.label, rows[0].label) == ("ref, openvino", "ref, eager, contiguous")


def test_figures_have_the_unit_of_their_quantity():
    assert row("a", seconds=(0.5, 1.5)).value == Quartiles(1000.0, 750.0, 1250.0)
    assert row("a", seconds=(0.5, 1.0), quantity="throughput").value == Quartiles(6.0, 5.0, 7.0)
    assert row("a", seconds=(0.5, 1.0), quantity="train").value.median == 6.0


@pytest.mark.parametrize(
    "made",
    [
        row("a", seconds=(0.5, 1.5), ratio=Quartiles(2.0, 1.0, 3.0), ratio_to_best=Quartiles(1.0, 1.0, 1.0)),
        row("a", quantity="memory", mib=12.5),
        replace(row("a", None, error="RuntimeError: no"), engine="openvino"),
    ],
)
def test_records_hold_rows_and_derived_figures(made):
    record = json.loads(json.dumps(made.record()))
    for name in ("quantity", "dtype", "model", "engine", "memory_format", "batch", "mib", "error"):
        assert record[name] == getattr(made, name)
    for name in ("ratio", "ratio_to_best"):
        ratio = getattr(made, name)
        assert record[name] == (ratio and asdict(ratio))
    assert record["seconds"] == (made.timing and list(made.timing.seconds))
    assert record["median"] == (made.value and made.value.median)
    assert record["unit"] == ("MiB" if made.quantity == "memory" else "ms")


def test_only_torch_trains():
    options = ModelOptions(models=["resnet_tiny"], engines=["openvino", "eager"])
    assert options.measurable() == list(options.quantities)
    assert [options.engines_for(quantity) for quantity in options.quantities] == [["openvino", "eager"]] * 2 + [
        ["eager"]
    ] * 2
    assert replace(options, engines=["onnxruntime"]).measurable() == ["latency", "throughput"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": []}, "bench: models must name at least one, each once, got none"),
        ({"models": ["resnet_tiny"] * 2}, "bench: models must name .* each once, got resnet_tiny, resnet_tiny"),
        ({"models": ["resnet_tyni"]}, "no model is called 'resnet_tyni'"),
        ({"engines": ["fast"]}, "bench: engines must be among eager, compiled, onnxruntime, openvino, got 'fast'"),
        ({"memory_formats": ["NHWC"]}, "bench: memory_formats must be among contiguous, channels_last, got 'NHWC'"),
        (
            {"engines": ["openvino"], "dtype": "bfloat16"},
            "bench: openvino is measured in float32 on the CPU, got dtype=b",
        ),
        ({"quantities": ["speed"]}, "bench: quantities must be among latency, throughput, train, memory, got 'speed'"),
        (
            {"engines": ["openvino"], "quantities": ["train"]},
            "train cannot be measured with engines=openvino. Add eager",
        ),
        ({"batch": 0}, "bench: batch must be at least 1, got batch=0"),
        ({"image_size": 0}, "bench: image_size must be at least 1"),
        ({"device": "abacus"}, "bench: device must be cpu, cuda"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        ModelOptions(**{"models": ["resnet_tiny"], **options})
