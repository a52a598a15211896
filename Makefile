# Two commands on a fresh machine: make demo, make test. Both make .venv and install what they need; a second run does not.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROCESSES ?= 2  # of make test; one of them holds Ray
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: demo test test-slow check format clean help

help:
	@echo "make demo       the whole job on this machine, offline: plates, encode, score, report in demo-run/"
	@echo "make test       lint, types, layers and the tests"
	@echo "make test-slow  the tests of minutes: the full-size model, faults, jobs on a local cluster"
	@echo "make check      lint, types and layers alone"

demo: $(VENV)/.demo
	$(BIN)/sdvae-ray demo --output demo-run

test: check
	$(BIN)/python -m pytest -n $(PROCESSES) -m "not slow and not gpu"

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf demo-run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is wanted; $(PYTHON) is $$($(PYTHON) --version). Use make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): some minutes, about 7 GB, once"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): some minutes, about 7 GB, once"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.demo
