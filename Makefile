# All need Python >= 3.11 and an internet connection for pip, nothing else.
PYTHON ?= python3
BIN = .venv/bin

# The newest Python that is found: on the path, or among pyenv's.
NEWEST = $(shell for p in python3.14 python3.13 python3.12 $$(ls -d $$HOME/.pyenv/versions/3.1*/bin/python3 2>/dev/null | sort -Vr) python3; do $$p -c "" 2>/dev/null && echo $$p && break; done)

.PHONY: demo docs model test test-newest lint lock audit clean

# Phantoms, a small network trained on them, and its report: minutes on two CPU cores.
demo: .venv/installed
	$(BIN)/python train.py --config configs/phantom.py --workdir runs/demo
	$(BIN)/python eval.py --workdir runs/demo --overwrite

test: .venv/installed-dev
	$(BIN)/python -m pytest

# The suite with the newest versions of everything, in an environment of its own.
test-newest:
	$(NEWEST) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e .[dev]
	.venv-newest/bin/python -m pip list --disable-pip-version-check
	.venv-newest/bin/python -m pytest

# The model `sarcoma` anew, from the public patients: the same digest on the same processor.
model: .venv/installed
	$(BIN)/isanet prepare sts --download --output cases/sts32 --size 32
	for seed in 0 1; do for form in "" :soft; do \
	  $(BIN)/isanet train --config sarcoma$$form --config.seed=$$seed --workdir runs/sarcoma$$seed$${form#:} || exit 1; \
	done; done
	$(BIN)/python configs/sarcoma_card.py runs/sarcoma0 runs/sarcoma0soft runs/sarcoma1 runs/sarcoma1soft

# The documentation as a site, into site/.
docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Every package that requirements.txt needs, with the hashes of its files.
lock: .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9
	head -2 requirements-locked.txt > .locked
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements.txt >> .locked
	mv .locked requirements-locked.txt

# Known advisories of these versions; fails, too, where no database of them can be reached.
audit: .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements-locked.txt

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
	rm -rf .venv .venv-newest
