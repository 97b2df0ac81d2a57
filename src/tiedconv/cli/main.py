"""The command ``tiedconv``: wiring, nothing else."""

import os
import sys
import warnings
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections import deque
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import cleandoc, signature
from json import dumps
from types import NoneType, UnionType
from typing import Any, NamedTuple, TextIO, get_args, get_origin

from .. import __version__
from .._extras import MissingExtraError, naming_extra
from ._mistakes import explain, options_of, plain


class _Command(NamedTuple):
    """A subcommand: the function behind it, what it is for and how it is called."""

    function: str
    help: str
    example: str


_COMMANDS = {
    "list": _Command("list.list_", "list the models", "tiedconv list --filter '*50*'"),
    "figures": _Command("figures.figures", "the paper's counts beside ours", "tiedconv figures --json"),
    "compare": _Command(
        "compare.compare",
        "train several models alike and report",
        "tiedconv compare --config configs/digits/compare.yaml\n"
        "  tiedconv compare --models resnet_small,tiedresnet_small --data Digits --budget.epochs 5\n"
        "  tiedconv compare --config configs/occlusion/compare.yaml     # backbones in a detector",
    ),
    "export": _Command(
        "export.export",
        "write a model for ONNX Runtime, OpenVINO, torch.export or the Hub",
        "tiedconv export --model tiedresnet50_4s16w --output model.onnx\n"
        "  tiedconv export --model tiedresnet_tiny --checkpoint last.ckpt --output digits.onnx --int8 --data Digits",
    ),
    "tie": _Command(
        "tie.tie",
        "tie the layers of a trained model",
        "tiedconv tie --model torchvision/resnet50 --checkpoint resnet50.pth --data ImageFolder "
        "--data.root photos --finetune 1\n"
        "  tiedconv tie --model resnet50 --layers entry     # counts and a tied model, nothing measured",
    ),
    "scenes": _Command(
        "scenes.scenes",
        "make data for detection from cut-outs and photographs",
        "tiedconv scenes --objects cut-outs --backgrounds photos --images 800 --output data/scenes",
    ),
    "bench operators": _Command(
        "bench.operators",
        "time tied convolutions beside dense ones",
        "tiedconv bench operators --blocks 2,4 --json operators.json --plot operators.svg\n"
        "  tiedconv bench operators --train --memory_formats channels_last",
    ),
    "bench models": _Command(
        "bench.models",
        "speed and memory of whole models",
        "tiedconv bench models --models resnet50,tiedresnet50_lite --json models.json\n"
        "  tiedconv bench models --quantities latency --engines eager,compiled,onnxruntime,openvino --plot latency.svg",
    ),
    "analyze gradcam": _Command(
        "analyze.gradcam",
        "where classifiers look, by Grad-CAM",
        "tiedconv analyze gradcam --models resnet50,tiedresnet50 --images photos --checkpoints a.ckpt,b.ckpt\n"
        "  tiedconv analyze gradcam --models torchvision/resnet50 --pretrained --images photo.jpg --classes names.txt",
    ),
    "analyze summary": _Command(
        "analyze.summary",
        "cost, weights and redundancy of every layer",
        "tiedconv analyze summary --models resnet50,tiedresnet50 --images photos --checkpoints a.ckpt,b.ckpt",
    ),
    "analyze similarity": _Command(
        "analyze.similarity",
        "how alike the filters of a layer are",
        "tiedconv analyze similarity --models resnet50,tiedresnet50_s --images photos --checkpoints a.ckpt,b.ckpt\n"
        "  tiedconv analyze similarity --models torchvision/resnet50 --pretrained --images photos --layers layer4",
    ),
    "analyze occlusion": _Command(
        "analyze_occlusion.occlusion",
        "average precision of detectors under occlusion",
        "tiedconv analyze occlusion --annotations val.json --predictions resnet=a/results.json,tied=b/results.json\n"
        "  tiedconv analyze occlusion --annotations val.json --predictions a/results.json --kind box --output box",
    ),
}
_TRAINING = {
    "fit": "train a model",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
    "predict": "write a checkpoint's predictions for your own images",
}
_SYNONYMS = {"train": "fit", "eval": "validate", "evaluate": "validate", "benchmark": "bench models", "convert": "tie"}
_ROWS_ARE_KEPT = "The rows measured so far are in the file of --json, if it was given."
_AFTER_INTERRUPT = {
    "bench operators": _ROWS_ARE_KEPT,
    "bench models": _ROWS_ARE_KEPT,
    "compare": "What was finished is kept; the same command goes on from there.",
    "tie": "Finished epochs are kept; the same command goes on from there.",
    "scenes": "The same command begins anew.",
    "predict": "The predictions made so far are in its folder, the newest in runs/predict.",
    "fit": "If an epoch was finished, go on with --ckpt_path and the last.ckpt in the checkpoints folder of this run.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``tiedconv`` with ``arguments``, by default those of the process; errors are a message and exit code 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and "TIEDCONV_TRACEBACK" not in os.environ:
        warnings.showwarning = _show_warning
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return
    if given[0] == "--version":
        print(f"tiedconv {__version__}")
        return
    words = 2 if any(command.startswith(f"{given[0]} ") for command in _COMMANDS) else 1
    name, rest = " ".join(given[:words]), given[words:]
    if words == 2 and (len(given) == 1 or given[1] in ("-h", "--help")):
        print(_overview(f"{given[0]} "))
        return
    if name not in _COMMANDS and name not in _TRAINING:
        synonym = _SYNONYMS.get(given[0])
        near = [synonym] if synonym else get_close_matches(name, [*_COMMANDS, *_TRAINING])
        advice = f"Did you mean {near[0]!r}? " if near else ""
        sys.exit(f"tiedconv: {name!r} is not a subcommand. {advice}`tiedconv --help` lists all.")
    try:
        from jsonargparse import set_parsing_settings

        # A config may build objects where a type asks for them, not among the untyped arguments of a model.
        set_parsing_settings(instantiate_subclass_spec_in_any=False)
        if name in _TRAINING:
            from .training import run

            run(None if arguments is None else given)  # Lightning reads the command line itself
        else:
            _call(name, rest)
    except ArgumentError as error:
        sys.exit(f"tiedconv {name}: {explain(name, str(error), _options(name))}")
    except KeyboardInterrupt:
        print(f"tiedconv {name}: interrupted. {_AFTER_INTERRUPT.get(name, '')}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        # The message says what to do; a traceback would hide it.
        if "TIEDCONV_TRACEBACK" in os.environ:
            raise
        if isinstance(error, ModuleNotFoundError) and isinstance(missing := naming_extra(error), MissingExtraError):
            sys.exit(f"tiedconv {name}: {missing}")
        kind = "" if isinstance(error, (ValueError, RuntimeError, OSError)) else f"{type(error).__name__}: "
        text = plain(str(error)).removeprefix(f"{name.split()[0]}: ")  # which library functions put there too
        sys.exit(f"tiedconv {name}: {kind}{text}\n(TIEDCONV_TRACEBACK=1 shows where it was raised)")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning without the line of code that gives it: the message says what to do, as that of an error."""
    print(f"warning: {message}", file=sys.stderr)


def _call(name: str, arguments: list[str]) -> None:
    """Parse the arguments of a function of ours and call it."""
    # Here, so that a missing package is an error with advice.
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keeps the lines of the description, and adds types and defaults."""

    command, function = _COMMANDS[name], _function(name)
    parser = ArgumentParser(
        prog=f"tiedconv {name}",
        description=f"{cleandoc(function.__doc__ or '').partition('Args:')[0]}example:\n  {command.example}",
        formatter_class=HelpFormatter,
        exit_on_error=False,  # it would print its usage, a page long
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_function_arguments(function, as_group=False)
    options = parser.instantiate(parser.parse_args(_spelled_out(arguments, function)))
    options.pop("config", None)
    function(**options.as_dict())


def _spelled_out(arguments: Sequence[str], function: Callable[..., None]) -> list[str]:
    """Write ``--flag`` as ``--flag=true``, and ``--option a,,b`` of a list as ``--option=["a", null, "b"]``."""
    types = {f"--{p.name}": p.annotation for p in signature(function).parameters.values()}
    written, todo = [], deque(arguments)
    while todo:
        argument = todo.popleft()
        option, equals, value = argument.partition("=")
        if types.get(option) is bool and not equals and (not todo or todo[0] not in ("true", "false")):
            argument = f"{option}=true"
        elif _is_list(types.get(option)) and (equals or (todo and not todo[0].startswith("--"))):
            value = value if equals else todo.popleft()
            elements = [element.strip() or None for element in value.split(",")]
            argument = f"{option}={value if value.startswith('[') else dumps(elements)}"
        written.append(argument)
    return written


def _is_list(annotation: Any) -> bool:
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return all(kind is NoneType or get_origin(kind) in (list, tuple, Sequence) for kind in kinds)


def _function(name: str) -> Callable[..., None]:
    module, _, attribute = _COMMANDS[name].function.partition(".")
    function: Callable[..., None] = getattr(import_module(f".{module}", __package__), attribute)
    return function


def _options(name: str) -> list[str]:
    """Return the options of a command, without dashes."""
    if name in _COMMANDS:
        return options_of(_function(name))
    from lightning import Trainer

    from ..data import ImageFolder
    from ..tasks import ClassificationTask

    parts = {"trainer": Trainer, "data": ImageFolder, "model": ClassificationTask}  # others have options like these
    nested = [f"{part}.{option}" for part, source in parts.items() for option in options_of(source)]
    return [*nested, *parts, "config", "ckpt_path", "print_config", "seed_everything", "checkpoint.dirpath"]


def _overview(start: str = "") -> str:
    """Return the usage and the subcommands whose names begin with ``start``."""
    rows = {**{name: command.help for name, command in _COMMANDS.items()}, **_TRAINING}
    rows = {name: text for name, text in rows.items() if name.startswith(start)}
    width = max(map(len, rows))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in rows.items())
    return (
        "usage: tiedconv <subcommand> [options]\n\n"
        f"subcommands:\n{lines}\n\n"
        "tiedconv <subcommand> --help shows its options and an example; --version prints the version."
    )
