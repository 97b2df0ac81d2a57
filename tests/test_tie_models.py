import importlib.util
import re
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("tie_models", _ROOT / "benchmarks" / "tie_models.py")
assert _SPEC
assert _SPEC.loader
tie_models = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tie_models)


def number(text: str) -> float:
    value, unit = text.split()
    return float(value) * {"M": 1e6, "G": 1e9}[unit]


def test_the_table_of_families_is_that_of_the_networks_below_it():
    names = [name for names, _ in tie_models.FAMILIES.values() for name in names.split()]
    assert sorted(names) == sorted(tie_models.MODELS)
    page = (_ROOT / "docs" / "tied_models.md").read_text()
    rows = [
        [cell.strip() for cell in row.split("|")] for row in re.findall(r"^\| (\S+/\S+ \|.*) \|$", page, re.MULTILINE)
    ]
    shares = {row[0]: (number(row[4]) / number(row[3]), number(row[6]) / number(row[5])) for row in rows}
    assert sorted(shares) == sorted(tie_models.MODELS)
    assert "\n".join(tie_models.families(shares)) in page
