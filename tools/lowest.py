"""Print the lowest version that pyproject.toml allows of each dependency, as constraints for pip.

python tools/lowest.py > lowest.txt && pip install --constraint lowest.txt '.[dev]'
python tools/lowest.py torch torchvision    # of these alone
"""

import re
import sys
import tomllib
from pathlib import Path

only = sys.argv[1:]
project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
bounds = {}
for line in sorted({*project["dependencies"], *(line for lines in extras.values() for line in lines)}):
    if bound := re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", line):
        bounds[bound[1]] = bound[2]
if unknown := set(only) - set(bounds):
    sys.exit(f"lowest.py: pyproject.toml has no lowest version of {', '.join(sorted(unknown))}.")
for name, version in bounds.items():
    if not only or name in only:
        print(f"{name}=={version}")
