"""Sphinx's roles in docstrings, which Python's own help and editors show, turned into Markdown for the API pages."""

import re
from collections.abc import Container, Iterator
from html import escape
from textwrap import dedent
from typing import Any

import griffe

ROLE = re.compile(r":(\w+):`([^`]+)`")
_LINKED = ("attr", "class", "data", "func", "meth", "mod")
_SYMBOLS = {
    "alpha": "α",
    "cdot": "·",
    "ge": " ≥ ",
    "lambda": "λ",
    "le": " ≤ ",
    "lfloor": "⌊",
    "lVert": "‖",
    "max": "max",
    "partial": "∂",
    "rfloor": "⌋",
    "rVert": "‖",
    "sqrt": "√",
    "sum": "∑",
    ";": " ",
}
_TOKEN = re.compile(r"\\([A-Za-z]+|.)|([A-Za-z]+|[0-9]+|\s+|.)", re.DOTALL)


class Roles(griffe.Extension):
    """Rewrites the docstrings of a package once it is loaded, before they are parsed."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        public = {path for module in _modules(pkg) for path in _public(module)}
        for thing in _documented(pkg):
            thing.docstring.value = to_markdown(thing.docstring.value, thing, public)


def to_markdown(text: str, scope: griffe.Object, public: Container[str]) -> str:
    """Return a docstring whose roles are Markdown: formulas as HTML, names that are in the reference as links.

    Args:
        text: the docstring.
        scope: what it documents; names are looked up from there.
        public: the paths, where they are defined, of all that is in the reference.
    """

    def converted(match: re.Match[str]) -> str:
        role, content = match[1], " ".join(match[2].split())
        if role == "math":
            return math(content)
        if role not in _LINKED:
            raise ValueError(f"{scope.path}: the role :{role}: in its docstring is unknown. Add it to {__file__}.")
        target = content.removeprefix("~")
        label = target.rpartition(".")[2] if content.startswith("~") else target
        found = _find(target, scope)
        links = (found, found.parent)  # what has no place of its own, such as an attribute, is explained at its class
        path = next((thing.path for thing in links if thing is not None and thing.path in public), None)
        return f"[`{label}`][{path}]" if path else f"`{label}`"

    return ROLE.sub(converted, _sections(text, scope))


def _sections(text: str, scope: griffe.Object) -> str:
    """Return a docstring in the words of griffe.

    It knows no shapes, no single example and no joined attributes, and takes what a colon follows for a type.
    """
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = re.sub(
        r"^(Shape|Returns|Yields):\n((?: {4}.*\n?)+)",
        lambda m: f"**{m[1]}:**\n\n{dedent(m[2])}",
        text,
        flags=re.MULTILINE,
    )

    def joined(match: re.Match[str]) -> str:
        kinds = [str(getattr(scope.members.get(name), "annotation", None) or "") for name in match[1].split(", ")]
        names = match[1].replace(", ", ",\u00a0")
        if not all(kinds):
            return f"    {names}"
        return f"    {names} ({'; '.join(kinds if len(set(kinds)) > 1 else kinds[:1])})"

    return re.sub(r"^ {4}(\w+(?:, \w+)+)(?=: )", joined, text, flags=re.MULTILINE)


def math(tex: str) -> str:
    r"""Return a formula in TeX as HTML that needs no script: ``C_o / B`` with letters in italics, subscripts lowered.

    Knows what docstrings need: letters, numbers, ``_``, ``^``, ``{}``, ``\hat`` and the symbols above.

    Raises:
        ValueError: for any other command, so that none is printed as it is.
    """
    return f'<span class="math">{"".join(_html(iter(_TOKEN.findall(tex)), tex))}</span>'


def _html(tokens: Iterator[tuple[str, str]], tex: str) -> Iterator[str]:
    for command, text in tokens:
        if command == "hat":
            yield f"{_argument(tokens, tex)}&#770;"  # the combining circumflex
        elif command:
            if command not in _SYMBOLS:
                raise ValueError(f"the formula {tex!r} has \\{command}, which {__file__} does not know. Add it there.")
            yield _SYMBOLS[command]
        elif text in "_^":
            tag = "sub" if text == "_" else "sup"
            yield f"<{tag}>{_argument(tokens, tex)}</{tag}>"
        elif text == "{":
            yield _group(tokens, tex)
        elif text.isalpha() and text.isascii():
            yield f"<i>{text}</i>"
        else:
            yield {"-": "−", "'": "′", "*": "&#42;", "[": "&#91;", "]": "&#93;"}.get(text, escape(text))


def _argument(tokens: Iterator[tuple[str, str]], tex: str) -> str:
    """Return what an operator such as ``_`` applies to: the next group, command, letter or digit."""
    first = next(token for token in tokens if token != ("", " "))
    return _group(tokens, tex) if first == ("", "{") else "".join(_html(iter([first]), tex))


def _group(tokens: Iterator[tuple[str, str]], tex: str) -> str:
    inside = []
    depth = 1
    for token in tokens:
        depth += {"{": 1, "}": -1}.get(token[1], 0)
        if not depth:
            return "".join(_html(iter(inside), tex))
        inside.append(token)
    raise ValueError(f"the formula {tex!r} lacks a closing brace.")


def _find(name: str, scope: griffe.Object) -> Any:
    """Return what a docstring calls by ``name``, where it is defined."""
    first, _, rest = name.partition(".")
    try:
        path = name if first == scope.package.name else scope.resolve(first) + (f".{rest}" if rest else "")
        found = scope.package[path.partition(".")[2]]
    except (griffe.NameResolutionError, KeyError):
        raise ValueError(f"{scope.path}: its docstring refers to {name}, which is not known there.") from None
    return found.final_target if found.is_alias else found


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for member in module.modules.values():
        if not member.is_alias:
            yield from _modules(member)


def _public(module: griffe.Module) -> Iterator[str]:
    """Yield the paths of what a module exports, and of what is documented in it."""
    for name in module.exports or ():
        exported: Any = module[str(name)]
        exported = exported.final_target if exported.is_alias else exported
        yield exported.path
        yield from (member.path for member in exported.members.values() if member.has_docstring)


def _documented(thing: griffe.Object) -> Iterator[Any]:
    if thing.docstring:
        yield thing
    for member in thing.members.values():
        if not member.is_alias:
            yield from _documented(member)
