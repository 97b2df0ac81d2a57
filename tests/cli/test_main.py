import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

import tiedconv
from tiedconv.cli import figures
from tiedconv.cli.main import _COMMANDS, main
from tiedconv.metrics.counts import compare_with_paper
from tiedconv.models.published import PUBLISHED

SUBCOMMANDS = ("list", "figures", "compare", "tie", "export", "scenes", "fit", "validate", "test", "predict")


def test_help_names_every_subcommand(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in SUBCOMMANDS)
    main([])
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("group", ["analyze", "bench"])
def test_a_group_alone_has_help(group, capsys):
    main([group])
    printed = capsys.readouterr().out
    main([group, "--help"])
    assert capsys.readouterr().out == printed
    assert f"\n  {group} " in printed
    assert "figures" not in printed


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_function_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"example:\n  tiedconv {name}" in printed
    assert "default: " in printed


@pytest.mark.parametrize("name", ["fit", "validate", "test", "predict"])
def test_lightnings_subcommands_have_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"example: tiedconv {name} --config" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def few_rows(monkeypatch):
    """Count two of the published networks, not all."""
    monkeypatch.setattr(figures, "compare_with_paper", lambda: compare_with_paper(PUBLISHED[:2]))


def test_a_warning_is_one_line_without_code(monkeypatch, capsys):
    def warning(*_):
        warnings.warn("photos/notes.txt is left out.", stacklevel=1)
        return compare_with_paper(PUBLISHED[:1])

    monkeypatch.setattr(figures, "compare_with_paper", warning)
    monkeypatch.setattr(sys, "argv", ["tiedconv", "figures"])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        main()
    assert capsys.readouterr().err == "warning: photos/notes.txt is left out.\n"


def test_flags_need_no_value(few_rows, capsys):
    main(["figures", "--json"])
    assert json.loads(capsys.readouterr().out)


def test_interruption_says_how_to_go_on(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tiedconv.cli.main._call", stop)
    with pytest.raises(SystemExit) as stopped:
        main(["compare"])
    assert stopped.value.code == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"tiedconv {tiedconv.__version__}\n"


def test_mistakes_end_in_a_message_without_a_trace(tmp_path, capsys):
    with pytest.raises(SystemExit, match="tiedconv compare: no model is called 'resnet_tyni'"):
        main(["compare", "--models", "resnet_tyni", "--data", "Digits", "--output", str(tmp_path)])
    assert "Traceback" not in capsys.readouterr().err


def test_list_says_when_nothing_matches(capsys):
    with pytest.raises(SystemExit, match=r"no model matches '\*zzz\*'"):
        main(["list", "--filter", "*zzz*"])


def test_a_trace_is_shown_on_demand(tmp_path, monkeypatch):
    monkeypatch.setenv("TIEDCONV_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no model is called"):
        main(["compare", "--models", "resnet_tyni", "--data", "Digits", "--output", str(tmp_path)])


def test_arguments_default_to_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tiedconv", "--version"])
    main()
    assert tiedconv.__version__ in capsys.readouterr().out


def test_a_command_runs_without_options(few_rows, capsys):
    main(["figures"])
    assert "resnet" in capsys.readouterr().out


def test_a_flag_may_have_its_value_beside_it(few_rows, capsys):
    main(["figures", "--json", "true"])  # alone it is tested where its output is
    assert capsys.readouterr().out.startswith(("[", "{"))


@pytest.fixture
def received(monkeypatch):
    """What `tiedconv list` is called with, after its options were exchanged for ones that are lists."""
    calls = []

    def command(
        names: Sequence[str] = (),
        seeds: list[int] | None = None,
        files: Sequence[Path | None] = (),
        size: tuple[int, int, int] | None = None,
        quick: bool = False,
    ) -> None:
        """Do nothing."""
        calls.append({"names": names, "seeds": seeds, "files": files, "size": size, "quick": quick})

    monkeypatch.setattr("tiedconv.cli.main._function", lambda name: command)
    return calls


NOTHING = {"names": [], "seeds": None, "files": [], "size": None, "quick": False}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["--names", "a, 5 ,hf-hub:b/c"], {"names": ["a", "5", "hf-hub:b/c"]}),
        (["--names=a=b", "--quick"], {"names": ["a=b"], "quick": True}),
        (["--names", "[a, b]"], {"names": ["a", "b"]}),
        (["--seeds", "3"], {"seeds": [3]}),
        (["--seeds=-1,2"], {"seeds": [-1, 2]}),
        (["--files", "a.ckpt,,b.ckpt,"], {"files": [Path("a.ckpt"), None, Path("b.ckpt"), None]}),
        (["--size", "3,8,9"], {"size": (3, 8, 9)}),
    ],
)
def test_lists_are_written_with_commas(line, expected, received):
    main(["list", *line])
    assert received == [{**NOTHING, **expected}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--seeds", "1,x"], r"--seeds: expected int, got x"),
        (["--names", "a,"], r"--names: expected str, got None"),
        (["--size", "3,8"], r"--size: Expected a tuple with 3 elements, got \['3', '8'\]"),
        (["--names", "--quick"], r"--names: expected one argument"),
        (["--names"], r"--names: expected one argument"),
    ],
)
def test_what_a_list_cannot_hold_is_said_in_one_line(line, message, received):
    with pytest.raises(SystemExit, match=rf"^tiedconv list: {message}$"):
        main(["list", *line])


def test_a_config_file_has_lists_of_yaml(tmp_path, received):
    (tmp_path / "list.yaml").write_text("names: [a, b]\nfiles: [a.ckpt, null]\n")
    main(["list", "--config", str(tmp_path / "list.yaml")])
    assert received == [{**NOTHING, "names": ["a", "b"], "files": [Path("a.ckpt"), None]}]
