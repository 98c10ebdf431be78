# Everything from a bare machine with Python 3.10 or newer; see `make help`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv

BIN := $(VENV)/bin
# holds the kind of the installed Detectron2
READY := $(VENV)/.focal_plugin_ready
SOURCES := focal_plugin focal_plugin_doctor.py tests tools train_net.py setup.py

.PHONY: help setup demo test bench lint format clean

help:
	@echo "make setup   an environment in $(VENV) with torch, Detectron2 and focal_plugin"
	@echo "make demo    train four arms on the built-in data set, compare them (8 minutes)"
	@echo "make test    lint, and run every test"
	@echo "make bench   what the operators cost beside Detectron2's (5 minutes, on an idle machine)"
	@echo "make lint    ruff: rules and layout"
	@echo "make format  let ruff write the layout"
	@echo "make clean   remove what tests and builds left (not $(VENV), datasets/, output/ and runs/)"
	@echo
	@echo "PYTHON=$(PYTHON) creates the environment; VENV=$(VENV) is where it is, or will be"

setup: $(READY)

$(READY): pyproject.toml setup.py $(wildcard tools/setup/* focal_plugin/ops/csrc/*)
	@test -n "$(PYTHON)" || { echo "no python3 found: give one with PYTHON=..."; exit 1; }
	$(PYTHON) tools/setup/bootstrap.py --venv $(VENV)
	@$(BIN)/python -m focal_plugin_doctor --runtime > $@

demo: setup
	$(BIN)/focal-compare run configs/comparisons/demo.yaml

test: lint
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python tools/benchmarks/run_all.py output/bench

lint: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

format: setup
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
