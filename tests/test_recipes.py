"""The commands of docs/recipes.md train what the paper's tables list; that they parse, tests/test_docs.py checks."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import yaml
from tests.markdown import ROOT, commands

from tiedconv.models.published import PUBLISHED, PublishedCount

PAGE = ROOT / "docs" / "recipes.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [pytest.param(line, id=place) for place, line in commands(PAGE)]
BUILT = [pytest.param(row, id=f"{row.table}-{row.name}-{row.model}") for row in PUBLISHED if row.model]


def flags(line: str) -> dict[str, str]:
    """Return the options of a command, each with its value."""
    words = shlex.split(line)[2:]
    return {option: value for option, value in pairwise(words) if option.startswith("--")}


def section(tables: str) -> str:
    """Return what the page says of one of the paper's tables, or of those under one heading."""
    return TEXT.partition(f"\n### {tables}: ")[2].partition("\n##")[0]


@pytest.mark.parametrize("line", COMMANDS)
def test_recipe_and_model_of_a_command_exist_and_go_together(line: str):
    given = flags(line)
    recipe = yaml.safe_load((ROOT / given["--config"]).read_text(encoding="utf-8"))
    task = recipe["model"]["class_path"].rpartition(".")[2]
    option = {"ClassificationTask": "--model.model", "DetectionTask": "--model.backbone"}[task]
    assert timm.is_model(given[option])
    if "weights" in recipe["model"]["init_args"]:
        assert given["--model.weights"] == f"weights/{given[option]}.ckpt"


@pytest.mark.parametrize("row", BUILT)
def test_every_published_row_that_is_built_here_has_a_command(row: PublishedCount):
    if row.params is None:  # ours
        page = TEXT.partition("\n## Our own networks")[2]
        assert f"--model.model {row.model}`" in page
    elif row.table == "4":
        figures = f"{row.box_ap} / {row.mask_ap}"
        found = [line for line in section("Table 4").splitlines() if figures in line]
        assert len(found) == 1
        assert f"--model.backbone {row.model} " in found[0]
        assert found[0].endswith(f" --model.context_blocks {row.context_blocks}` |")
    else:
        figures = f"{row.top1}" if row.top5 is None else f"{row.top1} / {row.top5}"
        named = re.compile(rf"--model\.model {row.model}[` ]")
        found = [line for line in section(f"Table {row.table}").splitlines() if named.search(line)]
        assert len(found) == 1
        assert f"| {figures}" in found[0]
        if row.args:
            assert yaml.safe_load(flags(found[0].split("`")[1])["--model.model_kwargs"]) == row.args


@pytest.mark.parametrize(("tables", "rows"), [("Table 2", 3), ("Table 4", 4), ("Tables A.1 and A.2", 25)])
def test_every_detector_of_the_papers_tables_has_a_command(tables: str, rows: int):
    assert len(set(re.findall(r"`(tiedconv fit --config configs/[^`]+)` \|\n", section(tables)))) == rows


def test_the_page_lists_every_recipe():
    listed = set(re.findall(r"^\| `(configs/[\w/]+\.yaml)` \|", TEXT, re.MULTILINE))
    recipes = {str(path.relative_to(ROOT)) for path in Path(ROOT, "configs").rglob("*.yaml")}
    assert listed == {path for path in recipes if not path.endswith("/compare.yaml")}
