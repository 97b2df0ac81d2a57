"""Mistakes in options, as jsonargparse finds them, in one line: what was given, what is allowed, what to do."""

import inspect
import pydoc
import re
from collections.abc import Iterable
from difflib import get_close_matches


def explain(command: str, text: str, known: Iterable[str]) -> str:
    """Return what is wrong with the options of ``command``.

    Args:
        command: the subcommand.
        text: message of jsonargparse's ``ArgumentError``.
        known: the command's options, without dashes.
    """
    key = ".".join(re.findall(r'Parser key "([\w.]+)":', text))  # nested as the options are
    owner = match[1] if (match := re.search(r"Problem with given class_path '([\w.]+)':", text)) else ""
    prefix = f"{key}." if owner else ""
    if match := re.search(r"(?:unrecognized arguments|ambiguous option): ([^\s=]+)", text):
        return _unknown(match[1], known, command)
    if match := re.search(r"Option '([\w.]+)' is not accepted", text):
        options = inspect.signature(pydoc.locate(owner)).parameters  # type: ignore[arg-type]  # it is a class
        return f"{owner.rpartition('.')[2]}: " + _unknown(
            f"--{prefix}{match[1]}", (prefix + o for o in options), command
        )
    if match := re.search(r"the following arguments are required: (.+)", text):
        names = [f"--{prefix}{name.removeprefix(f'{command}.')}" for name in match[1].split(", ")]
        who = owner.rpartition(".")[2] or command
        return f"{who} needs {' and '.join(names)}. `tiedconv {command} --help` has an example."
    if match := re.search(r"Expected a dot import path string: (.+)", text):
        return no_class(key, match[1])
    return (f"--{key}: " if key else "") + _in_one_line(plain(text))


def _unknown(option: str, known: Iterable[str], command: str) -> str:
    near = get_close_matches(option.lstrip("-"), list(known), n=1)
    advice = f"Did you mean --{near[0]}? " if near else ""
    return f"there is no option {option}. {advice}`tiedconv {command} --help` lists all."


def no_class(key: str, given: str) -> str:
    """Return what may stand where a class was not found."""
    if key == "model":
        return (
            f"--model is for a task, and {given!r} is none. A network is --model.model {given}, the backbone of a "
            f"detector --model.backbone {given}; --model can be left out."
        )
    from .. import data  # here: this module is imported without the extra `train`, too

    modules = [name for name in data.__all__ if hasattr(getattr(data, name), "predict_dataloader")]
    names = [name for name in modules if not name.endswith("Data")]  # those are for subclasses
    near = get_close_matches(given, names, n=1) if key == "data" else []
    allowed = f" Did you mean {near[0]}?" if near else f" Known are {', '.join(names)}." if key == "data" else ""
    return f"--{key} {given!r} is not the name of a class.{allowed}"


def plain(text: str) -> str:
    """Leave out what jsonargparse says around a mistake in the arguments of a class: what else it tried."""
    before, heading, after = text.partition("Errors:\n")
    if not heading or "Does not validate against any of the Union subtypes" not in before:
        return text
    errors = [
        error.strip() for error in re.split(r"^ *- ", after.partition("Given value type:")[0], flags=re.MULTILINE)
    ]
    useful = [e for e in errors if e and not e.startswith(("Expected a <class 'NoneType'>", "Import path "))]
    message = "; ".join(dict.fromkeys(useful or filter(None, errors)))
    value = re.search(r"Given value: (.+)", text)
    return f"{message}, got {value[1]}" if value and re.match(r"Expected a (?!.*Got value)[^,]*$", message) else message


def _in_one_line(text: str) -> str:
    text = re.sub(r'(Parser key "[\w.]+"|Problem with given class_path \S+):\s*', "", text)
    text = re.sub(r"^argument (--[\w.]+)(/\S+)?:", r"\1:", text)
    text = re.sub(r"Expected a typing.Literal\[(.+?)\]", r"expected one of \1", text)
    text = re.sub(r"[Ee]xpected an? <class '(?:\w+\.)*(\w+)'>", r"expected \1", text)
    return " ".join(text.replace(". Got value:", ", got").split())
