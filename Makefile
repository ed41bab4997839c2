# make figures: everything, from an empty folder. make book: on the book's models.
# make verify: are all products as they were made? make test: the tests.
# make torture: more of them, for half an hour. make lint: style.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: figures book verify test torture lint

figures: .venv/installed
	$(call stages,,results/report.html)

book: .venv/installed
	$(call stages,--configfile config.book.yaml,results/book.html)

# Nothing is run where a dry run finds nothing to do.
define stages
	@plan=$$($(BIN)/snakemake --dry-run $(1) 2>&1) || { echo "$$plan"; exit 1; }; \
	case "$$plan" in *"Nothing to be done"*) ;; *) \
		for stage in tokens activations statistics all; do $(BIN)/snakemake $$stage $(1) || exit; done \
	esac
	@test -e $(2) && test -z "$$(find report results/figures results/tables -newer $(2) -print -quit)" \
		|| $(BIN)/snakemake --report $(2) $(1)
	@echo "Figures: results/figures/   Tables: results/tables/   Report: $(2)"
endef

# Compare every product with the checksum that was noted when it was made.
verify: .venv/installed
	$(BIN)/python -m microtome.products

# Two at a time, a file each: the tests of a file share models and runs.
test: .venv/tested
	$(BIN)/pytest --numprocesses 2 --dist loadfile

# What the tests take a few cases of: kills at twenty moments, a run after every edit.
torture: .venv/tested
	$(BIN)/pytest -m torture

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
