"""References read off the code while the site is built, so that they cannot go stale: commands, models, examples."""

import argparse
import ast
import inspect
import os
import re
import warnings
from collections.abc import Iterator
from html import escape
from pathlib import Path
from textwrap import indent
from typing import Any, Literal, get_args, get_origin
from unittest.mock import patch

from jsonargparse import capture_parser

EXAMPLES = Path(__file__).parents[2] / "examples"
_TRAINING = ("fit", "validate", "test", "predict")
_LIGHTNINGS = ("--trainer.", "--checkpoint.")  # in those commands; its own documentation has them
_WIDTH = 95  # characters of a command's line, on which a page of 1280 pixels has room for some more
_IN_THE_INTRODUCTION = ("--help", "--config", "--print_config")


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """mkdocs' hook: write the references in the place of their marks."""
    for mark, write in {
        "<!-- commands -->": commands,
        "<!-- models -->": models,
        "<!-- examples -->": examples,
    }.items():
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return markdown


def models() -> str:
    """Return a table of the registered models."""
    import timm

    from tiedconv.metrics.counts import count
    from tiedconv.models import create_model, list_models

    rows = ["| name | what it is | parameters | multiply-adds | image |", "|---|---|---:|---:|---|"]
    for name in list_models():
        model: Any = create_model(name, device="meta")
        size = model.default_cfg["input_size"]
        counts = count(model, size)
        what = _text(timm.model_entrypoint(name).__doc__ or "").partition("\n")[0].rstrip(".")
        macs = f"{counts.macs / 1e6:,.0f} M"
        rows.append(f"| `{name}` | {what} | {counts.params / 1e6:.2f} M | {macs} | {'×'.join(map(str, size))} |")
    return "\n".join(rows)


def examples() -> str:
    """Return a section for each example: what its docstring says, and its source to unfold."""
    parts = []
    for path in sorted(EXAMPLES.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        title, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
        heading, more = re.split("[:,.] *", title, maxsplit=1)
        name = f"examples/{path.name}"
        listing = indent(f"````py\n{source}````", "    ")
        parts.append(f'## {heading}\n\n{more[:1].upper()}{more[1:]}\n{rest}\n\n??? example "{name}"\n{listing}')
    return "\n\n".join(parts)


def commands() -> str:
    """Return a section for each subcommand."""
    return "\n\n".join(map(section, names()))


def names() -> list[str]:
    """Return the subcommands."""
    from tiedconv.cli import main

    return [*main._COMMANDS, *_TRAINING]


def section(name: str) -> str:
    """Return a subcommand's description, examples and options as Markdown."""
    parser = _parser(name)
    if name in _TRAINING:
        from tiedconv.cli import main, training

        text, examples = f"{main._TRAINING[name]}.", training.EXAMPLES[name].removeprefix("example: ")
        examples = examples.replace("; or, for a detector, ", "\n")
    else:
        text, _, examples = parser.description.partition("example:")
    parts = [f"## tiedconv {name} {{#{name.replace(' ', '-')}}}", _text(text[0].upper() + text[1:])]
    lines = (_wrapped(line.strip()) for line in examples.strip().splitlines())
    parts.append("```sh\n" + "\n".join(lines) + "\n```")
    for group in parser._action_groups:
        hidden = _LIGHTNINGS if name in _TRAINING else ()
        if options := "\n".join(_options(group._group_actions, hidden)):
            title = "" if group.title == "options" else f"*{_text(group.title or '')}*\n\n"
            parts.append(f'{title}<div class="options" markdown>\n\n{options}\n</div>')
    return "\n\n".join(parts)


def _wrapped(line: str) -> str:
    """Return a command line that is too long for a page on several."""
    lines = [""]
    for word in re.split(r" (?=--)", line):
        if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n    ".join(lines)


def _parser(name: str) -> Any:
    from tiedconv.cli.main import main

    # Without the variable main would turn the end of the capture into a message.
    with patch.dict(os.environ, TIEDCONV_TRACEBACK="1"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        parser = capture_parser(main, [*name.split(), "--help"])
    return parser._subcommands_action.choices[name] if name in _TRAINING else parser


def _options(actions: list[Any], hidden: tuple[str, ...]) -> Iterator[str]:
    for action in actions:
        option = next((o for o in action.option_strings if o.startswith("--")), "")
        if (
            not option
            or option in _IN_THE_INTRODUCTION
            or option.startswith(hidden)
            or option.endswith(".help")
            or (action.metavar == "CONFIG")  # a file for the options that follow
        ):
            continue
        facts = [_kind(action._typehint)]
        if action.default not in (None, argparse.SUPPRESS, ""):
            default = str(action.default).lower() if isinstance(action.default, bool) else str(action.default)
            facts.append(f"default {escape(default).replace('*', '&#42;')}")
        elif not _optional(action._typehint) and action.default is None:
            facts.append("required")
        text = _text(action.help or "", margin="    ") or '<span class="none"></span>'
        yield f"`{option}` <small>{', '.join(facts)}</small>\n:   {text}\n"


def _optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _kind(kind: Any) -> str:
    """Return a type as one would say it: choices by their values, classes without their modules."""
    if _optional(kind):
        return _kind_of_any([k for k in get_args(kind) if k is not type(None)])
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    return escape(re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", kind.__name__ if isinstance(kind, type) else str(kind)))


def _kind_of_any(kinds: list[Any]) -> str:
    return " | ".join(map(_kind, kinds))


def _text(text: str, margin: str = "") -> str:
    """Return help text as Markdown: reST's roles without their names, and nothing taken for HTML or emphasis."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text))
    joined = f"\n\n{margin}".join(" ".join(p.split()) for p in paragraphs)
    joined = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", joined)
    pieces = re.split(r"(`+[^`]+`+)", joined)  # code stays as it is
    return "".join(p if p.startswith("`") else escape(p, quote=False).replace("*", "&#42;") for p in pieces).strip()
