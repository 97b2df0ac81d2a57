"""The documentation says what is there: its code runs, its commands parse, its reference is complete."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from inspect import isclass, isroutine
from pathlib import Path
from runpy import run_path
from textwrap import dedent
from typing import Any
from unittest.mock import patch

import griffe
import pytest
from jsonargparse import ArgumentParser
from tests.markdown import PAGES, README, ROOT, Block, blocks, commands

import tiedconv
from tiedconv.cli import main

SOURCES = sorted((ROOT / "src").rglob("*.py"))
REFERENCE = ROOT / "docs" / "reference"
PACKAGES = sorted(path.parent.name for path in (ROOT / "src" / "tiedconv").glob("[a-z]*/__init__.py"))


class _ParsedError(BaseException):
    """Ends a command after its arguments are parsed, past the handlers of ordinary errors."""


@pytest.mark.stress  # the docs workflow builds it for every change, and checks links and names
def test_the_site_builds_with_every_link_and_name_it_refers_to(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        assert (tmp_path / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()


def _hook(name: str) -> dict[str, Any]:
    """Return what a hook of the site's build defines."""
    return run_path(str(ROOT / "docs" / "_hooks" / f"{name}.py"))


def _pages_with_python() -> Iterator[Any]:
    for path in PAGES:
        if found := blocks(path, "python"):
            # After OpenVINO 2026.4 has run, other code of the process can crash.
            marks = [pytest.mark.alone] if any("open_openvino" in block.code for block in found) else []
            yield pytest.param(found, id=str(path.relative_to(ROOT)), marks=marks)


