# A fresh machine needs python3 with venv, and make. Each target makes the virtual environment that it needs:
# .venv, or .venv-* for `make test-all`. Options: PYTHON=python3.12, PYTEST_ARGS=-x, ARGS=PATH (demo),
# CHAOS_EXAMPLES=1000 and CHAOS_SEED=1 (chaos).

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
ARGS ?=
CONSTRAINTS := constraints.txt
VERSIONS := 3.11 3.12
NEWEST := 3.13
QUICK := not server and not slow and not chaos

BIN := $(VENV)/bin
# Environments made for another Python are made anew.
MADE := $(VENV)/.made-for$(subst /,-,$(PYTHON))
PINNED := -c $(CONSTRAINTS)

# uv is fast, pip knows indexes that only pip is told of; both take the same arguments.
install = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || $(BIN)/python -m pip install --quiet $(1)

# The newest python3.x on PATH or among pyenv's that starts; empty where there is none.
find_python = for python in python$(1) \
	$$(ls -d "$${PYENV_ROOT:-$$(pyenv root 2>/dev/null || echo "$$HOME/.pyenv")}"/versions/$(1).*/bin/python 2>/dev/null | sort -rV); \
	do "$$python" -c 'import venv' >/dev/null 2>&1 && command -v "$$python" && break; done

suite = $(MAKE) --no-print-directory suite

.DEFAULT_GOAL := help
.PHONY: help demo notebook test test-all chaos lint bench constraints clean suite
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: $(VENV)/.demo ## see it work: a supervisor and its sub-agents review a source tree, without any key
	@$(BIN)/python -m agentos_parallel.demo $(ARGS)

notebook: $(VENV)/.notebook ## open the notebooks in JupyterLab; ARGS=--no-browser
	$(BIN)/jupyter lab $(ARGS) notebooks

test: $(VENV)/.test ## run the tests on one Python, with coverage
	$(BIN)/python -m pytest -m "$(QUICK)" --ignore=notebooks --cov --cov-report=term $(PYTEST_ARGS)

test-all: ## run all tests on every Python found here, on the lowest and on the newest versions admitted
	@found="$(PYTHON)"; for version in $(VERSIONS); do \
		python=$$($(call find_python,$$version)); \
		if [ -z "$$python" ]; then echo "== no Python $$version here: left out"; continue; fi; \
		found=$$python; \
		echo "== Python $$version"; \
		$(suite) PYTHON="$$python" VENV=.venv-$$version || exit 1; \
		if [ $$version = 3.12 ]; then \
			echo "== Python $$version, tasks started eagerly"; \
			$(suite) PYTHON="$$python" VENV=.venv-$$version MARKED="$(QUICK)" PYTEST_ARGS="--eager-tasks --ignore=tests/agents --ignore=notebooks" || exit 1; \
		fi; \
	done; \
	python=$$($(call find_python,$(NEWEST))); \
	if [ -z "$$python" ]; then echo "== no Python $(NEWEST) here: what follows on another"; python=$$found; fi; \
	echo "== uvloop, where no call may block the loop (the demo reads files)"; \
	$(suite) PYTHON="$$python" VENV=.venv-last MARKED="$(QUICK)" PYTEST_ARGS="--uvloop --blockbuster --ignore=tests/demo --ignore=tests/agents --ignore=notebooks" || exit 1; \
	echo "== asyncio's debug mode"; \
	PYTHONASYNCIODEBUG=1 $(suite) PYTHON="$$python" VENV=.venv-last MARKED="$(QUICK)" PYTEST_ARGS="--ignore=tests/adapters --ignore=tests/agents --ignore=notebooks" || exit 1; \
	for edge in lowest newest; do \
		echo "== Python $(NEWEST), the $$edge versions admitted"; \
		$(suite) PYTHON="$$python" VENV=.venv-$$edge STAMP=.$$edge || exit 1; \
	done

# One run; STAMP says of which versions, MARKED of which tests.
STAMP ?= .test
MARKED ?= not chaos
suite: $(VENV)/$(STAMP)
	$(BIN)/python -m pytest -m "$(MARKED)" $(PYTEST_ARGS)

chaos: $(VENV)/.test ## attack it: 20 000 random examples, a million tasks, planted faults; some minutes
	$(BIN)/python -m pytest tests/chaos -m chaos --no-header -q $(PYTEST_ARGS)

lint: $(VENV)/.dev ## check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.13
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## measure, with peers in the same run
	$(BIN)/python tests/benchmarks/run.py

constraints: $(MADE) ## renew constraints.txt: the newest versions that pyproject.toml admits
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --all-extras --group dev \
		--no-header --no-annotate --output-file $(CONSTRAINTS) pyproject.toml

clean: ## remove what was made, virtual environments included
	rm -rf .venv .venv-* build dist *.egg-info htmlcov .coverage .coverage.* .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE): pyproject.toml $(CONSTRAINTS)
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $$([ -e $@ ] || echo --clear) $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PINNED) pip uv
	@touch $@

$(VENV)/.demo: $(MADE)
	@$(call install,$(PINNED) -e '.[agents]')
	@touch $@

$(VENV)/.notebook: $(MADE)
	@$(call install,$(PINNED) -e '.[notebook]')
	@touch $@

$(VENV)/.test: $(MADE)
	@$(call install,$(PINNED) -e '.[agents]' --group test)
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: $(MADE)
	@$(call install,$(PINNED) -e '.[agents]' --group dev)
	@touch $@ $(VENV)/.demo $(VENV)/.test

$(VENV)/.lowest: $(MADE)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --resolution lowest-direct -e '.[agents]'
	@$(BIN)/uv pip freeze --python $(BIN)/python | grep -E '^(lang(chain|chain-core|graph)|pydantic|tenacity)=' >$@.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c $@.txt --group test-lowest
	@touch $@

$(VENV)/.newest: $(MADE)
	@$(call install,--upgrade -e '.[agents]' --group test)
	@touch $@
