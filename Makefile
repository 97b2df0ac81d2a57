# The targets build .venv and install the package into it when it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types unit docs fuzz lowest dist
demo: $(INSTALLED)
	$(BIN)/tiedconv compare --config configs/digits/compare.yaml --output runs/digits-compare

test: lint types unit

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m alone
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto -m "not alone"

# The site, in site/. Broken links, anchors and names are errors; with --quiet they would not be.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Broken arguments, files and command lines, new ones on every run; how many ran, by area, is printed at the end.
fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 TIEDCONV_FUZZ=nightly $(BIN)/pytest -q -n auto -o faulthandler_timeout=600 tests/fuzz --fuzz-minimum 10000

# The tests with the lowest version of each dependency that is declared, or of those in ONLY; warnings of old versions are
# not errors. For another Python: make unit PYTHON=python3.13 VENV=.venv-3.13
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tools/lowest.py $(ONLY) > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt --editable ".[dev]"
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -W default -m alone
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n auto -W default -m "not alone"

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
