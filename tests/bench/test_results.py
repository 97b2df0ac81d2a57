import json

import pytest

from tiedconv.bench import Timing
from tiedconv.bench.models import ModelRow
from tiedconv.bench.operators import Case, OperatorRow
from tiedconv.bench.results import Results

OPERATOR = OperatorRow(
    Case(8, 4, 3, blocks=4, batch=2, memory_format="contiguous"),
    train=False,
    chosen="view",
    timings={"dense": Timing((2.0, 3.0)), "tied": Timing((1.0, 1.5))},
    failed={"released": "RuntimeError: no"},
)
MODEL = ModelRow("memory", "float32", "resnet50", "eager", "contiguous", 8, mib=100.0)


@pytest.mark.parametrize(("benchmark", "row"), [("operators", OPERATOR), ("models", MODEL)])
def test_results_are_written_as_json(tmp_path, benchmark, row):
    Results(benchmark, {"torch": "2"}, {"batch": 2}, tmp_path / "results.json").add([row])
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "benchmark": benchmark,
        "machine": {"torch": "2"},
        "options": {"batch": 2},
        "rows": [json.loads(json.dumps(row.record()))],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_failures_are_listed():
    results = Results("operators", {}, {}, rows=[OPERATOR])
    assert results.failures() == ["3x3, 8 ch, 4², B=4, contiguous, released: RuntimeError: no"]
