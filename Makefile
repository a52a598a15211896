# Two commands on a fresh machine: make demo, make test. Both make .venv and install what they need; a second run does not.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
comma := ,
PROCESSES ?= 2  # of make test; each of two holds a Ray
export RAY_USAGE_STATS_ENABLED ?= 0
# where a shell forbids compiled modules, each process of Ray compiles its libraries anew, 9 CPU-seconds in place of 3.5
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/$(VENV)/pycache

.PHONY: demo test test-slow docs bench faults check format clean help

help:
	@echo "make demo       the whole job on this machine, offline: plates, encode, score, report in demo-run/"
	@echo "make test       lint, types, layers and the tests"
	@echo "make test-slow  the tests of minutes: the full-size model, faults, jobs on a local cluster"
	@echo "make docs       the docs as a site, build/docs/index.html; a broken link or anchor is an error"
	@echo "make faults     kills, 60 drivers at once, outages of ten minutes, damaged files: real processes, some twenty minutes"
	@echo "make bench      the speed of this machine, in under 20 minutes on two cores; every line ends with JSON"
	@echo "make check      lint, types and layers alone"

demo: $(VENV)/.demo
	$(BIN)/sdvae-ray demo --output demo-run

test: export OMP_NUM_THREADS = 1  # small images: more threads only wait for each other
test: $(VENV)/.test  # types are checked by one process, beside the tests; both must pass
	@$(MAKE) --no-print-directory check & checks=$$!; \
	$(BIN)/python -m pytest -n $(PROCESSES) --timeout 600 --durations 15 -m "not slow and not gpu"; tests=$$?; \
	wait $$checks && exit $$tests

test-slow: $(VENV)/.test .axe
	$(BIN)/python -m pytest -m slow

faults: export OMP_NUM_THREADS = 1
faults: $(VENV)/.test .s3rver
	$(BIN)/python -m pytest tests/run/test_lease.py tests/run/test_second_s3.py tests/run/test_verify.py tests/run/test_damaged_files.py tests/images/test_damage.py \
		tests/encoding/test_stream.py tests/encoding/test_killed_driver.py tests/encoding/test_random_kills.py tests/encoding/test_lost_node.py \
		tests/encoding/test_compact.py tests/encoding/test_outage.py tests/encoding/test_sick_storage.py tests/cluster/test_failures.py tests/cli/test_signals.py
	$(BIN)/python -m pytest tests/cluster/test_jobs.py  # with a Ray of its own: the agents of two share a port

.s3rver:  # a second S3 server for the tests; without npm they are skipped
	-npm install --silent --no-audit --no-fund --no-package-lock --prefix .s3rver s3rver@3.7.1

.axe: | $(VENV)/.test  # for the tests of the page in a browser, which are skipped without npm or Chromium
	$(call install,browser)
	-npm install --silent --no-audit --no-fund --no-package-lock --prefix .axe axe-core@4

bench: export OMP_NUM_THREADS = 1
bench: $(VENV)/.test
	$(BIN)/python benchmarks/engine.py --threads 1 --repeats 1
	$(BIN)/python benchmarks/fast_path.py --device cpu --threads 1 --repeats 1
	$(BIN)/python benchmarks/paper_loop.py --architecture tiny --crop 128 --patch 64 --threads 1
	$(BIN)/python benchmarks/ingest.py --repeats 3
	$(BIN)/python benchmarks/pipeline.py --fovs 32 --repeats 1
	$(BIN)/python benchmarks/scale.py --rows 1000,10000
	$(BIN)/python benchmarks/retrieval.py --wells 1000 --tasks activity --threads 2

docs: $(VENV)/.test
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

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

# uv installs in a quarter of pip's CPU time; pip does it where uv cannot reach the packages. uv's cache shares its files with the
# environment, so it goes afterwards
define install
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt uv
	@UV_CACHE_DIR=$(VENV)/.uv $(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[$(1)]' || \
		{ echo "pip installs instead"; $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[$(1)]'; }
	@rm -rf $(VENV)/.uv
endef

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): some minutes, about 7 GB, once"
	$(call install,efficientnet)
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): some minutes, about 7 GB, once"
	$(call install,test$(comma)efficientnet)
	@touch $@ $(VENV)/.demo
