# Every target sets up what it needs. On a machine that has its own environment and no network:
#     make test-gpu PYTHON=python3 SETUP=
VENV   = .venv
PYTHON = $(VENV)/bin/python
SETUP  = $(VENV)/.stamp
JOBS   = 2
# The CUDA major of the extra: cuda13 or cuda12. `compile` is enough where nothing is launched.
EXTRAS = dev,torch,cuda13,sass,viz

BASE_PYTHON = python3
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --no-input

# Also for programs that a test starts, and for a PYTHON in which attncc is not installed.
export PYTHONPATH = $(CURDIR)

.DEFAULT_GOAL = help
.PHONY: help setup demo test test-gpu fuzz bench lint format clean

help:
	@echo 'make demo      compile three variants, draw a mask, compute a batch'
	@echo 'make test      lint, types and every test that needs no GPU'
	@echo 'make test-gpu  the tests that need a GPU'
	@echo 'make fuzz      the fuzzers in full'
	@echo 'make bench     the benchmarks (GPU)'
	@echo 'make lint      ruff and mypy'
	@echo 'make format    rewrite the sources as ruff formats them'
	@echo 'make setup     only the virtual environment'

setup: $(SETUP)

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(BASE_PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("attncc needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Name another: make setup BASE_PYTHON=python3.12")'
	@echo 'setting up $(VENV): a minute or two, once'
	@test -x $(VENV)/bin/python || $(BASE_PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --constraint constraints.txt setuptools
	@$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(SETUP)
	@$(PYTHON) examples/demo.py

test: lint
	$(PYTHON) -m pytest tests -m 'not gpu' -n $(JOBS) -q

test-gpu: $(SETUP)
	$(PYTHON) -m pytest tests/gpu -m gpu --require-gpu -q

fuzz: $(SETUP)
	$(PYTHON) -m pytest tests/fuzz --fuzz-full --timeout=0 -n $(JOBS) -q

bench: $(SETUP)
	@set -e; for script in $(wildcard benchmarks/*.py); do echo "== $$script"; $(PYTHON) "$$script"; done

lint: $(SETUP)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

format: $(SETUP)
	$(PYTHON) -m ruff check --fix-only
	$(PYTHON) -m ruff format

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
