# Everything runs from .venv, which `make setup` builds from the hashed lock. Needs Python 3.11 and make only.
PYTHON ?= python3.11
EXTRA  ?= cpu
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
UV_VERSION := 0.13.9
STAMP  := $(VENV)/.ready-$(EXTRA)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench lock lock-images certificates clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## Create .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or call make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.ready-*
	@touch $@

demo: setup  ## Segment a made mosaic of NICFI-layout quads from end to end
	$(BIN)/ktex demo --out demo-output --fresh

test: setup  ## Run the tests (all but those marked gpu), with branch coverage
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term

lint: setup  ## Format, lint, type and import checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## Run the benchmarks, quick versions
	$(BIN)/python -m benchmarks --quick

lock: $(UV)  ## Resolve requirements.lock anew
	$(UV) pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	  --extra $(EXTRA) --extra jax --extra planet --extra postgres --extra dev --quiet pyproject.toml -o requirements.lock

# Everything is pinned as in requirements.lock; only what the GPU needs comes on top.
lock-images: $(UV)  ## Resolve the locks of the images, which follow requirements.lock
	for extra in cpu gpu; do \
	  $(UV) pip compile --generate-hashes --no-emit-index-url --python-version 3.11 \
	    --python-platform x86_64-manylinux_2_28 --extra $$extra --extra planet --extra postgres \
	    --constraint requirements.lock --quiet pyproject.toml deploy/docker/requirements.in \
	    -o deploy/docker/requirements-$$extra.lock || exit 1; \
	done

certificates:  ## Make the certificates of Dask in certificates/
	deploy/tls/make-certificates certificates ktextures-dask-scheduler.ktextures.svc dask-scheduler localhost

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

clean:  ## Remove what the targets made
	rm -rf $(VENV) demo-output .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
