# make figures: everything, from an empty folder. make book: on the book's models.
# make test: the tests. make lint: style.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: figures book test lint

figures: .venv/installed
	$(BIN)/snakemake
	$(BIN)/snakemake --report results/report.html
	@echo "Figures: results/figures/   Tables: results/tables/   Report: results/report.html"

book: .venv/installed
	$(BIN)/snakemake --configfile config.book.yaml
	$(BIN)/snakemake --configfile config.book.yaml --report results/book.html
	@echo "Figures: results/figures/   Tables: results/tables/   Report: results/book.html"

test: .venv/tested
	$(BIN)/pytest

# The one lint not heeded: all rules share one environment, that of requirements.lock.
lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint 2>&1 | grep '^ *\* ' | grep --quiet 'conda environment or container'
	! $(BIN)/snakemake --lint 2>&1 | grep '^ *\* ' | grep -v 'conda environment or container'

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
