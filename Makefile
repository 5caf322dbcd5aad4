# Two targets matter to a newcomer:
#
#   make demo    four validators, the whole life of a stablecoin, then everything is stopped
#   make test    format, lint, types, layers, tests
#
# Needed beforehand: Python 3.11 or 3.12, make, git. Everything else is installed into .venv from
# lock files with exact versions and hashes.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# A lock is the whole closure, so pip has nothing to resolve. Left to resolve, it may look for newer
# versions of what a pinned package asks for with extras, and refuse the pinned one.
LOCKED := $(PIP) install --quiet --no-deps --require-hashes --only-binary :all:
RUN_STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
PYTEST_ARGS ?=

.PHONY: help demo install test test-long lint format sim mutants bench lock clean

help:
	@echo 'make demo       run the whole story on four local validators (under a minute)'
	@echo 'make install    make $(VENV) with the atpar command'
	@echo 'make test       format, lint, types, layers and all tests'
	@echo 'make test-long  the same tests with far more random cases'
	@echo 'make sim        200 simulated clusters under every kind of fault; SIM_ARGS=... for more'
	@echo 'make mutants    plant known mistakes and check that the tests notice each'
	@echo 'make bench      measure, and write JSON to bench/results'
	@echo 'make format     rewrite the code in the one format'
	@echo 'make lock       pin newer dependencies (needs uv)'
	@echo 'make clean      remove the environment and everything generated'

demo: $(RUN_STAMP)
	@$(BIN)/atpar demo

install: $(RUN_STAMP)

# ---- the environment

# python3.12 may exist as a launcher that cannot start (version managers do that), so every
# candidate has to say its version itself. PYTHON=... overrules the search.
$(BIN)/python:
	@set -e; found=; \
	for candidate in $(PYTHON) python3.12 python3.11 python3 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	    >/dev/null 2>&1; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo 'atpar needs Python 3.11 or 3.12 and found neither python3.12, python3.11 nor a python3' >&2; \
	  echo 'of that version. Install one, or name it: make demo PYTHON=/path/to/python3.12' >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version) ..."; \
	if ! "$$found" -m venv "$(VENV)"; then \
	  rm -rf "$(VENV)"; \
	  echo 'could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv' >&2; \
	  exit 1; \
	fi

$(RUN_STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@echo 'installing pinned dependencies ...'
	@$(LOCKED) -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST_STAMP): requirements-test.lock $(RUN_STAMP)
	@echo 'installing what the tests need ...'
	@$(LOCKED) -r requirements-test.lock
	@touch $@

# ---- checks

test: lint
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

test-long: lint
	ATPAR_TEST_LONG=1 $(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: $(TEST_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(TEST_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

SIM_ARGS ?= --seeds 0-199 --validators 4 --profile all

sim: $(TEST_STAMP)
	$(BIN)/python -m tests.sim run $(SIM_ARGS)

mutants: $(TEST_STAMP)
	$(BIN)/python -m tests.mutants

bench: $(TEST_STAMP)
	$(BIN)/python -m bench

# ---- maintenance

LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--group build --custom-compile-command 'make lock' --quiet

lock:
	$(LOCK) --upgrade -o requirements.lock
	$(LOCK) --upgrade --extra test -c requirements.lock -o requirements-test.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache .coverage* htmlcov bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
