"""jsonargparse's errors in one line: what was given, what is allowed, what to do."""

import inspect
import pydoc
import re
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def explain(command: str, text: str, known: Sequence[str]) -> str:
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
        return _of_class(owner, prefix, match[1][2:]) if owner else _unknown(match[1], known, command)
    if match := re.search(r"Option '([\w.]+)' is not accepted", text):
        return _of_class(owner, prefix, match[1])
    if match := re.search(r"the following arguments are required: (.+)", text):
        names = [f"--{prefix}{name.removeprefix(f'{command}.')}" for name in match[1].split(", ")]
        who = owner.rpartition(".")[2] or command
        return f"{who} needs {' and '.join(names)}. `tiedconv {command} --help` has an example."
    if match := re.search(r"Expected a dot import path string: (.+)", text):
        return no_class(key, match[1])
    return (f"--{key}: " if key else "") + _in_one_line(plain(text))


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or class by name; of a class that passes options on, also its base's."""
    found = dict(inspect.signature(function).parameters)
    passed_on = next((name for name, parameter in found.items() if parameter.kind is parameter.VAR_KEYWORD), None)
    if passed_on is not None and isinstance(function, type):
        del found[passed_on]
        found = {**found, **parameters_of(function.__mro__[1]), **found}
    return found


def options_of(function: Callable[..., Any]) -> list[str]:
    """Return the options of a function or class, those of a dataclass as ``option.field``."""
    names = []
    for name, parameter in parameters_of(function).items():
        nested = is_dataclass(parameter.annotation)
        names += [f"{name}.{field}" for field in options_of(parameter.annotation)] if nested else [name]
    return names


def _of_class(owner: str, prefix: str, name: str) -> str:
    """Return which options the class ``owner`` has, as ``name`` is none of them."""
    if owner == "tiedconv.tasks.Task":  # which one follows from the data
        return "give --data, such as --data ImageFolder --data.root photos."
    options = options_of(pydoc.locate(owner))  # type: ignore[arg-type]  # it is a class
    group = name.rpartition(".")[0]
    siblings = [option for option in options if option.rpartition(".")[0] == group]
    near = _nearest(prefix + name, [prefix + option for option in options])
    advice = near or f"It has {', '.join(f'--{prefix}{option}' for option in siblings)}."
    return f"{owner.rpartition('.')[2]}: there is no option --{prefix}{name}. {advice}"


def _unknown(option: str, known: Sequence[str], command: str) -> str:
    near = _nearest(option.lstrip("-"), known)
    return f"there is no option {option}. {near + ' ' if near else ''}`tiedconv {command} --help` lists all."


def _nearest(name: str, known: Sequence[str]) -> str:
    """Return a question for the options with the most similar names, in the same group if there are any."""
    group, _, last = name.rpartition(".")
    siblings = [option for option in known if option.rpartition(".")[0] == group]
    for options in (siblings, known):
        names = {option.rpartition(".")[2] for option in options}
        similar = [last] if last in names else get_close_matches(last, names, n=2, cutoff=0.7)
        near = [f"--{option}" for option in options if option.rpartition(".")[2] in similar]
        if near:
            return f"Did you mean {' or '.join(near)}?"
    return ""


def no_class(key: str, given: str) -> str:
    """Return which classes ``key`` may name, as ``given`` is not one."""
    if key == "model":
        return (
            f"--model is for a task, and {given!r} is not one. A network is --model.model {given}, the backbone of a "
            f"detector --model.backbone {given}; --model can be left out."
        )
    if key == "data" and Path(given).is_dir():
        return f"--data {given!r} is a folder. Name also what it holds, such as --data ImageFolder --data.root {given}."
    from .. import data  # here: this module is imported without the extra `train`, too

    modules = [name for name in data.__all__ if hasattr(getattr(data, name), "predict_dataloader")]
    names = [name for name in modules if not name.endswith("Data")]  # those are base classes
    near = get_close_matches(given, names, n=1) if key == "data" else []
    allowed = f" Did you mean {near[0]}?" if near else f" Known are {', '.join(names)}." if key == "data" else ""
    return f"--{key} {given!r} is not the name of a class.{allowed}"


def plain(text: str) -> str:
    """Reduce jsonargparse's report on several types that it tried to the errors that matter."""
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
