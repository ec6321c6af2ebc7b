.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
# The first Python 3.11 that runs; looked for only when something is to be set up.
PYTHON = $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && command -v $$p && break; done)

.PHONY: help setup demo test bench plants simulate audit lint lock clean

help:
	@echo "make demo    set everything up and run the main job on real data (ARGS='--help' tells of its options)"
	@echo "make test    set up what is missing, then run every check and test"
	@echo "make bench   measure this project beside its peers and write docs/benchmarks.md (ARGS=--quick is short)"
	@echo "make simulate  run the production engine in a simulated world, SEEDS=1000 of them (docs/reliability.md)"
	@echo "make plants  plant bugs in copies of the project and see that tests catch each (docs/testing.md)"
	@echo "make audit   look for known vulnerabilities in the locked packages"
	@echo "make setup   only set up: .venv with the locked packages and Triton's runtime"
	@echo "make lint    only style, types and the rules of who may import whom"
	@echo "make lock    resolve requirements.lock anew from pyproject.toml"
	@echo "make clean   remove .venv and caches; data stays"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml .ci/bootstrap.py
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: there is no Python 3.11 here ($$(python3 --version 2>&1 || echo 'no python3')) → install it" >&2; \
		exit 1; \
	fi
	@"$(PYTHON)" .ci/bootstrap.py

demo: setup
	@$(BIN)/fx demo $(ARGS)

audit: setup
	@$(PY) .ci/audit.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PY) -W ignore::DeprecationWarning -m mypy
	$(BIN)/lint-imports

test: lint
	$(PY) -m pytest -n 2 $(ARGS)

bench: setup
	@$(PY) -m bench $(ARGS)

SEEDS ?= 1000
simulate: setup
	@$(PY) -m tests.simulation --seeds $(SEEDS) $(ARGS)

plants: setup
	@$(PY) -m tests.plants $(ARGS)

# torch's local CPU build and the index's are one release: the lock file names the release only.
lock: setup
	$(PY) -m piptools compile --quiet --upgrade --extra dev --strip-extras --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
		--output-file requirements.lock.new pyproject.toml
	sed -i.bak -e 's/+cpu\([^[:alnum:]]\|$$\)/\1/' -e '/^# The following packages/,$$d' requirements.lock.new
	rm -f requirements.lock.new.bak
	mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
