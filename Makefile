# The newcomer's commands. Everything stands on `make install`, which does nothing when nothing changed.
#   make quickstart            install, pull the embedded models, train a small policy, show its rewrites
#   make test ARGS="-k config" install, run the tests
#   make test-fast             install, run the tests that need neither Ray nor processes
#   make check                 install, run ruff, mypy, the import layers and the other hooks
#   make audit                 look the pinned packages up among known vulnerabilities; needs the package index's advisories

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Override with `make install PYTHON=/path/to/python3.12`.
PYTHON ?= python3
# The tool of `make audit`, apart from the project's own packages.
AUDIT := .audit
PIP_AUDIT := pip-audit==2.10.1
# Processes that share the test files out; 0 runs all tests in one.
WORKERS ?= 2
# Whole files, in the order of tests/conftest.py: the costly ones first.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-fast check audit clean

help:
	@sed -n 's/^#   //p' Makefile

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "PARTNER-RL needs Python 3.11 or newer, and '$(PYTHON)' was not found: install it, or name another with 'make install PYTHON=...'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "PARTNER-RL needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1 | cut -d" " -f2): install it, or name another with 'make install PYTHON=python3.11'" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev,bench]"
	@touch $(STAMP)

quickstart: install
	$(BIN)/partner-rl models pull
	$(BIN)/partner-rl quickstart $(ARGS)

test: install
	$(PYTEST) $(ARGS)

test-fast: install
	$(PYTEST) -m "not (slow or ray or process or gpu)" $(ARGS)

check: install
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

audit:
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
	  $(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_AUDIT); }
	@$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt \
	  2>$(AUDIT)/errors && { tail -n 1 $(AUDIT)/errors; exit 0; }; \
	if grep -qiE "could not be audited|connect|timed out" $(AUDIT)/errors; then \
	  echo "audit: the package index's advisories cannot be reached, so nothing is known: try again where they can be" >&2; \
	  exit 2; \
	fi; \
	cat $(AUDIT)/errors >&2; exit 1

clean:
	rm -rf $(VENV) $(AUDIT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find partner_rl envs rewards launch tests -name __pycache__ -type d -prune -exec rm -rf {} +
