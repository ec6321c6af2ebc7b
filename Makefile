.DEFAULT_GOAL := help
TRITON_WHEEL := nvidia-pytriton==0.7.0
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: help setup demo test lock clean

help:
	@echo "make demo   set everything up and run the main job on real data"
	@echo "make test   set up what is missing and run every check and test"

setup: $(VENV)/.ready

# Triton's wheel asks for numpy < 2; it is installed beside the environment and runs under it.
$(VENV)/.ready: requirements.lock pyproject.toml
	python3 -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -q -r requirements.lock
	$(PY) -m pip install --disable-pip-version-check -q --no-deps -e .
	$(PY) -m pip install --disable-pip-version-check -q --no-deps --upgrade --target $(VENV)/triton $(TRITON_WHEEL)
	touch $@

demo: setup
	$(VENV)/bin/fx demo

test: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m pytest
