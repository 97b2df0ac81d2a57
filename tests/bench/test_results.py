import pytest

from tiedconv.bench import Timing
from tiedconv.bench.models import ModelRow
from tiedconv.bench.operators import Case, OperatorRow
from tiedconv.bench.results import Results, read_results

OPERATOR = OperatorRow(
    Case("resnet", 8, 16, 4, 3, blocks=4, batch=2, memory_format="contiguous"),
    train=False,
    chosen="view",
    timings={"dense": Timing((2.0, 3.0)), "tied": Timing((1.0, 1.5))},
    failed={"released": "RuntimeError: no"},
)
MODEL = ModelRow("memory", "float32", "resnet50", "eager", "contiguous", 8, mib=100.0)


@pytest.mark.parametrize(("benchmark", "row"), [("operators", OPERATOR), ("models", MODEL)])
def test_what_is_written_is_read(tmp_path, benchmark, row):
    results = Results(benchmark, {"torch": "2"}, {"batch": 2}, [row])
    results.write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_failures_are_listed():
    results = Results("operators", {}, {}, [OPERATOR])
    assert results.failures() == ["3x3, 8→16 ch, 4², B=4, contiguous, released: RuntimeError: no"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"benchmark": "marathon"}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json was not written by tiedconv bench"):
        read_results(tmp_path / "other.json")
