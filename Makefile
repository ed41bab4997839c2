# make figures       everything, from an empty folder
# make book          the same on the book's models
# make plan          what that will cost, before anything runs
# make verify        are all products as they were made?
# make test          the tests; make torture: half an hour more; make cluster-test: on a Slurm
# make benchmark     docs/benchmarks.md
# make docs          the documentation: build/docs/index.html
# make lint          style
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: figures book plan verify test torture cluster-test benchmark docs lint

figures: .venv/installed
	$(call stages,,results/report.html)

book: .venv/installed
	$(call stages,--configfile config.book.yaml,results/book.html)

# What only draws. If nothing else has changed since the report, no dry run is needed.
DRAWING := scripts/figure.py scripts/table.py microtome/figures report \
	$(foreach file,figures.py tables.py README.md,$(wildcard studies/*/$(file)))
ALL_ELSE := $(filter-out $(DRAWING), Snakefile rules $(wildcard scripts/* microtome/* studies/*/* *.yaml) \
	stimuli requirements.lock)

# $(call stages,OPTIONS,REPORT): run the stages that have something to do, then make the report.
# Within one call, Snakemake plans everything downstream of a job. With a call for each stage, a
# product that is made again with the same bytes makes nothing downstream stale.
define stages
	@newer() { find "$$@" -type f ! -path '*/__pycache__/*' -newer $(2) 2>/dev/null; }; \
	changed() { test ! -e $(2) || newer "$$@" | grep --quiet .; }; \
	planned() { echo "$$plan" | grep --quiet --extended-regexp "$$1"; }; \
	run() { $(BIN)/snakemake "$$@" $(1) || exit; }; \
	plan="only figures and tables"; \
	if changed $(ALL_ELSE) || ! changed $(DRAWING); then \
		plan=$$(run --dry-run 2>&1) || { echo "$$plan"; exit 1; }; \
	fi; \
	if planned 'rule (fetch_model|token_table|activations_|intervention_|statistic_)'; then \
		run tokens; run activations; run statistics; \
	fi; \
	planned 'Nothing to be done' || run all --report $(2) --report-after-run; \
	! changed $(DRAWING) results/figures results/tables || run --report $(2)
	@echo "Figures: results/figures/   Tables: results/tables/   Report: $(2)"
endef

# For another config: make plan CONFIG=config.book.yaml
plan: .venv/installed
	@$(BIN)/snakemake plan --quiet all $(if $(CONFIG),--configfile $(CONFIG))

# Compare every product with the checksum that was recorded when it was made.
verify: .venv/installed
	$(BIN)/python -m microtome.workflow.verify

# Two processes, which take whole files, since the tests in a file share models and runs.
# tests/conftest.py puts long files first.
test: .venv/tested
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# All cases of which the tests take a few: kills at twenty moments, a run after every edit.
torture: .venv/tested
	$(BIN)/pytest -m torture

# As root, on Debian: installs Slurm and munge, and runs them on loopback during the tests.
cluster-test: .venv/tested .venv/cluster
	@test "$$(id -u)" = 0 || { echo "make cluster-test: starts daemons of Slurm; run it as root"; exit 1; }
	@command -v slurmctld slurmd munged >/dev/null || { \
		command -v apt-get >/dev/null || { echo "make cluster-test: no apt-get; install slurm-wlm and munge"; exit 1; }; \
		apt-get update --quiet=2 && apt-get install --quiet=2 --no-install-recommends slurm-wlm munge; }
	PYTHONPATH=$(CURDIR)/.venv/cluster $(BIN)/pytest -m cluster

# All rows, on an otherwise idle machine. Some of them: make benchmark ROWS="layer-6 zero-heads".
PEERS := transformer-lens nnsight
benchmark: .venv/tested $(PEERS:%=results/benchmarks/environments/%/installed)
	$(BIN)/python -m benchmarks $(ROWS)

results/benchmarks/environments/%/installed: benchmarks/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet -r $<
	touch $@

# Without a network; a warning, such as a link that leads nowhere, is an error.
docs: .venv/documented
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going \
		--conf-dir docs --doctree-dir build/doctrees . build/docs
	@echo "Documentation: build/docs/index.html"

# One lint is ignored: all rules share one environment, that of requirements.lock.
lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint 2>&1 | grep '^ *\* ' | grep --quiet 'conda environment or container'
	! $(BIN)/snakemake --lint 2>&1 | grep '^ *\* ' | grep -v 'conda environment or container'

# Torch is installed first with its dependencies, which differ by platform. The rest is locked.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# Snakemake's plugins for Slurm, in a folder of their own: it imports every installed plugin at each
# start.
.venv/cluster: .venv/installed requirements-cluster.lock
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ -r requirements-cluster.lock
	touch $@

.venv/tested: .venv/installed requirements-test.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-test.lock
	touch $@

.venv/documented: .venv/installed requirements-docs.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-docs.lock
	touch $@
