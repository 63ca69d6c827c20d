# Everything goes through .venv, which `make setup` makes from pyproject.toml and constraints.txt.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# Two processes, a file of tests each: most of their time is compilation, which uses one core. In the order of their
# names: by the number of tests, which is xdist's order, the scripts' few and slow ones come last, beside an idle core.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
# A file for pytest's exit code, which .ci/run reads; empty: the recipe fails where pytest does.
PYTEST_STATUS ?=

# The first interpreter of version 3.11 or later; choose another with `make setup PYTHON=/path/to/python`.
CANDIDATES := python3 python3.13 python3.12 python3.11
IS_RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do "$$p" -c "$(IS_RECENT)" 2>/dev/null && { echo "$$p"; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything that tests and scripts need

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 among $(CANDIDATES). Install one, or: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c "$(IS_RECENT)" || { echo "make: PYTHON=$(PYTHON) does not run, or is older than 3.11." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(STAMP)

demo: $(STAMP) ## forget and compare on a small synthetic dataset, from nothing
	$(BIN)/python -m experiments.demo

test: $(STAMP) ## run the tests; PYTEST_ARGS="-m 'not slow' -n 2" for fewer, or in parallel
	@$(BIN)/python -m pytest $(PYTEST_ARGS)$(if $(PYTEST_STATUS),; echo $$? > "$(PYTEST_STATUS)")

lint: $(STAMP) ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff sort imports and lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# glibc maps and unmaps large buffers for each call otherwise, and a BPR epoch takes 0.2 or 0.7 s at random (BUILD_NOTES).
bench: export MALLOC_TOP_PAD_ = 268435456
bench: export MALLOC_MMAP_THRESHOLD_ = 4294967296
bench: export MALLOC_TRIM_THRESHOLD_ = 8589934592
bench: $(STAMP) ## time our code beside other libraries'; needs: .venv/bin/pip install -e '.[bench]'
	$(BIN)/python -m experiments.benchmark
