"""``tiedconv figures``."""

from dataclasses import fields
from json import dumps
from typing import Any

from rich.console import Console
from rich.table import Table

from ..metrics.counts import Comparison, compare_with_paper

_TITLES = {
    "1": "Table 1: classification",
    "3": "Table 3: attention parameters, SE",
    "4": "Table 4: attention parameters, global context in c3 to c5",
    "5": "Table 5: splits x width, TiedResNet-50",
    "6": "Table 6: mixer of TiedResNet-50",
}


def figures(json: bool = False) -> None:
    """Print every count of the paper's Tables 1, 3, 4, 5 and 6 beside that of the model built here.

    Parameters are in millions, multiply-adds in 10^9 for one 224x224 image. Tables 3 and 4 count attention alone.

    Args:
        json: print one JSON list instead of tables, with the accuracies that the paper prints.
    """
    comparisons = list(compare_with_paper())
    if json:
        print(dumps([_record(c) for c in comparisons], indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    remarks = list(dict.fromkeys(c.published.remark for c in comparisons if c.published.remark))
    for number, title in _TITLES.items():
        console.print(_table(title, [c for c in comparisons if c.published.table == number], remarks))
        console.print()
    for i, remark in enumerate(remarks, start=1):
        console.print(f"[dim]\\[{i}][/dim] {remark}")


def _table(title: str, comparisons: list[Comparison], remarks: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("published as", width=27)
    table.add_column("built by", width=22)
    for header in ("params M", "built", "±%", "GMACs", "built", "±%"):
        table.add_column(header, justify="right", no_wrap=True, min_width=5)
    table.add_column("")
    for c in comparisons:
        row = c.published
        table.add_row(
            row.name,
            row.model or "-",
            "-" if row.params is None else str(row.params),
            _number(c.params),
            _signed(c.params_difference),
            "-" if row.gmacs is None else str(row.gmacs),
            _number(c.gmacs),
            _signed(c.gmacs_difference),
            f"[dim]\\[{remarks.index(row.remark) + 1}][/dim]" if row.remark else "",
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _signed(difference: float | None) -> str:
    return "" if difference is None else f"{difference:+.1f}"


def _record(c: Comparison) -> dict[str, Any]:
    published = {f.name: getattr(c.published, f.name) for f in fields(c.published) if f.name not in ("args", "within")}
    built = {"params": c.params, "gmacs": c.gmacs}
    difference = {"params": c.params_difference, "gmacs": c.gmacs_difference}
    return {**published, "built": built, "difference_percent": difference}
