# `make` alone lists the targets. The first call creates .venv and installs into it; later calls reuse it until
# pyproject.toml changes. What can be set on the command line:
#   PYTHON=python3.12       the interpreter for .venv (3.10 to 3.12; default: the first of these found)
#   PIP_ARGS="..."          passed on to pip install, e.g. an extra index that offers CPU-only torch
#   UV=1                    use uv instead of venv and pip (fetches a fitting Python by itself)
#   VENV=path               another place for the environment
#   JOBS=4                  processes that share the tests (about 1.5 GB each)
#   ARGS="..."              passed on to pytest by test and test-slow, e.g. ARGS="-k replay -x", tutorial and fingerprint

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV ?= .venv
JOBS ?= 2
UV ?=
ARGS ?=

PY_FITS := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	if $$p -c '$(PY_FITS)' >/dev/null 2>&1; then echo $$p; break; fi; done)

BIN := $(VENV)/bin

ifeq ($(UV),)
INSTALL = "$(BIN)/python" -m pip install $(PIP_ARGS)
FREEZE = "$(BIN)/python" -m pip freeze --exclude-editable
else
INSTALL = uv pip install --python "$(BIN)/python" $(PIP_ARGS)
FREEZE = uv pip freeze --python "$(BIN)/python" --exclude-editable
endif

.PHONY: help quickstart test test-slow check docs tables evidence tutorial fmt smoke fingerprint versions

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

quickstart: $(VENV)/.installed ## install, then train the small agent of configs/quickstart.yaml (about 5 minutes on 2 cores)
	$(BIN)/plasticity-rl fit --config configs/quickstart.yaml

# By file, so that what the tests of a file share is made once; xdist 3.8 groups nothing by marks with pytest 9.2
# (pytest-xdist issue 1386).
test: $(VENV)/.installed-dev ## install with the developer tools, then run the test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(VENV)/.installed-dev ## run the tests marked slow (examples, long runs)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow $(ARGS)

check: $(VENV)/.installed-dev docs ## lint, formatting, types, the order of the packages and the documentation, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-cache

docs: $(VENV)/.installed-dev ## build the documentation site into site/ (site/index.html): a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

tables: $(VENV)/.installed-dev ## write the tables of the pages in docs/ from docstrings and the comments of YAML files
	$(BIN)/python docs/tables.py

evidence: $(VENV)/.installed-dev ## write what docs/results.md and docs/choosing.md say of the kept runs in docs/evidence
	$(BIN)/python docs/evidence.py && $(BIN)/python docs/claims.py && $(BIN)/python docs/side_by_side.py

tutorial: $(VENV)/.installed-dev ## run docs/tutorial.md (about 10 minutes) and write its pictures and outputs
	$(BIN)/python docs/tutorial.py $(ARGS)

fmt: $(VENV)/.installed-dev ## format, and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

smoke: $(VENV)/.installed ## a run of about a minute in a temporary folder: does training work on this machine?
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT INT TERM && set -x && \
	$(BIN)/plasticity-rl fit --config configs/quickstart.yaml --max_frames 4000 --trainer.default_root_dir "$$dir"

fingerprint: $(VENV)/.installed ## hashes of five trained configurations (minutes); ARGS="--out FILE" before a change, "--compare FILE" after
	@$(BIN)/python -m benchmarks.fingerprint $(ARGS)

versions: $(VENV)/.installed-dev ## write what is installed to docs/versions/pythonX.Y.txt, for pip install -c; after a green CI
	@mkdir -p docs/versions && file=docs/versions/python$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt && { \
	echo "# What CI passed with, taken as pip offered it; by make versions. To install just this: pip install -c $$file -e ."; \
	$(FREEZE); } >"$$file.new" && mv "$$file.new" "$$file" && echo "$$file"

# The stamps are newer than pyproject.toml when what it asks for is installed.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed $@

$(BIN)/python:
ifeq ($(UV),)
	@'$(PYTHON)' -c '$(PY_FITS)' 2>/dev/null || { \
	echo "error: needs Python 3.10, 3.11 or 3.12 (found: $(or $(PYTHON),none)). Install one and name it, e.g. make $(MAKECMDGOALS) PYTHON=python3.12, or let uv fetch it: make $(MAKECMDGOALS) UV=1" >&2; exit 1; }
	@'$(PYTHON)' -m venv '$(VENV)' || { rm -rf '$(VENV)'; \
	echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv, or use uv: make $(MAKECMDGOALS) UV=1" >&2; exit 1; }
	-@$(INSTALL) --quiet --upgrade pip # the pip that comes with Python 3.10 can take many minutes to resolve this
else
	uv venv --python '>=3.10,<3.13' '$(VENV)'
endif
