# The targets build .venv and install the package into it when it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check lint types unit docs fuzz stress lowest dist
demo: $(INSTALLED)
	$(BIN)/tiedconv compare --config configs/digits/compare.yaml --output runs/digits-compare

test: lint types unit

# What to run while working: lint, types, and the quick tests of the files that differ from the main branch.
check: lint types
	OMP_NUM_THREADS=1 $(BIN)/python tools/touched.py -q -n auto -m "not slow and not alone and not stress"

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile -m "alone and not stress"
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto -m "not alone and not stress"

# The site, in site/. Broken links, anchors and names are errors; with --quiet they would not be.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Broken arguments, files and command lines, new ones on every run; how many ran, by area, is printed at the end.
fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 TIEDCONV_FUZZ=nightly $(BIN)/pytest -q -n auto -o faulthandler_timeout=600 tests/fuzz --fuzz-minimum 10000

# What takes too long for every change: several processes, sharding, sweeps of large networks, trainings that are killed at
# random, memory over time, and detectors that learn eight scenes by heart. tests/stress/elastic.sh needs root, see there.
stress: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m stress
	$(BIN)/python tests/stress/kill.py
	$(BIN)/python tests/stress/long.py --minutes 10 --calls 10000
	$(BIN)/python tests/stress/overfit.py

# The tests with the lowest version of each dependency that is declared, or of those in ONLY; warnings of old versions are
# not errors. For another Python: make unit PYTHON=python3.13 VENV=.venv-3.13
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tools/lowest.py $(ONLY) > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt --editable ".[dev]"
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -W default -m "alone and not stress"
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n auto -W default -m "not alone and not stress"

# The files of a release, in dist/; see RELEASING.md.
dist:
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet build twine
	rm -rf dist
	.venv-dist/bin/python -m build
	.venv-dist/bin/python -m twine check --strict dist/*

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
