# pgmig: every target makes what it needs. A fresh machine needs Python >= 3.11 with venv,
# make and git; everything else comes hashed from requirements.lock.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python

# Stamps: what was done, for make to compare with the files that it was done from.
MADE := $(VENV)/.made
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready
GENERATED := gen/.generated
COMPILED := $(VENV)/.compiled
BYTECODE := $(VENV)/.bytecode

# Runs, rather than looks for, each candidate: a version manager's stub may be on PATH and fail.
# One with venv wins over one without; `make PYTHON=/path/to/python3` decides otherwise.
PYTHON ?= $(shell for how in 'import venv, ensurepip' pass; do \
	for python in python3.13 python3.12 python3.11 python3 python3.14; do \
	$$python -c "import sys; assert sys.version_info >= (3, 11); $$how" >/dev/null 2>&1 \
	&& echo $$python && exit; done; done)

SOURCES := $(shell find services clients tests -name '*.py')
TWINS := $(shell find services -name '_*.pyx' -o -name '_*.pxd')
HOT := $(shell find services -name '_*.pxd' | sed 's,/_\([^/]*\)\.pxd$$,/\1.py,')
BUF := ../$(VENV)/bin/buf
RELEASED_API := released/control_v1.yaml
PROTOS := $(shell find protos -mindepth 1)  # folders too: their time tells of files that are gone

# What exercises the modules that have a compiled twin, without it.
PURE_UNIT := $(addprefix tests/unit/,pgoutput wire/test_batches.py applier/test_compact.py)
PURE_SERVERS := $(addprefix tests/integration/pipeline/test_,changes.py interruptions.py refused_changes.py \
	schema_drift.py gaps.py confirmed_position.py) tests/integration/pg/copy/test_values.py

# The tests on servers. Those that take longest come first, so that no worker ends long after the others.
SERVER_TESTS := tests/property/ $(filter-out tests/property/ tests/unit/ %/__pycache__/,$(wildcard tests/*/))

# Each of the workers has servers of its own. What shares an xdist_group stays on one worker and so never
# runs twice at a time: the files whose servers serve all of their tests, and "heavy", which fills a machine.
# Many tests wait for a time-out or a beat of the services: three workers keep two cores busy.
TEST_WORKERS ?= 3
PARALLEL := $(PY) -m pytest --numprocesses $(TEST_WORKERS) --dist loadgroup

.PHONY: help setup check lint test test-unit test-servers test-matrix demo bench bench-cdc bench-clone bench-switchover protos release-api up down compose-test lock clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) $(GENERATED) $(COMPILED) $(BYTECODE) ## the virtual environment .venv with everything that the others use

check: lint test-unit ## the daily loop: all that `lint` does, and the unit tests

lint: setup ## format, lint, spelling, types, import contracts, protos
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/codespell
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	cd protos && $(BUF) lint && $(BUF) breaking --against $(RELEASED_API)
	$(PY) -m pip check --disable-pip-version-check

test: test-unit test-servers ## every test but compose-test

test-unit: setup ## the tests that need no server; `make check` runs them too
	$(PARALLEL) -q tests/unit
	PGMIG_PURE_PYTHON=1 $(PY) -m pytest -q $(PURE_UNIT)

test-servers: setup ## the other tests, on real PostgreSQL and nats-server processes
	PGMIG_PURE_PYTHON=1 $(PARALLEL) -q $(PURE_SERVERS)
	$(PARALLEL) --durations=10 $(SERVER_TESTS)

test-matrix: setup ## a live database of each PostgreSQL from 10 on, migrated to the newest
	PGMIG_TEST_SOURCES=all PGMIG_TEST_SOURCES_REQUIRED=1 $(PY) -m pytest tests/e2e/test_source_versions.py

demo: setup ## migrates a live database from one local server to another, and proves it
	$(PY) -m tests.e2e.demo

bench: setup ## the two that follow: ratios against peers, in one run
	$(PY) -m tests.bench $(BENCH)

bench-cdc: setup ## change capture and its latency (`make bench-cdc BENCH='--scale 0.1 --rounds 1'`)
	$(PY) -m tests.bench cdc $(BENCH)

bench-clone: setup ## copying a database
	$(PY) -m tests.bench clone $(BENCH)

bench-switchover: setup ## how long clients wait in a switchover under load, ten times (half an hour; BENCH=--pause-pooler)
	$(PY) -m tests.bench switchover --rounds 10 $(BENCH)

protos: $(READY) ## gen/pgmig from protos/ (the other targets do so when a .proto has changed)
	$(PY) hatch_build.py

release-api: setup ## records the public API: run it for a release, then `make check` refuses what breaks clients
	cd protos && $(BUF) build --path pgmig/control --path pgmig/common --exclude-source-info -o $(RELEASED_API)

up: ## source, destination, NATS and the services in containers (see docker-compose.yml)
	docker compose up --detach --build --wait

down: ## stops those containers; `docker compose down --volumes` forgets their data too
	docker compose down

compose-test: setup ## a migration through those containers, in a compose project of its own
	$(PY) -m tests.compose

lock: $(MADE) ## requirements*.lock from pyproject.toml (`make lock UPGRADE=--upgrade` for newer versions)
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(COMPILE) pyproject.toml --group dev --extra embedded $(UPGRADE) --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra pgtools $(SUBSET) --output-file requirements-services.lock
	$(COMPILE) --group pyproject.toml:build $(SUBSET) --output-file requirements-build.lock

COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header
SUBSET = --constraints requirements.lock --no-annotate

clean: ## removes .venv, .servers, gen/ and the tools' caches
	rm -rf $(VENV) .servers gen dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find services -name '_*.so' -delete
	find . -name __pycache__ -prune -exec rm -rf {} +

# Debian packs venv's other half, ensurepip, apart: then uv, or a pip outside the venv, will do.
$(MADE):
	@python="$(PYTHON)"; rm -rf $(VENV); \
	if ! $${python:-false} -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null; then \
		echo "make: no Python >= 3.11 found: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$python"; \
	if $$python -c 'import ensurepip' 2>/dev/null; then \
		$$python -m venv $(VENV); \
	elif command -v uv >/dev/null; then \
		uv venv --quiet --seed --python $$python $(VENV); \
	elif $$python -m pip --python "$$(command -v $$python)" --version >/dev/null 2>&1; then \
		$$python -m venv --without-pip $(VENV) && $$python -m pip --python $(PY) install --quiet pip; \
	else \
		echo "make: $$python has no venv: run 'apt install $${python##*/}-venv', then make again" >&2; exit 1; \
	fi
	@touch $@

$(LOCKED): requirements.lock $(MADE)
	@echo "installing what requirements.lock names (a 90 MB download the first time)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@

$(READY): pyproject.toml hatch_build.py $(LOCKED)
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(GENERATED): $(PROTOS) hatch_build.py | $(READY)
	@$(PY) hatch_build.py

# Compiled where a C compiler is at hand; it says so where none is.
$(COMPILED): $(TWINS) $(HOT) hatch_build.py | $(READY)
	@$(PY) hatch_build.py compiled
	@touch $@

# As pip does for what it installs: a start costs a fifth more without, and PYTHONDONTWRITEBYTECODE may be set.
$(BYTECODE): $(SOURCES) $(GENERATED) | $(READY)
	@$(PY) -m compileall -q services clients tests gen
	@touch $@
