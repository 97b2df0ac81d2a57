"""The wheel, unpacked and alone: what it holds, what it needs, and what it does with no more than that."""

import re
import subprocess
import sys
from collections.abc import Iterable
from email import message_from_string
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.markdown import ROOT

LIGHT = {"torch", "torchvision", "timm", "safetensors", "huggingface-hub", "numpy"}
# Runs sys.argv[2] as if of all that is installed only the distributions in sys.argv[1] were there.
AS_IF_ALONE = """
import runpy, sys
from importlib.metadata import packages_distributions
from packaging.utils import canonicalize_name

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *args):
        return None if name.partition(".")[0] in missing else self.finder.find_spec(name, *args)
    def find_distributions(self, *args):
        found = getattr(self.finder, "find_distributions", lambda *args: ())(*args)
        return (one for one in found if canonicalize_name(one.name) in kept)

kept = {"tiedconv", *sys.argv[1].split(",")}
modules = packages_distributions()
missing = {module for module, names in modules.items() if kept.isdisjoint(map(canonicalize_name, names))}
sys.meta_path[:] = map(Without, sys.meta_path)
runpy.run_path(sys.argv[2], run_name="__main__")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Return the folder of an unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    with ZipFile(file) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def requirements(wheel: Path) -> list[Requirement]:
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    lines = message_from_string(metadata.read_text(encoding="utf-8")).get_all("Requires-Dist", [])
    return [Requirement(line) for line in lines]


def distributions(required: Iterable[Requirement]) -> set[str]:
    """Return the names of what installing the requirements brings."""
    found: dict[str, set[str]] = {}  # by name, the extras of it
    waiting = [*required]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        new = {"", *requirement.extras} - found.get(name, set())
        found.setdefault(name, set()).update(new)
        for line in distribution(name).requires or () if new else ():
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in new):
                waiting.append(further)
    return {*found}


def run(wheel: Path, script: Path, kept: set[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AS_IF_ALONE, ",".join(sorted(kept)), str(script)]
    environment = {"PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=wheel, env=environment, capture_output=True, text=True, check=False)


def test_it_holds_the_package_and_nothing_else(wheel):
    assert sorted(re.sub(r"-.*", "", path.name) for path in wheel.iterdir()) == ["tiedconv", "tiedconv"]
    assert (wheel / "tiedconv" / "py.typed").is_file()


def test_it_alone_needs_no_more_than_layers_models_and_conversion_do(wheel):
    assert {r.name for r in requirements(wheel) if r.marker is None} == LIGHT


def test_it_works_with_its_own_dependencies_alone_and_commands_name_their_extra(wheel):
    light = distributions(r for r in requirements(wheel) if r.marker is None)
    assert light.isdisjoint({"jsonargparse", "lightning", "matplotlib", "onnx", "scikit-learn", "torchmetrics"})
    done = run(wheel, ROOT / "tests" / "light_install.py", light)
    assert done.returncode == 0, done.stderr
    assert str(wheel) in done.stdout  # the wheel's code ran, not that of the checkout
    assert done.stdout.endswith("all works\n")


def test_commands_name_the_extra_that_they_lack_besides_train(wheel, tmp_path):
    (tmp_path / "photo.png").write_bytes((ROOT / "docs" / "images" / "report.png").read_bytes())
    photos = f"--images {tmp_path} --output {tmp_path / 'page'}"
    calls = {
        "compare --models resnet_tiny,tiedresnet_tiny --data Digits": "analysis",
        f"analyze gradcam --models resnet_tiny {photos}": "analysis",
        f"analyze similarity --models resnet_tiny {photos}": "analysis",
        f"analyze summary --models resnet_tiny {photos}": "analysis",
        f"export --model tiedresnet_tiny --output {tmp_path}/a.onnx": "export",
        f"export --model tiedresnet_tiny --output {tmp_path}/a.xml --format openvino": "openvino",
    }
    script = tmp_path / "calls.py"
    script.write_text(
        "from tiedconv.cli.main import main\n"
        f"for call in {[*calls]}:\n"
        "    try:\n"
        "        main(call.split())\n"
        "    except SystemExit as error:\n"
        "        print('ENDED', str(error).replace(chr(10), ' / '))\n"
    )
    required = requirements(wheel)
    with_train = distributions(r for r in required if r.marker is None or r.marker.evaluate({"extra": "train"}))
    done = run(wheel, script, with_train)
    ended = re.findall(r"^ENDED (.*)$", done.stdout, re.MULTILINE)
    assert len(ended) == len(calls), done.stdout + done.stderr
    for message, (call, extra) in zip(ended, calls.items(), strict=True):
        assert message.startswith(f"tiedconv {call.partition(' --')[0]}: ")
        assert message.endswith(f" is needed here and not installed. Run: pip install 'tiedconv[{extra}]'"), message
