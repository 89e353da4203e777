# `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.

VENV ?= .venv
PROFILE ?= quick
# The first Python that the project runs on; name another with PYTHON=…
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python3.10,$(if \
    $(shell $(python) -c 'import sys; (3, 10) <= sys.version_info < (3, 14) and print("good")' 2>/dev/null),$(python))))

# A module is compiled when it is first imported, and the outcome kept; to compile all of TensorFlow first takes a minute.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-compile
INPUTS := pyproject.toml constraints.txt

.PHONY: help run test slow torture flows lint format types
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## List these commands
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

run: $(VENV)/.for-run ## Run the pipeline and print the report's path: MIRROR=<folder of drawings> PROFILE=quick
	@$(VENV)/bin/python -m pipeline run --profile "$(PROFILE)" --mirror "$${MIRROR:-auto}"

test: $(VENV)/.for-dev ## The fast tests
	@$(VENV)/bin/python -m pytest -q

slow: $(VENV)/.for-dev ## The slow tests
	@$(VENV)/bin/python -m pytest -q --slow -m "slow or torture"

torture: $(VENV)/.for-dev ## Kills, full disks, damaged files, hostile input, at length: KILLS=20 for each stage
	@KILLS="$${KILLS:-20}" FUZZ="$${FUZZ:-100000}" $(VENV)/bin/python -m pytest -q --slow --timeout 3600 -m torture

flows: $(VENV)/.for-dev ## The flows on a real Prefect server, with real workers
	@$(VENV)/bin/python -m pytest -q --slow -m prefect

lint: $(VENV)/.for-dev ## Style and likely mistakes
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check

format: $(VENV)/.for-dev ## Put the code into its style
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

types: $(VENV)/.for-dev ## Check the types
	@$(VENV)/bin/mypy

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.10 to 3.13 is needed; name one: make run PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Making an environment for $$($(PYTHON) --version) in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) pip  # an old one takes twice the time

$(VENV)/.for-run: $(INPUTS) | $(VENV)/bin/python
	@echo "Installing the packages (TensorFlow is large: minutes)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.for-dev: $(INPUTS) | $(VENV)/bin/python
	@echo "Installing the packages and the tools for development (TensorFlow is large: minutes)"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.for-run
