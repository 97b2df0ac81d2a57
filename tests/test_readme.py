"""The README's Python blocks run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_python_block_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_make_targets_and_recipes_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", TEXT):
        assert f"\n{target}:" in makefile
    named = re.findall(r"configs/[\w/]+\.yaml", TEXT)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
