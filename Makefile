# One-command set-up, demo and checks. Needs Python >= 3.11 with venv, git and make; `make help` lists the targets.
#
# Everything is installed into .venv by uv, at the versions in constraints.txt. uv does not read pip's settings, so it is
# handed those that decide where packages come from: find-links, index-url and cert. On Linux, PyPI's torch is the CUDA
# build, which also runs without a GPU; for the much smaller CPU build:  UV_TORCH_BACKEND=cpu make venv

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin

# Idle OpenMP threads must not spin: beside another busy process that costs a factor of fifty.
OMP_WAIT_POLICY ?= PASSIVE
GOMP_SPINCOUNT ?= 0
OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY GOMP_SPINCOUNT OMP_NUM_THREADS

.PHONY: help demo test test-slow test-faults check format venv clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

demo: .venv/.installed  ## train, simulate and attribute on the built-in example; options: make demo ARGS="..."
	$(BIN)/dist-attr demo --out runs/demo $(ARGS)

test: check  ## check, then all tests but the slow ones; options for pytest: make test ARGS="..."
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: .venv/.installed  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

test-faults: .venv/.installed  ## nodes, S3 and disks that fail under real commands, on a Ray cluster of two nodes
	$(BIN)/python -m pytest -m faults $(ARGS)

check: .venv/.installed  ## lint, format and types, without changing anything
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.installed  ## format, and fix what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

venv: .venv/.installed  ## create .venv, or bring it up to date with pyproject.toml and constraints.txt

clean:  ## remove .venv, caches and builds; runs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an interrupted install leaves none, and the next run repeats it.
.venv/.installed: pyproject.toml constraints.txt
	@rm -f $@
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "No $(PYTHON) found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, but $(PYTHON) is $$("$(PYTHON)" --version 2>&1)." \
			"Name another: make PYTHON=python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@set -f; settings=$$($(BIN)/python -m pip config list); \
	pip_has() { printf '%s\n' "$$settings" | sed -nE "s/^(:env:|global|install)\.$$1='(.*)'$$/\2/p" | head -n 1; }; \
	hand() { [ -z "$$2" ] || export "$$1=$$2"; }; \
	hand UV_FIND_LINKS "$${UV_FIND_LINKS:-$$(echo $$(pip_has find-links | sed 's/\\n/ /g') | tr ' ' ',')}"; \
	hand UV_DEFAULT_INDEX "$${UV_DEFAULT_INDEX:-$$(pip_has index-url)}"; \
	hand SSL_CERT_FILE "$${SSL_CERT_FILE:-$$(pip_has cert)}"; \
	set -x; DS_BUILD_OPS=0 $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@
