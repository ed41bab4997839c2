# make figures       everything, from an empty folder
# make book          the same on the book's models
# make plan          what that will cost, before anything runs
# make report        Snakemake's own report: results/report.html
# make verify        are all products as they were made?
# make test          the tests; make torture: half an hour more; make cluster-test: on a Slurm
# make benchmark     docs/benchmarks.md
# make docs          the documentation: build/docs/index.html
# make lint          style and types
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: figures book plan report verify test chromium torture cluster-test benchmark docs \
	lint lint-style lint-types lint-rules

# All that Snakemake says: make figures V=1
figures: .venv/installed
	@$(BIN)/microtome run $(if $(V),-v)

book: .venv/installed
	@$(BIN)/microtome run $(if $(V),-v) --configfile config.book.yaml

# For another config: make plan CONFIG=config.book.yaml
plan: .venv/installed
	@$(BIN)/microtome plan $(if $(CONFIG),--configfile $(CONFIG))

# Snakemake's own report of what was made, for another config likewise: figures by study and model,
# then the graph of rules.
report: .venv/installed
	$(BIN)/snakemake all --report results/report.html --report-metadata report/metadata.yaml \
		$(if $(CONFIG),--configfile $(CONFIG))

# Compare every product with the checksum that was recorded when it was made.
verify: .venv/installed
	@$(BIN)/microtome verify

# Two processes, which take whole files, since the tests in a file share models and runs.
# tests/conftest.py puts long files first.
test: .venv/tested chromium
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# A browser for the tests of the page; on Debian, as root, it is installed.
chromium:
	@command -v chromium chromium-browser >/dev/null || { \
		command -v apt-get >/dev/null && test "$$(id -u)" = 0 || { echo "make test: no Chromium; install it"; exit 1; }; \
		apt-get update --quiet=2 && apt-get install --quiet=2 --no-install-recommends chromium; }

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

# The hooks of .pre-commit-config.yaml run these three.
lint: lint-style lint-types lint-rules

lint-style: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: .venv/tested
	$(BIN)/mypy

# One lint is ignored: all rules share one environment, that of requirements.lock.
lint-rules: .venv/tested
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
