"""Command lines with mistakes in them: a message and an exit code, never a trace of the insides."""

import contextlib
import io
import os
import shlex

import pytest
from hypothesis import strategies as st
from tests.fuzz.cases import fuzz

from tiedconv.cli import figures
from tiedconv.cli.main import main
from tiedconv.metrics import counts

# Each is right but for a file, a name or a device that is missing: nothing is trained or timed.
LINES = {
    "list": "--filter *zzz*",
    "figures": "--json maybe",
    "compare": "--models resnet_tyni,tiedresnet_tiny --data Digits --budget.epochs 1 --seeds 0,1 --output out",
    "export": "--model tiedresnet_tiny --output out/m.onnx --checkpoint missing.ckpt --num_classes 3 --batch_size 2",
    "tie": "--model tiedresnet_tiny --checkpoint missing.ckpt --blocks 2 --layers body --init project --output out",
    "scenes": "--objects missing --backgrounds missing --images 2 --val_images 1 --image_size 64 --output out",
    "bench operators": "--blocks 2,4 --batch 1 --memory_formats contiguous --device nowhere --json out/a.json",
    "bench models": "--models resnet_tyni --engines eager --quantities latency --device nowhere --rounds 2 --batch 1",
    "analyze gradcam": "--models tiedresnet_tiny --images missing.jpg --checkpoints missing.ckpt --output out",
    "analyze summary": "--models tiedresnet_tiny --images missing --checkpoints missing.ckpt --limit 3 --output out",
    "analyze similarity": "--models tiedresnet_tiny --images missing --checkpoints missing.ckpt --output out",
    "analyze occlusion": "--annotations missing.json --predictions a=b.json --kind mask --edges 0,0.5,1 --output out",
}
TRAINING = dict.fromkeys(
    ("fit", "validate", "test", "predict"),
    "--config missing.yaml --trainer.max_epochs 1 --data Digits --model tiedconv.tasks.ClassificationTask "
    "--model.model tiedresnet_tiny --ckpt_path missing.ckpt",
)
WORDS = [
    "", " ", "-1", "0", "1.5", "nan", "inf", "1e999", "9" * 30, "-" + "9" * 30, "true", "null", "[]", "{}",
    "{a: 1}", "[1,",
    "a,b", ",", ",,", "=", "a=", "=a", "x" * 300, "\u202eא", "é", "%s", "{0}", "$HOME", "~", "/", ".", "..",
    "/dev/null",
    "missing.yaml", "out", "a\nb", "a\tb", "'", '"', "<b>", "[bold]", "[/]", "!!python/name:os.system",
    "&a *a", "--", "-",
    "--help", "--x", "--model", "--config", "--config=", "--output=", "torchvision/nothing", "tiedresnet_tiny", "@x",
]  # fmt: skip


@st.composite
def lines(draw: st.DrawFn, known: dict[str, str]) -> list[str]:
    """Draw a command line with one to three words replaced, left out, doubled or put in."""
    name = draw(st.sampled_from(list(known)))
    words = [*name.split(), *shlex.split(known[name])]
    first = draw(st.sampled_from([0, *[len(name.split())] * 9]))  # the name of the subcommand stays, mostly
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(min(first, len(words) - 1), len(words) - 1))
        what = draw(st.sampled_from(["replace", "replace", "remove", "insert", "double", "letter"]))
        if what == "replace":
            words[place] = draw(st.sampled_from(WORDS))
        elif what == "remove" and len(words) > 1:
            del words[place]
        elif what == "double":
            words.insert(place, words[place])
        elif what == "letter" and words[place]:
            at = draw(st.integers(0, len(words[place]) - 1))
            words[place] = words[place][:at] + draw(st.sampled_from(["", "x", "-", "é", " "])) + words[place][at + 1 :]
        else:
            words.insert(place, draw(st.sampled_from(WORDS)))
    return words


INSIDES = [
    "Traceback",
    'File "',
    "site-packages",
    "object at 0x",
    "AttributeError",
    "KeyError",
    "IndexError",
    "NameError",
]
INSIDES += ["AssertionError", "UnboundLocalError", "RecursionError", "NoneType' object", "TypeError: "]


def check_line(words: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    message, code = "", None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as stop:
            message = stop.code if isinstance(stop.code, str) else ""
            code = stop.code
    assert message or code in (None, 0, 2), f"exit code {code!r} without a message"
    said = message + out.getvalue() + err.getvalue()
    assert said.strip(), "it says nothing"
    inside = [word for word in INSIDES if word in said and not any(word in given for given in words)]
    assert not inside, f"{inside} in: {said[-1500:]}"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whatever a line writes
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(figures, "compare_with_paper", lambda: counts.compare_with_paper(counts.PUBLISHED[:1]))  # of 32
    monkeypatch.delenv("TIEDCONV_TRACEBACK", raising=False)
    yield
    assert os.getcwd() == str(tmp_path)


@fuzz(44, words=lines(LINES))
def test_a_line_of_ours_ends_in_a_message(words):
    check_line(words)


@fuzz(16, words=lines(TRAINING))
def test_a_line_of_lightnings_ends_in_a_message(words):
    check_line(words)


@fuzz(
    16,
    words=st.lists(
        st.sampled_from([*WORDS, "analyze", "bench", "fit", "list", "anlyze", "-h"]), min_size=1, max_size=4
    ),
)
def test_words_without_a_subcommand_end_in_a_message(words):
    check_line(words)
