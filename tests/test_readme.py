"""The README's Python blocks run as they stand."""

import re

import pytest
from tests.markdown import README, ROOT, Block, blocks

TEXT = README.read_text(encoding="utf-8")


@pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in blocks(README, "python")])
def test_python_block_runs(block: Block) -> None:
    block.run({})


def test_make_targets_and_recipes_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", TEXT):
        assert f"\n{target}:" in makefile
    named = re.findall(r"configs/[\w/]+\.yaml", TEXT)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
