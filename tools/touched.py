"""Run the tests of what differs from the main branch, new files included: the last part of ``make check``.

A module is tested by its doctests and by the file in tests/ that mirrors its path; without one, by the tests that name
the module; without these, by the tests of its package. Options go to pytest.
"""

import re
import subprocess
import sys
from pathlib import Path

OTHERS = {
    "README.md": ["tests/test_readme.py"],
    "docs": ["tests/test_docs.py", "tests/test_recipes.py"],
    "configs": ["tests/test_recipes.py", "tests/cli/test_training.py"],
    "examples": ["tests/test_examples.py"],
    "benchmarks": ["tests/bench", "tests/test_compressors.py", "tests/test_gpu_script.py"],
    "pyproject.toml": ["tests/test_extras.py", "tests/test_import.py"],
}


def git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def changed() -> list[Path]:
    known = git("for-each-ref", "--format=%(refname:short)", "refs/heads/main", "refs/remotes/origin/main")
    base = git("merge-base", "HEAD", known[-1])[0] if known else "HEAD"
    files = git("diff", "--name-only", base) + git("ls-files", "--others", "--exclude-standard")
    return sorted({Path(file) for file in files})


def naming(module: str) -> list[str]:
    """Return the test files that import a module, given as ``tests.data`` or ``tiedconv.nn.conv``."""
    package, _, name = module.rpartition(".")
    wanted = re.compile(rf"\b{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{name}\b")
    return [str(path) for path in Path("tests").rglob("test_*.py") if wanted.search(path.read_text("utf-8"))]


def tests_of(path: Path) -> list[str]:
    folder, inside = path.parts[0], path.parts[1:]
    if path.suffix == ".py" and folder == "tests":
        if path.name == "conftest.py":
            return [str(path.parent) if inside[1:] else "tests/test_import.py"]
        return [str(path)] if path.name.startswith("test_") else naming(".".join(path.with_suffix("").parts))
    if path.suffix == ".py" and folder == "src":
        mirror = Path("tests", *inside[1:-1], f"test_{path.stem.strip('_')}.py")
        module = ".".join(path.with_suffix("").parts[1:])
        rest = [str(mirror.parent) if inside[2:] else "tests/test_import.py"]
        return [str(path), *([str(mirror)] if mirror.exists() else naming(module) or rest)]
    return OTHERS.get(folder, [])


def run(tests: list[str]) -> int:
    code = subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:], *tests], check=False).returncode
    return 0 if code == 5 else code  # 5: the options leave none of these tests


if __name__ == "__main__":
    # tests/ before src/: pytest would import a module that it collects first a second time, apart from its package.
    found = sorted({t for path in changed() for t in tests_of(path) if Path(t).exists()}, reverse=True)
    print("tests of what is changed:", *found or ["none"], flush=True)
    sys.exit(run(found) if found else 0)
