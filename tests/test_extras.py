"""Optional dependencies."""

import ast
import json
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.markdown import ROOT

from tiedconv._extras import MissingExtraError, naming_extra, require


def test_require_returns_the_module():
    assert require("json", extra="analysis") is json
    assert require("json.decoder", extra="analysis") is json.decoder


@pytest.mark.parametrize("module", ["tiedconv_no_such_module", "tiedconv_no_such_module.part"])
def test_require_names_the_extra_that_installs_a_missing_module(module):
    with pytest.raises(
        ModuleNotFoundError,
        match=r"^tiedconv_no_such_module\S* is needed here and not installed\. Run: pip install 'tiedc",
    ) as e:
        require(module, extra="analysis")
    assert str(e.value).endswith("'tiedconv[analysis]'")
    assert e.value.name == "tiedconv_no_such_module"


def test_require_does_not_blame_a_module_that_is_there_for_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "tiedconv_half_installed.py").write_text("import tiedconv_missing_part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'tiedconv_missing_part'$"):
        require("tiedconv_half_installed", extra="analysis")
    assert "tiedconv_half_installed" not in sys.modules


def test_an_import_of_what_train_installs_names_that_extra_and_any_other_stays():
    assert str(naming_extra(ModuleNotFoundError("no", name="lightning"))).endswith("pip install 'tiedconv[train]'")
    other = ModuleNotFoundError("no", name="tiedconv_no_such_module")
    assert naming_extra(other) is other
    assert isinstance(naming_extra(ModuleNotFoundError("no", name="rich")), MissingExtraError)


def imported_at_the_top(path: Path) -> set[str]:
    """Return the packages, not of Python's own, that a module imports at its top level."""
    names = set()
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            names.add(statement.module or "")
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def declared(extra: str | None) -> set[str]:
    """Return the distributions that pyproject.toml declares, and those of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_what_a_module_imports_at_its_top_is_declared_for_its_package():
    distributions = packages_distributions()
    extras = {
        **dict.fromkeys(("cli", "compare", "data", "tasks"), "train"),
        "analysis": "analysis",
        "report": "analysis",
    }
    undeclared = []
    for path in sorted((ROOT / "src" / "tiedconv").rglob("*.py")):
        package = path.relative_to(ROOT / "src" / "tiedconv").parts[0]
        allowed = declared(extras.get(package))
        for module in imported_at_the_top(path):
            if allowed.isdisjoint(map(canonicalize_name, distributions[module])):
                undeclared.append(f"{path.name}: {module}")
    assert undeclared == []
