# `make run` and `make test` are all that a newcomer needs. `make help` lists the others.

VENV ?= .venv
PROFILE ?= quick
# The first Python that the project supports; PYTHON=… names another.
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python3.10,$(if \
    $(shell $(python) -c '$(SUPPORTED)' 2>/dev/null && echo good),$(python))))
# An environment that was interrupted while it was made, or whose Python was removed, is made again.
BROKEN := $(if $(wildcard $(VENV)/.),$(shell $(VENV)/bin/python -c 'import pip; $(SUPPORTED)' >/dev/null 2>&1 || echo yes))

# Python compiles a module when it is first imported. Compiling all of TensorFlow during installation takes a minute.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-compile
INPUTS := pyproject.toml constraints.txt
# One option -S for each setting in SET. A word without an equals sign belongs to the setting before it, so that
# SET="classes=[bee, sea turtle] seed=1" is two settings. § stands for a space inside a setting.
SPACE := $() $()
WORDS = $(foreach word,$(subst ','\'',$(SET)),$(if $(findstring =,$(word)),,§)$(word))
OPTIONS = $(subst §,$(SPACE),$(patsubst %,-S '%',$(subst $(SPACE)§,§,$(WORDS))))
# Most tests use one core. A file's tests run in one process, because they share what its fixtures make. The files keep
# the order that tests/conftest.py gives them.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help run test slow robustness flows graph coverage pictures lint format types constraints clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## List the commands
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

# Of several sources, the last one counts. MIRROR is the former name of SOURCE.
run: $(VENV)/.for-run ## Run the pipeline and print a link to its report: SOURCE=<folder> PROFILE=quick SET="seed=1 …"
	@$(VENV)/bin/python -m pipeline run --profile "$(PROFILE)" --source auto \
	    $${MIRROR:+--mirror "$$MIRROR"} $${SOURCE:+--source "$$SOURCE"} $(OPTIONS)

test: $(VENV)/.for-dev ## Run the fast tests
	@$(VENV)/bin/python -m pytest -q $(PARALLEL)

slow: $(VENV)/.for-dev ## Run the fast and the slow tests, all but those of the flows
	@$(VENV)/bin/python -m pytest -q $(PARALLEL) --slow -m "not prefect"

robustness: $(VENV)/.for-dev ## Test kills, full disks, hostile input and long training, at length: KILLS=20 for each stage
	@KILLS="$${KILLS:-20}" FUZZ="$${FUZZ:-100000}" STEPS="$${STEPS:-2000}" \
	    $(VENV)/bin/python -m pytest -q --slow --timeout 3600 -m robustness

flows: $(VENV)/.for-dev ## Test the flows on a real Prefect server, with real workers
	@$(VENV)/bin/python -m pytest -q $(PARALLEL) --slow -m prefect

graph: $(VENV)/.for-dev ## Check that dvc.yaml agrees with the code
	@$(VENV)/bin/python -m pytest -q tests/test_graph.py tests/test_architecture.py

coverage: $(VENV)/.for-dev ## Report in htmlcov/ which lines the fast tests run
	@$(VENV)/bin/python -m pytest -q --cov --cov-report=html

pictures: $(VENV)/.for-dev ## Make the README's pictures of the report anew, from the run in this checkout
	@$(VENV)/bin/python -m tests.pictures

lint: $(VENV)/.for-dev ## Check style, likely mistakes and spelling
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@git ls-files -z | xargs -0 $(VENV)/bin/codespell

format: $(VENV)/.for-dev ## Format the code
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

types: $(VENV)/.for-dev ## Check the types
	@$(VENV)/bin/mypy

constraints: $(VENV)/.for-dev ## Resolve constraints.txt again for all supported Pythons: UPGRADE=1 takes newer versions
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-annotate --no-header \
	    $(if $(UPGRADE),--upgrade) --output-file constraints.txt pyproject.toml

clean: ## Delete the environment, caches and builds; data/, reports/ and the cache of DVC stay
	@rm -rf "$(VENV)" build dist htmlcov .coverage *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find stages pipeline tests -name __pycache__ -prune -exec rm -rf {} +

ifneq ($(BROKEN),)
.PHONY: $(VENV)/bin/python $(VENV)/.for-run $(VENV)/.for-dev
endif

$(VENV)/bin/python:
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' 2>/dev/null || \
	    { echo "error: Python 3.10 to 3.13 is needed; name one: make run PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -e $(VENV)/pyvenv.cfg || test -z "$$(ls -A $(VENV) 2>/dev/null)" || \
	    { echo "error: $(VENV) is not an environment of Python; name another folder: make run VENV=/path/to/folder" >&2; exit 1; }
	@echo "Making an environment for $$($(PYTHON) --version) in $(VENV); with the packages, it takes about 3.1 GB of disk"
	@{ $(PYTHON) -m venv --clear $(VENV) && $(PIP) pip; } || { rm -rf $(VENV); exit 1; }  # an old pip takes twice the time

$(VENV)/.for-run: $(INPUTS) | $(VENV)/bin/python
	@echo "Installing the packages (TensorFlow is large: minutes)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.for-dev: $(INPUTS) | $(VENV)/bin/python
	@echo "Installing the packages and the tools for development (TensorFlow is large: minutes)"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.for-run