@pytest.mark.parametrize("page", [*_pages_with_python()])
def test_python_blocks_of_a_page_run_one_after_the_other(page: list[Block], tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # what they write does not stay
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    _as_if_downloaded_by_torch_hub(tmp_path / "torch")
    namespace: dict[str, Any] = {}
    for block in page:
        block.run(namespace)
        printed = _words(capsys.readouterr().out)
        for line in _shown_output(block).splitlines():
            assert line == "..." or _words(line) in printed, f"{block.place} does not print {line!r}"


def _as_if_downloaded_by_torch_hub(torch_home: Path) -> None:
    (torch_home / "hub").mkdir(parents=True)
    (torch_home / "hub" / "tiedconv_tiedconv_main").symlink_to(ROOT)


def _shown_output(block: Block) -> str:
    """Return what the page says that a block prints: a block of text that follows it."""
    text = block.path.read_text(encoding="utf-8")
    after = text[text.index(block.code) + len(block.code) :]
    shown = re.match(r"```\n\n(?:\?\?\? .*\n)?( *)```text\n(.*?)^\1```", after, re.DOTALL | re.MULTILINE)
    return dedent(shown[2]) if shown else ""


def _words(text: str) -> str:
    """Return text without what differs between machines: spaces, lines, and errors of weights in their last digits."""
    return " ".join(re.sub(r"\b0\.\d+|─+", "", text).split())


def _calls() -> Iterator[Any]:
    calls = {line: place for path in (README, *PAGES) for place, line in commands(path)}
    for line, place in calls.items():
        yield pytest.param(line, id=place)


@pytest.mark.parametrize("line", [*_calls()])
def test_command_lines_parse(line: str, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # recipes are named from there
    parse = ArgumentParser.parse_args

    def parse_and_stop(self: ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse(self, *args, **kwargs)
        raise _ParsedError

    with patch.object(ArgumentParser, "parse_args", parse_and_stop), pytest.raises(_ParsedError):
        main.main(shlex.split(line, comments=True)[1:])


def test_a_command_line_with_an_unknown_option_does_not_parse():
    with pytest.raises(SystemExit, match="there is no option --filters"):
        main.main(["list", "--filters", "x"])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_package_is_in_the_reference(package: str):
    if package == "cli":
        assert "<!-- commands -->" in (REFERENCE / "command-line.md").read_text(encoding="utf-8")
        return
    assert f"::: tiedconv.{package}\n" in (REFERENCE / f"{package}.md").read_text(encoding="utf-8")
    assert f"({package}.md)" in (REFERENCE / "index.md").read_text(encoding="utf-8")
    documented = import_module(f"tiedconv.{package}")
    named = {name: getattr(documented, name) for name in documented.__all__}
    undocumented = [name for name, thing in named.items() if (isclass(thing) or isroutine(thing)) and not thing.__doc__]
    assert undocumented == [], f"without a docstring the reference leaves them out: {undocumented}"
    # A page that says in which order its members stand names all of them.
    page = (REFERENCE / f"{package}.md").read_text(encoding="utf-8").partition("\n## ")[0]
    if ordered := re.findall(r"^ {8}- (\w+)$", page, re.MULTILINE):
        assert sorted(ordered) == sorted(documented.__all__)


def test_the_command_lines_reference_has_every_option_of_every_command_with_what_it_does():
    hook = _hook("live")
    options = 0
    for name in hook["names"]():
        text = hook["section"](name)
        assert text.startswith(f"## tiedconv {name} {{#{name.replace(' ', '-')}}}")
        assert f"```sh\ntiedconv {name} " in text
        assert '<span class="none">' not in text, f"{name}: an option without a description"
        for action in hook["_parser"](name)._actions:
            option = next((o for o in action.option_strings if o.startswith("--")), "--help")
            if option in ("--help", "--config", "--print_config") or option.endswith(".help"):
                continue
            if action.metavar == "CONFIG":  # a file for the options whose names go on with a dot
                continue
            if name in ("fit", "validate", "test", "predict") and option.startswith(("--trainer.", "--checkpoint.")):
                continue
            assert f"`{option}` <small>" in text, f"{name} {option}"
            options += 1
    assert options > 100


def test_code_in_sentences_breaks_between_words_alone():
    look = _hook("look")["on_page_content"]
    assert look("<p><code>--a b</code></p>") == (
        '<p><code><span class="word">--a</span> <span class="word">b</span></code></p>'
    )
    for same in ("<pre><code>a b</code></pre>", "<pre><span></span><code>a</code></pre>", f"<code>{'a' * 80}</code>"):
        assert look(same) == same


def test_the_models_reference_has_one_row_per_model_with_its_counts():
    with patch("tiedconv.models.list_models", return_value=["tiedresnet_tiny"]):
        row = _hook("live")["models"]().splitlines()[2]
    params = sum(p.numel() for p in tiedconv.create_model("tiedresnet_tiny").parameters())
    assert row.startswith("| `tiedresnet_tiny` | ")
    assert f"| {params / 1e6:.2f} M |" in row


@pytest.mark.parametrize(
    ("tex", "html"),
    [
        ("C_o / B", "<i>C</i><sub><i>o</i></sub> / <i>B</i>"),
        (r"(*, C_i)", "(&#42;, <i>C</i><sub><i>i</i></sub>)"),
        (r"k_H k_W H'", "<i>k</i><sub><i>H</i></sub> <i>k</i><sub><i>W</i></sub> <i>H</i>′"),
        (r"\sum_{p: c(p) \ge 2} c", "∑<sub><i>p</i>: <i>c</i>(<i>p</i>)  ≥  2</sub> <i>c</i>"),
        (r"\hat Y^2", "<i>Y</i>&#770;<sup>2</sup>"),
        (r"\lambda_i^2 < 1", "λ<sub><i>i</i></sub><sup>2</sup> &lt; 1"),
    ],
)
def test_formulas_become_html(tex: str, html: str):
    assert html in _hook("roles")["math"](tex)


def test_an_unknown_command_in_a_formula_is_an_error():
    with pytest.raises(ValueError, match=r"has \\frac, which .* does not know"):
        _hook("roles")["math"](r"\frac{1}{2}")


def test_every_formula_of_the_docstrings_can_be_shown():
    roles = _hook("roles")
    formulas = [tex for path in SOURCES for name, tex in roles["ROLE"].findall(path.read_text()) if name == "math"]
    assert len(formulas) > 100
    for tex in formulas:
        html = roles["math"](" ".join(tex.split()))
        assert not re.search(r"[\\_^{}*]", html), html


def test_roles_of_docstrings_become_links_and_sections_that_the_reference_can_show():
    package = griffe.load(
        "tiedconv",
        search_paths=[ROOT / "src"],
        extensions=griffe.load_extensions(ROOT / "docs" / "_hooks" / "roles.py"),
    )
    report = package["convert.report.TieReport"].docstring.value
    assert report.startswith("What [`tiedconv.tie_`][tiedconv.convert.tie.tie_] did.")
    assert "\n    params,\u00a0tied_params (int): parameters" in report
    layer = package["convert.report.LayerReport"].docstring.value
    assert "see [`TieReport.error_of`][tiedconv.convert.report.TieReport];" in layer  # an attribute: at its class
    conv = package["ops.functional.tied_conv2d"].docstring.value
    assert "**Returns:**\n\n<span" in conv
    assert "\nExamples:\n" in conv


def test_pages_name_recipes_and_scripts_that_exist():
    for path in PAGES:
        for name in re.findall(
            r"(?:configs|benchmarks|examples)/[\w/]+\.(?:yaml|py)", path.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{path}: {name}"


def test_the_architecture_page_names_files_that_exist_and_the_packages_in_their_order():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(src/[^`]*)`", page)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    layers = [layer.replace("tiedconv.", "").split(" : ") for layer in contract["layers"]]
    rows = page.partition("\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert [re.findall(r"`(\w+)`", row.split("|")[1]) for row in rows] == layers


def test_make_targets_that_the_workflows_and_the_contributors_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    workflows = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    pages = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "RELEASING.md"))
    lines = re.findall(r"run: make ([\w ]+)$|target: \[?(\w+(?:, \w+)*)", workflows, re.MULTILINE)
    targets = [target for line in lines for target in re.findall(r"\w+", " ".join(line))]
    assert {"lint", "types", "unit", "lowest", "docs", "fuzz", "stress", "dist"} == set(targets)
    for target in [*targets, *re.findall(r"(?:`|^)make (\w+)", pages, re.MULTILINE)]:
        assert f"\n{target}:" in makefile, target
