# make figures: everything, from an empty folder. make book: on the book's models.
# make plan: what that will cost, before anything runs. make verify: are all products as they were
# made? make test: the tests. make torture: more of them, for half an hour. make cluster-test: on a
# Slurm of its own. make benchmark: docs/benchmarks.md. make lint: style.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: figures book plan verify test torture cluster-test benchmark lint

figures: .venv/installed
	$(call stages,,results/report.html)

book: .venv/installed
	$(call stages,--configfile config.book.yaml,results/book.html)

# What only draws. If nothing else has changed since the report, no dry run has to tell what to do.
DRAWING := scripts/figures scripts/tables microtome/figures report
ALL_ELSE := $(filter-out $(DRAWING), Snakefile rules $(wildcard scripts/* microtome/* *.yaml) stimuli \
	requirements.lock)

# $(call stages,OPTIONS,REPORT): Snakemake plans all that follows a job at once. In stages, what
# comes out with the same bytes makes nothing behind it stale.
define stages
	@newer() { find "$$@" -type f ! -path '*/__pycache__/*' -newer $(2) 2>/dev/null; }; \
	changed() { test ! -e $(2) || newer "$$@" | grep --quiet .; }; \
	planned() { echo "$$plan" | grep --quiet --extended-regexp "$$1"; }; \
	run() { $(BIN)/snakemake "$$@" $(1) || exit; }; \
	plan="only figures and tables"; \
	if changed $(ALL_ELSE) || ! changed $(DRAWING); then \
		plan=$$(run --dry-run 2>&1) || { echo "$$plan"; exit 1; }; \
	fi; \
	if planned 'rule (fetch_model|token_table|activations_|statistic_)'; then \
		run tokens; run activations; run statistics; \
	fi; \
	planned 'Nothing to be done' || run all --report $(2) --report-after-run; \
	! changed $(DRAWING) results/figures results/tables || run --report $(2)
	@echo "Figures: results/figures/   Tables: results/tables/   Report: $(2)"
endef

# Of another config: make plan CONFIG=config.book.yaml
plan: .venv/installed
	@$(BIN)/snakemake plan --quiet all $(if $(CONFIG),--configfile $(CONFIG))

# Compare every product with the checksum that was noted when it was made.
verify: .venv/installed
	$(BIN)/python -m microtome.workflow.verify

# Two at a time, a file each: the tests of a file share models and runs. Long files go first, as
# tests/conftest.py puts them.
test: .venv/tested
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# What the tests take a few cases of: kills at twenty moments, a run after every edit.
torture: .venv/tested
	$(BIN)/pytest -m torture

# As root, on Debian: installs Slurm and munge, and starts them on loopback for as long as it runs.
cluster-test: .venv/tested .venv/cluster
	@test "$$(id -u)" = 0 || { echo "make cluster-test: starts daemons of Slurm; run it as root"; exit 1; }
	@command -v slurmctld slurmd munged >/dev/null || { \
		command -v apt-get >/dev/null || { echo "make cluster-test: no apt-get; install slurm-wlm and munge"; exit 1; }; \
		apt-get update --quiet=2 && apt-get install --quiet=2 --no-install-recommends slurm-wlm munge; }
	PYTHONPATH=$(CURDIR)/.venv/cluster $(BIN)/pytest -m cluster

# All rows, on a machine that does nothing else; some: make benchmark ROWS="layer-6 scaling".
PEERS := transformer-lens nnsight
benchmark: .venv/tested $(PEERS:%=results/benchmarks/environments/%/installed)
	$(BIN)/python -m benchmarks $(ROWS)

results/benchmarks/environments/%/installed: benchmarks/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet -r $<
	touch $@

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

# What a cluster needs besides, beside the rest: Snakemake imports each plugin it finds at every start.
.venv/cluster: .venv/installed requirements-cluster.lock
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ -r requirements-cluster.lock
	touch $@

.venv/tested: .venv/installed requirements-test.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-test.lock
	touch $@
