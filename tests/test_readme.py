"""The README's Python blocks run as they stand."""

import re

import pytest
from markdown.extensions.toc import slugify
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


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)]+)\)", TEXT))))
def test_links_of_the_readme_lead_to_files_and_headings_that_exist(link: str):
    name, _, anchor = link.partition("#")
    assert (ROOT / name).exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in [slugify(heading, "-") for heading in headings]


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 140, "what was measured stands on the pages of docs/, the README links it"
