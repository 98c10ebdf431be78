# All commands, on a bare machine with Python 3.10 or newer; see `make help`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv

BIN := $(VENV)/bin
# File with the kind of the installed Detectron2
READY := $(VENV)/.focal_plugin_ready
SOURCES := focal_plugin focal_plugin_commands focal_plugin_allocator.py focal_plugin_doctor.py tests tools docs examples train_net.py setup.py README.md CONTRIBUTING.md

# The tests start many processes. Byte code makes them start faster.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-all unit unit-all test-browser sanitize bench bench-gpu lint docs numbers coverage format clean

help:
	@echo "make setup      install torch, Detectron2 and focal_plugin into $(VENV)"
	@echo "make demo       train four arms on the built-in dataset and compare them (5 minutes)"
	@echo "make test       lint, build the docs, run the tests that are not slow (5 minutes)"
	@echo "make test-all   the same with every test, also those that train or start processes (20 minutes)"
	@echo "make unit, make unit-all  the tests alone"
	@echo "make test-browser  look at a report in Chromium: width, contrast, errors (1 minute; Debian: apt install chromium)"
	@echo "make sanitize   fuzz the C++ operators under address and undefined-behavior sanitizers (4 minutes)"
	@echo "make bench      benchmark the operators against Detectron2's (20 minutes, on an idle machine)"
	@echo "make bench-gpu  run the tests of the operators and the benchmarks on a GPU, and write their tables"
	@echo "make lint       check rules and formatting with ruff, and types with mypy"
	@echo "make coverage   run every test and report uncovered lines and branches"
	@echo "make docs       build the documentation site in build/docs"
	@echo "make numbers    list the commands behind every number of the documentation"
	@echo "make format     format the code with ruff"
	@echo "make clean      remove build results (not $(VENV), datasets/, output/ and runs/)"
	@echo
	@echo "PYTHON=$(PYTHON) creates the environment in VENV=$(VENV)."

setup: $(READY)

$(READY): pyproject.toml setup.py $(wildcard tools/setup/*.py tools/setup/*.txt focal_plugin/ops/csrc/*.*)
	@test -n "$(PYTHON)" || { echo "no python3 found: set one with PYTHON=..."; exit 1; }
	$(PYTHON) tools/setup/bootstrap.py --venv $(VENV)
	@$(BIN)/python -m focal_plugin_doctor --runtime > $@

demo: setup
	$(BIN)/focal-compare run configs/comparisons/demo.yaml --jobs 2

# In parallel, because some tests wait.
test: setup
	$(MAKE) --no-print-directory --jobs 3 lint docs unit

test-all: setup
	$(MAKE) --no-print-directory --jobs 3 lint docs unit-all

unit: setup
	$(BIN)/python -m pytest -m "not slow"

unit-all: setup
	$(BIN)/python -m pytest

# `make test` runs these tests where playwright and a Chromium are installed. npm adds axe-core's rules.
AXE := build/browser/node_modules/axe-core/axe.min.js

test-browser: setup $(if $(shell command -v npm),$(AXE))
	@$(BIN)/python -c "import playwright" 2> /dev/null || $(BIN)/python -m pip install --quiet "playwright>=1.49"
	$(BIN)/python -m pytest -n 0 tests/compare/report/test_browser.py

$(AXE):
	npm install --silent --no-fund --no-audit --prefix build/browser axe-core@4

# A copy, so that the compiled extension of the checkout stays. The C++ library is preloaded because
# the sanitizer replaces its functions, and Python itself leaks.
SANITIZED := build/sanitize
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# Vectors that the machine has
CAPABILITIES = default avx2 $(shell grep -qw avx512f /proc/cpuinfo && echo avx512)
PRELOADED = $(foreach name,libasan.so libstdc++.so,$(shell $(or $(CXX),c++) -print-file-name=$(name)))

sanitize: setup
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -r focal_plugin focal_plugin_*.py tests pyproject.toml setup.py $(SANITIZED)
	rm -f $(SANITIZED)/focal_plugin/ops/_C*.so
	cd $(SANITIZED) && CFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" \
		$(abspath $(BIN)/python) setup.py -q build_ext --inplace
	cd $(SANITIZED) && for capability in $(CAPABILITIES); do \
		echo "ATEN_CPU_CAPABILITY=$$capability"; \
		LD_PRELOAD="$(PRELOADED)" ASAN_OPTIONS=detect_leaks=0 ATEN_CPU_CAPABILITY=$$capability \
		$(abspath $(BIN)/python) -m pytest -q -n 0 tests/ops/test_fuzz.py || exit 1; \
	done

bench: setup
	$(BIN)/python tools/benchmarks/run_all.py output/bench

# The tests use the GPU where there is one
bench-gpu: setup
	$(BIN)/python -m pytest -q -n 0 tests/ops tests/losses tests/modeling
	$(BIN)/python tools/benchmarks/run_all.py output/bench-gpu --gpu
	$(BIN)/python tools/write_performance.py output/bench-gpu

lint: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python tools/check_prose.py

coverage: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report

docs: setup
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

format: setup
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

numbers:
	@sed -n '/^|/p' docs/numbers.md
