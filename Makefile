# `make demo` and `make test` need nothing but Python 3.11 or newer: each makes .venv if there is none and installs everything
# there. PIP_ARGS reaches pip (see README, "Installing"); VENV names another environment; PYTHON another interpreter.
VENV ?= .venv
PYTHON ?= python3
PIP_ARGS ?=
TESTS ?= tests
SECONDS ?= 300
SEED ?= 1
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
BIN := $(VENV)/bin
STAMP := $(VENV)/.gsdata-dev
# One process: PyTorch and Numba already use every core, and tests time out less oddly when they do not compete.
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo docs fuzz fuzz-coverage fuzz-guided test test-slow lint format clean

help:
	@echo "make demo       distil digits to a 31,360-byte file, look at it, train from it (< 5 minutes on 2 cores)"
	@echo "make test       the test suite without the slow tests (< 8 minutes on 2 cores)"
	@echo "make test-slow  the slow tests"
	@echo "make fuzz       damaged files for SECONDS=300 in JOBS processes, by three readers; make fuzz-guided by atheris"
	@echo "make fuzz-coverage  which branches of reading and writing files the vectors and fuzzing reach"
	@echo "make docs       the documentation site, site/index.html"
	@echo "make lint       ruff and mypy"
	@echo "make format     let ruff rewrite the sources"
	@echo "make clean      remove $(VENV), caches and demo/"

# .gsdata-X stands for the extra X. pip runs again when what it installs changes; otherwise this costs nothing.
$(VENV)/.gsdata-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gsdata needs Python 3.11 or newer, found %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing gsdata and its extra $* into $(VENV) (once)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e '.[$*]' $(PIP_ARGS)
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m gsdata_tools.demo

# NO_MKDOCS_2_WARNING silences an announcement of the theme's authors.
docs: $(VENV)/.gsdata-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "read it: site/index.html"

test: $(STAMP)
	@$(PYTEST) -m "not slow" $(TESTS)

# 1 where it found something that must not be. Without node the reader in JavaScript is left out.
fuzz: $(STAMP)
	@$(BIN)/python fuzz/run.py --seconds $(SECONDS) --jobs $(JOBS) --seed $(SEED)

# 1 where they reach fewer than 98 % of the branches of any of its modules.
fuzz-coverage: $(STAMP)
	@$(BIN)/python fuzz/branches.py

fuzz-guided: $(VENV)/.gsdata-fuzz
	@$(BIN)/python fuzz/guided.py -max_total_time=$(SECONDS)

test-slow: $(STAMP)
	@$(PYTEST) -m slow --timeout 1500 $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
