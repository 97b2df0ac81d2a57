import json
import sys

import pytest
import torch

from tiedconv.bench import operators
from tiedconv.cli.main import main


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(operators, "SHAPES", ((16, 4, 3), (32, 2, 1)))


@pytest.fixture(autouse=True)
def _same_number_of_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bench(line, *more):
    main(["bench", *line.split(), *map(str, more)])


def refuse(*_, **__):
    raise RuntimeError("not on this machine")


def test_unknown_benchmark_names_the_nearest():
    with pytest.raises(SystemExit, match=r"'bench operator' is not a subcommand\. Did you mean 'bench operators'\?"):
        main(["bench", "operator"])


def test_operators_print_a_table_write_every_time_and_draw(tmp_path, capsys):
    file, plot = tmp_path / "new" / "times.json", tmp_path / "new" / "times.svg"
    bench("operators --blocks 2,4 --batch 3 --rounds 2 --threads 1", "--json", file, "--plot", plot)
    printed = capsys.readouterr().out
    assert "contiguous, forward, float32, batch 3" in printed
    assert "channels_last, forward, float32, batch 3" in printed
    words = ("dense", "released", "tied", "matmul", "3x3, 16 ch, 4²", "B = 4", "here at least", "threads 1")
    assert all(word in printed for word in words)
    assert "…" not in printed
    results = json.loads(file.read_text())
    machine, options, rows = results["machine"], results["options"], results["rows"]
    assert (results["benchmark"], machine["threads"], options["batch"]) == ("operators", "1", 3)
    assert [row["case"]["blocks"] for row in rows] == [2, 4] * 4
    assert {len(measured["seconds"]) for row in rows for measured in row["candidates"].values()} == {2}
    assert "<svg" in plot.read_text()


def test_one_format_forward_and_backward(capsys):
    bench("operators --train --memory_formats channels_last --dtype bfloat16 --blocks 2 --rounds 2")
    printed = capsys.readouterr().out
    assert "channels_last, forward and backward, bfloat16, batch 8" in printed
    assert "contiguous" not in printed


def test_what_fails_is_shown_kept_and_ends_in_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(operators, "released_tied_conv2d", refuse)
    file, plot = tmp_path / "times.json", tmp_path / "times.pdf"
    with pytest.raises(SystemExit) as stop:
        bench("operators --blocks 2 --memory_formats contiguous --rounds 2", "--json", file, "--plot", plot)
    assert "2 not measured:\n3x3, 16 ch, 4², B=2, contiguous, released: RuntimeError: not on this" in stop.value.code
    assert capsys.readouterr().out.count("failed") == 2
    assert [list(record["failed"]) for record in json.loads(file.read_text())["rows"]] == [["released"]] * 2
    assert plot.exists()


def test_rows_of_an_interrupted_run_are_kept(tmp_path, monkeypatch, capsys):
    calls = []

    def once(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return operators.time_case(*args, **options)

    monkeypatch.setattr("tiedconv.cli.bench.time_case", once)
    with pytest.raises(SystemExit) as stop:
        bench("operators --rounds 2", "--json", tmp_path / "times.json")
    assert stop.value.code == 130
    assert "The rows measured so far are in the file of --json" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "times.json").read_text())["rows"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "1"], "rounds must be at least 2, for a spread, got rounds=1"),
        (["--threads", "0"], "threads must be at least 1, got threads=0"),
        (["--blocks", "2,x"], "--blocks: expected int, got x"),
        (["--blocks", "3"], "channels=16 is not divisible by blocks"),
        (["--device", "abacus"], "device must be cpu, cuda or cuda:<number>, got 'abacus'"),
        (["--plot", "times.xyz"], "cannot draw --plot times.xyz: its suffix must be one of .*pdf, .*png.*svg"),
        (["--json", "{tmp}"], "cannot write --json {tmp}: it is a folder"),
        (["--json", "{tmp}/file/times.json"], "cannot write --json {tmp}/file/times.json: "),
        (["--plot", "{tmp}/file/times.svg"], "cannot write --plot {tmp}/file/times.svg: "),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(tmp_path, monkeypatch, options, message):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tiedconv.cli.bench.time_case", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(SystemExit, match=message.format(tmp=tmp_path)):
        bench("operators", *(option.format(tmp=tmp_path) for option in options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


MODELS = "models --models resnet_tiny,tiedresnet_tiny --image_size 8 --batch 2 --rounds 2"


@pytest.mark.slow
def test_models_print_a_table_per_quantity_write_and_draw(tmp_path, capsys):
    file, plot = tmp_path / "models.json", tmp_path / "models.svg"
    options = "--quantities latency,train --engines onnxruntime,eager --threads 1"
    bench(f"{MODELS} {options}", "--json", file, "--plot", plot)
    printed = capsys.readouterr().out
    assert "latency, ms, float32, batch 1" in printed
    assert "train, images/s, float32, batch 2" in printed
    assert "x resnet_tiny" in printed
    results = json.loads(file.read_text())
    machine, options, rows = results["machine"], results["options"], results["rows"]
    assert (machine["threads"], options["image_size"]) == ("1", 8)
    assert f"onnxruntime {machine['onnxruntime']}" in " ".join(printed.split())
    assert "openvino" not in machine
    assert options["models"] == ["resnet_tiny", "tiedresnet_tiny"]
    assert [(row["quantity"], row["engine"], row["memory_format"], row["model"]) for row in rows] == [
        (*what, name)
        for what in (
            ("latency", "onnxruntime", None),
            ("latency", "eager", "channels_last"),
            ("train", "eager", "channels_last"),
        )
        for name in ("resnet_tiny", "tiedresnet_tiny")
    ]
    assert {len(row["seconds"]) for row in rows} == {2}
    assert "<svg" in plot.read_text()


def test_a_model_that_fails_is_shown_kept_and_ends_in_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tiedconv.bench.models.inference", refuse)
    file = tmp_path / "models.json"
    with pytest.raises(
        SystemExit, match="2 not measured:\nlatency, resnet_tiny, eager, channels_last: RuntimeError: not"
    ):
        bench(f"{MODELS} --quantities latency,train", "--json", file)
    assert capsys.readouterr().out.count("failed") == 2
    errors = [row["error"] for row in json.loads(file.read_text())["rows"]]
    assert errors == ["RuntimeError: not on this machine"] * 2 + [""] * 2


def test_the_package_that_an_engine_lacks_is_named_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("tiedconv.cli.bench.measure", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(SystemExit, match=r"onnxruntime is needed here .* pip install 'tiedconv\[export\]'"):
        bench("models --engines eager,onnxruntime")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--models resnet_tyni", "no model is called 'resnet_tyni'"),
        ("--engines eager,fast", "--engines: expected one of 'eager', 'compiled', 'onnxruntime', 'openvino', got fast"),
        ("--plot models.xyz", r"cannot draw --plot models\.xyz"),
    ],
)
def test_mistakes_about_models_are_named_before_anything_is_measured(monkeypatch, options, message):
    monkeypatch.setattr("tiedconv.cli.bench.measure", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(SystemExit, match=message):
        bench(f"models {options}")
