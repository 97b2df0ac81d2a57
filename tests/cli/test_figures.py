import json
from typing import Any

import pytest

from tiedconv.cli import figures as figures_module
from tiedconv.cli.figures import figures
from tiedconv.cli.list import list_
from tiedconv.metrics.counts import compare_with_paper
from tiedconv.models.published import PUBLISHED, TABLE_1, TABLE_3


@pytest.fixture
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {row.name: row for row in TABLE_1}
    rows = (*TABLE_1[:2], named["TiedResNet50"], named["ShuffleNet-50"], TABLE_3[1])
    monkeypatch.setattr(figures_module, "compare_with_paper", lambda: compare_with_paper(rows))


@pytest.mark.usefixtures("_few_rows")
def test_table_reads_in_100_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    figures()
    lines = capsys.readouterr().out.splitlines()

    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["TiedResNet50"] == ["tiedresnet50", "22.0", "22.03", "+0.1", "4.4", "4.39", "-0.2"]
    assert rows["TiedResNet50-S"][-1] == "[1]"
    assert rows["ShuffleNet-50"] == ["-", "-", "-", "2.3", "-"]
    assert any(line.startswith("[1] 4 and 8 blocks do not divide 18 channels") for line in lines)


@pytest.mark.usefixtures("_few_rows")
def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    figures(json=True)
    records: list[dict[str, Any]] = json.loads(capsys.readouterr().out)

    assert [r["name"] for r in records[:3]] == ["ResNet50", "TiedResNet50-S", "TiedResNet50"]
    tied = records[2]
    assert (tied["table"], tied["params"], tied["gmacs"], tied["top1"]) == ("1", 22.0, 4.4, 77.6)
    assert tied["built"] == {"params": pytest.approx(22.027, abs=1e-3), "gmacs": pytest.approx(4.391, abs=1e-3)}
    assert tied["difference_percent"]["params"] == pytest.approx(0.12, abs=0.01)
    assert records[3]["built"] == {"params": None, "gmacs": None}


def test_every_table_has_a_title() -> None:
    assert {row.table for row in PUBLISHED} == set(figures_module._TITLES)


def test_list_prints_names_with_counts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    list_("*tiny")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]

    assert lines == [
        ["model", "params", "MACs", "input"],
        ["resnet_tiny", "1.39", "M", "12", "M", "3x32x32"],
        ["tiedresnet_tiny", "1.34", "M", "14", "M", "3x32x32"],
        ["counted", "with", "1,000", "classes"],
    ]
