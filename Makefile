# Two commands for a newcomer: `make demo` and `make test`. Both make the environment first.
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
STAMP := $(VENV)/.installed
export LAB_HOME ?= $(CURDIR)/.lab

.PHONY: help install demo test e2e chromium postgresql lint format bench clean

help:  ## this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## make .venv with the locked dependencies

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=path/to/python3.12"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version); the first time this downloads several GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@touch $@

demo: $(STAMP)  ## start the lab, train an MLP and a small VGG on real digits, show where to look
	$(BIN)/python -m flows.demo

test: $(STAMP)  ## everything but the tests with real servers and browser
	$(BIN)/python -m pytest -n 2 --dist worksteal

e2e: $(STAMP) chromium postgresql  ## tests with real servers and a real browser
	$(BIN)/python -m pytest -m e2e --timeout 600

chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { echo "Installing Chromium for the browser test"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; }; } || \
	  echo "Chromium is not here and cannot be installed (needs root and apt): the browser test will be skipped"

postgresql:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { echo "Installing PostgreSQL for its tests, which start servers of their own"; \
	    mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; }; } || \
	  echo "PostgreSQL is not here and cannot be installed (needs root and apt): its tests will be skipped"

lint: $(STAMP)  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## let ruff put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## ratios against named references, from one run
	$(BIN)/python -m benchmarks

clean:  ## remove the environment (your runs in .lab stay)
	rm -rf $(VENV)
