"""Every script of the gallery runs as a user starts it, and prints what it is for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run(name: str, folder: Path) -> str:
    """Run a script in an empty folder and return its output; it must warn of nothing, and write where it says."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, "--quick"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    own = folder / "runs" / "examples" / Path(name).stem
    assert [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(own)] == []
    return done.stdout


def numbers(pattern: str, output: str) -> tuple[float, ...]:
    """The groups of the pattern's one match in the output."""
    (found,) = re.findall(pattern, output)
    return tuple(float(group.replace(",", "")) for group in ([found] if isinstance(found, str) else found))


def check_own_network(output: str, folder: Path) -> None:
    (untied, its), (tied, accuracy) = (numbers(rf"(?m)^{n} +([\d,]+) +([\d.]+)%", output) for n in ("untied", "tied"))
    assert tied < untied / 3
    assert min(its, accuracy) > 40  # a tenth is right by chance, three quarters after the one epoch
    assert numbers(r"likewise: ([\d,]+) -> ([\d,]+) parameters", output) == (untied, tied)


def check_tie_timm_model(output: str, folder: Path) -> None:
    for before, after in re.findall(r"parameters +([\d,]+) -> ([\d,]+)", output):
        assert int(after.replace(",", "")) < int(before.replace(",", "")) / 3
    last = re.findall(r"1 epoch trained +([\d.]+)%", output)
    assert len(last) == 2
    assert numbers(r"loaded again it has ([\d.]+)%", output) == (float(last[1]),)
    assert (folder / "model" / "model.safetensors").is_file()


def check_detect_own_coco(output: str, folder: Path) -> None:
    assert "16 images to train on, 4 to test on; classes: circle, square, triangle" in output
    ap, ap50 = numbers(r"box AP ([\d.]+), AP50 ([\d.]+) after 1 epochs", output)
    assert 0 <= ap <= ap50 <= 1
    assert (folder / "prediction.png").read_bytes().startswith(b"\x89PNG")


def check_own_dataset(output: str, folder: Path) -> None:
    (trained,) = numbers(r"2 epochs: ([\d.]+)% of 50 new ones right", output)
    (on_the_command_line,) = numbers(r"val/top1 +│ +([\d.]+)", output)
    assert on_the_command_line == pytest.approx(trained / 100, abs=1e-3)


def check_export_and_serve(output: str, folder: Path) -> None:
    rows = re.findall(r"(?m)^(ONNX Runtime|OpenVINO) +(float32|int8) +[\d.]+ +[\d.]+ +[\d.]+ ±[\d.]+ +(\S+)$", output)
    errors = {(engine, kind): float(error) for engine, kind, error in rows}
    assert len(rows) == len(errors) == 4
    for (_, kind), error in errors.items():
        assert error < (1e-4 if kind == "float32" else 0.1)
    assert {path.name for path in folder.iterdir()} >= {"tied.onnx", "tied.int8.onnx", "tied.xml", "tied.int8.bin"}


CHECKS = {
    "detect_own_coco.py": check_detect_own_coco,
    "export_and_serve.py": check_export_and_serve,
    "own_dataset.py": check_own_dataset,
    "own_network.py": check_own_network,
    "tie_timm_model.py": check_tie_timm_model,
}


# One of them, the lightest, for every change: the others take up to half a minute of processor time, even with --quick.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "own_network.py" else pytest.mark.stress) for name in SCRIPTS]
)
def test_script_runs_and_prints_what_it_is_for(name, tmp_path):
    CHECKS[name](run(name, tmp_path), tmp_path / "runs" / "examples" / Path(name).stem)


def test_the_page_lists_every_script():
    assert re.findall(r"(?m)^\| \[`(\w+\.py)`\]\(\1\)", (EXAMPLES / "README.md").read_text()) == SCRIPTS
