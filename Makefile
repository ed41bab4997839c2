# make figures: everything from an empty folder. make test: what CI runs first.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: figures test check clean

figures: .venv/installed
	$(BIN)/snakemake
	$(BIN)/snakemake --report results/report.html
	@echo "Figures: results/figures/   Report: results/report.html"

test: .venv/tested
	$(BIN)/pytest

# Torch goes first and with its own dependencies, which differ by platform; all else is locked.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv/tested: .venv/installed requirements-test.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-test.lock
	touch $@
