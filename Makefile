# make tutorial   every notebook executed in order, gallery in build/gallery/index.html
# make test       style check, then the whole test suite (which executes the notebooks too)
# make lab        JupyterLab on the notebooks
# make bench      what quality control costs beyond its arithmetic, as ratios (python -m benchmarks.cost)
# make env        the environment alone, in .venv; the four above build it when it is missing or out of date
# make clean      removes build/ and caches; make clean-all removes .venv as well
#
# Options: PYTHON=/path/to/python3.11   the interpreter .venv is made from
#          ARGS="..."                   handed on, e.g. make test ARGS="-k cohort", make tutorial ARGS="02 -p seed=1"

VENV := .venv
BIN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	if "$$name" -c '$(SUPPORTED)' >/dev/null 2>&1; then echo "$$name"; break; fi; done)
ARGS ?=
# wheels only, but for what is published as plain Python source alone: neuroCombat, and what NVIDIA FLARE reads its settings with
QUIET := -qq --disable-pip-version-check --no-input --only-binary :all: --no-binary pyhocon,neurocombat

.DEFAULT_GOAL := help
.PHONY: help tutorial test lab bench env clean clean-all

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' Makefile

tutorial: $(STAMP)
	@$(BIN) notebooks/execute.py $(ARGS)

test: $(STAMP)
	@$(BIN) -m ruff check
	@$(BIN) -m pytest $(ARGS)

lab: $(STAMP)
	@$(BIN) -m jupyterlab $(ARGS) notebooks

bench: $(STAMP)
	@$(BIN) -m benchmarks.cost $(ARGS)

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@python="$(PYTHON)"; \
	if ! "$$python" -c '$(SUPPORTED)' >/dev/null 2>&1; then \
		echo "dqc needs Python 3.11, 3.12 or 3.13; $${python:-python3} is $$("$${python:-python3}" --version 2>&1 || true)." >&2; \
		echo "Name an interpreter, for example: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	if ! { $(BIN) -c '$(SUPPORTED)' && $(BIN) -m pip --version; } >/dev/null 2>&1; then \
		"$$python" -m venv --clear $(VENV) || { \
			echo "$$python cannot make a virtual environment; on Debian and Ubuntu install the package python3-venv." >&2; \
			exit 1; \
		}; \
	fi
	@echo "Installing the environment into $(VENV) (once; a few minutes, 3.9 GB) ..."
	@$(BIN) -m pip install $(QUIET) "pip>=25.1"  # the first one that knows --group
	@$(BIN) -m pip install $(QUIET) -c constraints.txt -e . --group dev
	@touch $(STAMP)

clean:
	@rm -rf build .pytest_cache .ruff_cache .hypothesis .coverage htmlcov *.egg-info
	@find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +

clean-all: clean
	@rm -rf $(VENV)
