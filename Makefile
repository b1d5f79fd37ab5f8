# Two commands for a fresh machine: `make demo` and `make test`. Both set up .venv themselves.
.PHONY: demo test lint check-long triton-repo setup clean
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
# of each of the three
FUZZ_SECONDS ?= 200
export BANDSTOP_HOME := $(CURDIR)/$(VENV)/bandstop
export PIP_DISABLE_PIP_VERSION_CHECK := 1

demo: setup
	$(BIN)/bandstop demo --seed $(SEED)

test: setup
	$(BIN)/python -m pytest -q -m "not long"

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-long: setup
	$(BIN)/python -m pip install -q --group fuzz
	$(BIN)/python -m pytest -q -m long
	for part in manifest weights graphs; do $(BIN)/python -m tests.fuzz $$part $(FUZZ_SECONDS) || exit 1; done

# the models in triton_repo, made anew by the demo
triton-repo: setup
	rm -rf triton_repo/digits_* build/demo
	mkdir -p build
	$(BIN)/bandstop demo --out build/demo
	$(BIN)/bandstop repo publish build/demo/releases/digits_gated triton_repo
	$(BIN)/bandstop repo publish build/demo/releases/digits_svd_3 triton_repo --model digits_baked

setup: $(VENV)/.ready
	$(BIN)/bandstop serve --install

# any Python 3.11 or 3.12 that can make virtual environments
$(VENV)/.ready: pyproject.toml
	@set -e; for python in $(or $(PYTHON),python3 python3.12 python3.11); do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
	  then found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo "error: no Python 3.11 or 3.12 with venv found; install one (Debian: apt install python3.11-venv) or say make PYTHON=/path/to/python" >&2; exit 1; fi; \
	echo "setting up $(VENV) with $$($$found --version) (about two minutes the first time)"; \
	$$found -m venv $(VENV); \
	$(BIN)/python -m pip install -q --upgrade pip; \
	$(BIN)/python -m pip install -q -e ".[all]" --group dev; \
	touch $@

clean:
	rm -rf $(VENV) build dist
