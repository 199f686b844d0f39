# make demo, make test and make lint need Python >= 3.11 and a network for pip, nothing else.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint clean

# Phantoms, a small network trained on them, and its report: minutes on two CPU cores.
demo: .venv/installed
	$(BIN)/python train.py --config configs/phantom.py --workdir runs/demo
	$(BIN)/python eval.py --workdir runs/demo --overwrite

test: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ .venv/installed

clean:
	rm -rf .venv
