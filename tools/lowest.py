"""Print the lowest version that pyproject.toml allows of each dependency, as constraints for pip.

python tools/lowest.py > lowest.txt && pip install --constraint lowest.txt '.[dev]'
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for line in sorted({*project["dependencies"], *(line for lines in extras.values() for line in lines)}):
    if bound := re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", line):
        print(f"{bound[1]}=={bound[2]}")
