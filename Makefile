# All need Python >= 3.11 and an internet connection for pip, nothing else.
PYTHON ?= python3
BIN = .venv/bin
ISANET = $(BIN)/python -m isanet_jax

# The newest Python that is found: on the path, or among pyenv's.
NEWEST = $(shell for p in python3.14 python3.13 python3.12 $$(ls -d $$HOME/.pyenv/versions/3.1*/bin/python3 2>/dev/null | sort -Vr) python3; do $$p -c "" 2>/dev/null && echo $$p && break; done)

.PHONY: demo docs model tables test test-newest lint lock audit clean

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

# Of the public patients, those that `sarcoma` learns from; the others are left to try it on.
LEARNT = 001 002 003 004 005 007 008 009 010 011 012 014 016 017 019 020 021 023 024 026 \
  027 028 029 033 034 035 036 037 038 042 044 045 046 047 048 049

# The model `sarcoma` anew, from the public patients: the same digest on the same processor.
model: .venv/installed
	$(ISANET) prepare sts --download --source cases/sts_all --output cases/sts32_all --size 32
	mkdir -p cases/sts_learnt
	for id in $(LEARNT); do ln -sfn ../sts_all/STS_$$id cases/sts_learnt/STS_$$id; done
	$(ISANET) prepare sts --source cases/sts_learnt --output cases/sts32 --size 32
	for seed in 0 1; do for form in "" :soft; do \
	  $(ISANET) train --config sarcoma$$form --config.seed=$$seed --workdir runs/sarcoma$$seed$${form#:} || exit 1; \
	done; done
	$(ISANET) bundle --workdir runs/sarcoma0 runs/sarcoma0soft runs/sarcoma1 runs/sarcoma1soft \
	  --output isanet_jax/models/sarcoma.isanet --overwrite \
	  --intended-use "Research: soft-tissue sarcomas of the extremities, FDG PET/CT of a field around the leg or arm. It is no medical device, and its masks need a physician's eyes." \
	  --limits "Nested, five folds of the 36 public patients, two networks each: mean DSC 0.759, median 0.810, lesion F1 0.90 on the fields as they are; 0.774, 0.804 and 0.94 on fields cut anew. An ellipsoid in the middle of the field, drawn without any image, has 0.71 and 0.57. The public copy ends 5 cm around each tumour; training cut the field at random. Whole bodies, other tumours, other tracers and scanners were not tried; isanet predict warns where a scan is unlike these." \
	  --licence "Weights: CC BY 3.0, as the data (TCIA Soft-tissue-Sarcoma)." \
	  --citation "Vallieres M et al. 2015, doi 10.7937/K9/TCIA.2015.7GO2GSKS and 10.1088/0031-9155/60/14/5471; the NIfTI copy: theibsi/data_sets."

# The tables beside nnU-Net, on fields cut anew and as they are: ellipsoid, ours, nnU-Net's.
# `make tables BUDGET="--minutes 5"`, or `"--folds 0 --minutes 5"`; SOURCE are the patients.
SOURCE ?= cases/sts_learnt
BUDGET ?= --minutes 5 20
TABLES = runs/tables
tables: .venv/installed-dev $(TABLES)/field.txt
	@test "$$(cat $(TABLES)/source)" = "$(SOURCE)" || \
	  { echo "$(TABLES) is of the patients in $$(cat $(TABLES)/source): move it away first"; exit 1; }
	$(ISANET) prepare table --source $(TABLES)/sts_cut/cases.csv --output $(TABLES)/cut32 --size 32
	$(ISANET) prepare sts --source $(SOURCE) --output $(TABLES)/sts32 --size 32
	$(BIN)/python -m benchmarks.nnunet --source $(TABLES)/sts_cut/cases.csv \
	  --cases $(TABLES)/cut32 --workdir $(TABLES)/cut --order strong $(BUDGET)
	$(BIN)/python -m benchmarks.nnunet --source $(SOURCE) \
	  --cases $(TABLES)/sts32 --workdir $(TABLES)/as_they_are --order strong $(BUDGET)
	@echo; echo "Fields cut anew:"; cat $(TABLES)/cut/table.md
	@echo; echo "Fields as they are (they give the tumour away):"; cat $(TABLES)/as_they_are/table.md
	@echo; cat $(TABLES)/field.txt

$(TABLES)/field.txt: | .venv/installed-dev
	mkdir -p $(TABLES)
	rm -rf $(TABLES)/sts_cut
	$(BIN)/python -m benchmarks.field --source $(SOURCE) --output $(TABLES)/sts_cut > $@.part
	echo "$(SOURCE)" > $(TABLES)/source
	mv $@.part $@

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
