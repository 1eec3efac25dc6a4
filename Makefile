# Two commands do everything on a fresh machine with Python 3.11 or newer and git: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test notebooks check lint clean

demo: $(READY)  ## train two models, analyse them, write the report and name its path
	$(BIN)/workbench demo

test: $(READY)  ## every test
	$(BIN)/python -m pytest

notebooks: $(READY)  ## notebooks/*.ipynb, without output, from the .py files that are kept
	$(BIN)/jupytext --to ipynb notebooks/[0-9]*.py

check: lint test  ## lint, types, tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Torch first, at the tested version: a range would let pip choose a newer build of several gigabytes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "workbench needs Python 3.11 or newer; $(PYTHON) is older. Pass another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

clean:  ## remove the environment and caches; runs stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
