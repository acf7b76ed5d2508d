# `make run` and `make test` set up everything they need in .venv, from nothing, and again after a change of
# pyproject.toml or constraints.txt.
#
#   ARGS=…         passed on:  make run ARGS="--prompts 8"    make test ARGS="tests/system -x"
#   PYTHON=…       the Python that .venv is made with:  make run PYTHON=python3.12
#   JOBS=…         processes that run tests side by side (default 4: tests wait much; 0 runs them in one)
#   REQUIRE_ALL=1  tests fail, instead of being skipped, where a tool such as chromium is absent

PYTHON ?= python3
JOBS ?= 4
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin/python
SWEEP := $(VENV)/bin/erasure-sweep
# From where and from which requirements .venv was installed.
INSTALLED = { echo "$(CURDIR)"; cat pyproject.toml constraints.txt | cksum; }
PYTEST := $(BIN) -m pytest -n $(JOBS) --dist loadgroup
# A Python that was named has to be the one in .venv; the default one only has to do.
ifneq ($(origin PYTHON),file)
NAMED := $(PYTHON)
endif

.DEFAULT_GOAL := help
.PHONY: help run test test-fast lint check docs bench real soak ui services runtime dev venv

help:
	@echo "make run      measure the bundled models: tables, figures, MLflow runs and a page in runs/demo"
	@echo "make test     run the tests, but for the nightly ones"
	@echo "make test-fast  those that start no process and draw no page: about a minute"
	@echo "make ui       browse the logged runs in MLflow's UI"
	@echo "make services PostgreSQL, S3 and MLflow's server with basic auth, on loopback until Ctrl-C, for runs to log to"
	@echo "make check    linters, type checker, tests with coverage"
	@echo "make lint     linters and type checker alone"
	@echo "make docs     the documentation as a site in build/site; docs/tables.md and docs/situations.md are made anew for it"
	@echo "make bench    speed and memory beside plain forward passes, printed and saved as JSON (ARGS=--quick: in minutes)"
	@echo "make real     SmolLM2-135M, which a Python package carries, measured, and held against literal reruns (ARGS=--short)"
	@echo "make soak     the nightly tests: long trials, and further seeds of other tests"
	@echo "Each sets up .venv first if need be. ARGS=\"…\" is passed on, PYTHON=… names the Python to use."

run: runtime
	@$(SWEEP) run $(ARGS)

ui: runtime
	@$(SWEEP) ui $(ARGS)

services: dev
	@$(BIN) -m tests.support.servers.services $(ARGS)

test: dev
	@echo "running the tests (about 25 minutes on two idle cores)"
	@$(PYTEST) $(ARGS)

test-fast: dev
	@$(BIN) -m pytest -n auto tests/fast $(ARGS)

lint: dev
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	@# one import package over the checkout: mypy finds it through a link
	@mkdir -p build/mypy && ln -sfn "$(CURDIR)" build/mypy/erasure_sweep
	MYPYPATH=build/mypy $(BIN) -m mypy
	$(VENV)/bin/lint-imports --no-cache

check: lint
	$(PYTEST) --cov --cov-report=term-missing:skip-covered $(ARGS)

docs: dev
	@mkdir -p build && $(BIN) -m erasure_sweep.workers.tables.reference > build/tables.md && mv build/tables.md docs/tables.md
	@$(BIN) -m tests.support.situations_page > build/situations.md && mv build/situations.md docs/situations.md
	@NO_MKDOCS_2_WARNING=1 $(BIN) -m mkdocs build -q -f .ci/mkdocs.yml && echo "build/site/index.html"

bench: dev
	@$(BIN) -m tests.benchmarks $(ARGS)

real: dev
	@$(BIN) -m tests.real $(ARGS)

soak: dev
	@$(BIN) -m pytest -m nightly $(ARGS)

# A make of its own, because it has to see the stamps as `venv` leaves them.
runtime dev: venv
	@$(MAKE) --no-print-directory --silent $(VENV)/.$@

venv:
	@if ! $(BIN) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { [ -n "$(NAMED)" ] && [ "$$($(BIN) -V)" != "$$($(NAMED) -V 2>&1)" ]; }; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "$(PYTHON) is missing or older than Python 3.11: install one (apt-get install python3 python3-venv), or name it: make run PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) -m venv does not work here: apt-get install python3-venv (or the python3.X-venv of that Python)" >&2; exit 1; }; \
	  [ ! -e $(VENV) ] || echo "$(VENV) does not work, or is not $(PYTHON)'s: making it anew"; \
	  echo "making $(VENV) with $$($(PYTHON) -V)"; \
	  $(PYTHON) -m venv --clear $(VENV); \
	fi
	@# What is installed points to the folder it was installed from, and times of files say nothing after an upgrade by tar or rsync.
	@[ "$$(cat $(VENV)/.installed 2>/dev/null)" = "$$($(INSTALLED))" ] || rm -f $(VENV)/.runtime $(VENV)/.dev

$(VENV)/.runtime:
	@echo "installing erasure-sweep into $(VENV) (a few minutes and about 2.5 GB the first time)"
	@$(BIN) -m pip install -c constraints.txt -e .
	@$(INSTALLED) > $(VENV)/.installed && touch $@

$(VENV)/.dev:
	@echo "installing erasure-sweep with its development tools into $(VENV) (a few minutes and about 2.5 GB the first time)"
	@$(BIN) -m pip install -c constraints.txt -e '.[dev]'
	@$(INSTALLED) > $(VENV)/.installed && touch $(VENV)/.runtime $@
