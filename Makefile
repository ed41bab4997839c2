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

# A dry run tells which stages have something to do; where nothing but drawing has changed since the
# report, the last one has, and its run makes the report too.
DRAWING := scripts/figures scripts/tables microtome/figures report
ALL_ELSE := $(filter-out $(DRAWING), Snakefile rules $(wildcard scripts/* microtome/* *.yaml) stimuli \
	requirements.lock)

define stages
	@newer() { find "$$@" -type f ! -path '*/__pycache__/*' -newer $(2) -print -quit 2>&1; }; \
	if test -z "$$(newer $(ALL_ELSE))" && test "$$(newer $(DRAWING))"; then stages=all; else \
		plan=$$($(BIN)/snakemake --dry-run $(1) 2>&1) || { echo "$$plan"; exit 1; }; \
		case "$$plan" in \
			*"Nothing to be done"*) stages= ;; \
			*"rule fetch_model:"* | *"rule token_table:"* | *"rule activations_"* | *"rule statistic_"*) \
				stages="tokens activations statistics all" ;; \
			*) stages=all ;; \
		esac; \
	fi; \
	for stage in $$stages; do \
		test $$stage = all && report="--report $(2) --report-after-run"; \
		$(BIN)/snakemake $$stage $(1) $$report || exit; \
	done; \
	test -z "$$(newer $(DRAWING) results/figures results/tables)" || $(BIN)/snakemake --report $(2) $(1)
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
