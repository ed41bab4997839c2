# make help: what there is to make. make alone: the figures.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: figures book plan report verify test chromium torture cluster-test benchmark docs \
	lint lint-style lint-types lint-rules help

figures: .venv/installed  ## everything, from an empty folder to the page; V=1 shows all that Snakemake says
	@$(BIN)/microtome run $(if $(V),-v)

book: .venv/installed  ## the same on the book's models, from the hub (26 GB)
	@$(BIN)/microtome run $(if $(V),-v) --configfile config.book.yaml

plan: .venv/installed  ## what a run will cost: disk, memory, time; CONFIG=mine.yaml
	@$(BIN)/microtome plan $(if $(CONFIG),--configfile $(CONFIG))

report: .venv/installed  ## Snakemake's own report: figures by study and model, then the graph of rules
	$(BIN)/snakemake all --report results/report.html --report-metadata report/metadata.yaml \
		$(if $(CONFIG),--configfile $(CONFIG))

verify: .venv/installed  ## are all products as they were made?
	@$(BIN)/microtome verify

# Two processes, which take whole files, since the tests in a file share models and runs.
# tests/conftest.py puts long files first.
test: .venv/tested chromium  ## the tests
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# A browser for the tests of the page; on Debian, as root, it is installed.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
		command -v apt-get >/dev/null && test "$$(id -u)" = 0 || { echo "make test: no Chromium; install it"; exit 1; }; \
		apt-get update --quiet=2 && apt-get install --quiet=2 --no-install-recommends chromium; }

# All cases of which the tests take a few: kills at twenty moments, a run after every edit.
torture: .venv/tested  ## more of them, for half an hour
	$(BIN)/pytest -m torture

# As root, on Debian: installs Slurm and munge, and runs them on loopback during the tests.
cluster-test: .venv/tested .venv/cluster  ## the tests on a Slurm of their own (as root, on Debian)
	@test "$$(id -u)" = 0 || { echo "make cluster-test: starts daemons of Slurm; run it as root"; exit 1; }
	@command -v slurmctld slurmd munged >/dev/null || { \
		command -v apt-get >/dev/null || { echo "make cluster-test: no apt-get; install slurm-wlm and munge"; exit 1; }; \
		apt-get update --quiet=2 && apt-get install --quiet=2 --no-install-recommends slurm-wlm munge; }
	PYTHONPATH=$(CURDIR)/.venv/cluster $(BIN)/pytest -m cluster

# On an otherwise idle machine.
PEERS := transformer-lens nnsight datasets saelens
benchmark: .venv/tested $(PEERS:%=results/benchmarks/environments/%/installed)  ## docs/benchmarks.md; ROWS="layer-6 zero-heads" for some of it
	$(BIN)/python -m benchmarks $(ROWS)

results/benchmarks/environments/%/installed: benchmarks/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet -r $<
	touch $@

# Without a network; a warning, such as a link that leads nowhere, is an error.
docs: .venv/documented  ## the documentation: build/docs/index.html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going \
		--conf-dir docs --doctree-dir build/doctrees . build/docs
	@echo "Documentation: build/docs/index.html"

# The hooks of .pre-commit-config.yaml run these three.
lint: lint-style lint-types lint-rules  ## style and types

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

help:  ## this list
	@sed -En 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand --tabs=20

# Packages are installed by uv where there is one, else by pip. What they print goes into a log.
LOG := .venv/install.log
logged = @$(1) >>$(LOG) 2>&1 || { echo "make: $@ failed; the end of $(LOG):"; tail -n 20 $(LOG); exit 1; }
ifneq ($(shell command -v uv),)
INSTALLER := uv
# uv does not read how pip is configured, and is told: where packages lie, and certificates.
AS_PIP = $(eval AS_PIP := $$(shell $(PYTHON) -m pip config list 2>/dev/null | sort -r | sed -En \
	-e '/find-links=/s/ /,/g' -e "s/^[^=]*\.find-links=/UV_FIND_LINKS=/p" \
	-e "s/^[^=]*\.index-url=/UV_DEFAULT_INDEX=/p" -e "s/^[^=]*\.extra-index-url=/UV_INDEX=/p" \
	-e "s/^[^=]*\.cert=/SSL_CERT_FILE=/p"))$(AS_PIP)
VENV = uv venv --allow-existing --seed --no-python-downloads --python $(PYTHON) .venv
INSTALL = $(AS_PIP) UV_INDEX_STRATEGY=unsafe-best-match uv pip install --python .venv --compile-bytecode
else
INSTALLER := pip
VENV = $(PYTHON) -m venv .venv
INSTALL = $(BIN)/pip install --progress-bar off --no-compile
# On all cores. Some packages have files that no Python 3 can compile.
COMPILE = @$(BIN)/python -m compileall -q -j 0 .venv/lib >>$(LOG) 2>&1 || true
endif

# All is locked but what torch depends on, which differs by platform.
.venv/installed: requirements.lock pyproject.toml
	@mkdir -p .venv && : >$(LOG)
	@echo "Installing packages into .venv with $(INSTALLER); what it says is in $(LOG)"
	$(call logged,$(VENV))
	$(call logged,$(INSTALL) --no-deps -r requirements.lock)
	$(call logged,$(INSTALL) $(TORCH))
	$(call logged,$(INSTALL) --no-deps --no-build-isolation -e .)
	$(COMPILE)
	@touch $@

# Snakemake's plugins for Slurm, in a folder of their own: it imports every installed plugin at each
# start.
.venv/cluster: .venv/installed requirements-cluster.lock
	$(call logged,$(INSTALL) --no-deps --upgrade --target $@ -r requirements-cluster.lock)
	@touch $@

.venv/tested: .venv/installed requirements-test.lock
	$(call logged,$(INSTALL) --no-deps -r requirements-test.lock)
	$(COMPILE)
	@touch $@

.venv/documented: .venv/installed requirements-docs.lock
	$(call logged,$(INSTALL) --no-deps -r requirements-docs.lock)
	$(COMPILE)
	@touch $@
