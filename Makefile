# Everything runs in .venv, which is made when it is missing, and brought up to date when
# pyproject.toml or constraints.txt has changed.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# A browser that starts: Ubuntu has one that only says how to install it.
HAS_BROWSER := { chromium --version || chromium-browser --version || google-chrome --version; } \
	> /dev/null 2>&1
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

# Sets of packages: who only runs the demo need not wait for mkdocs and mypy.
DEMO := .venv/.demo
DEV := .venv/.dev
BENCH := .venv/.bench

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs browser notebooks screenshots bench bench-bge-m3 bench-compression bench-endpoint \
	bench-ingestion bench-search \
	constraints clean
.NOTPARALLEL:

help:  ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo 'PYTHON=... picks the Python; ARGS="..." is passed on to demo, test and bench.'

demo: $(DEMO)  ## search a small corpus in English and Korean, offline
	@$(BIN)/hfembed demo $(ARGS)

test: $(DEV) browser  ## run all tests, offline; ARGS="-k name" for some
	@HF_HUB_OFFLINE=1 $(BIN)/pytest --numprocesses 2 --dist worksteal $(ARGS)

lint: $(DEV)  ## check style, types, the direction of imports and the links of the docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(wildcard langchain_hfembed scripts benchmarks)
	$(BIN)/lint-imports
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

format: $(DEV)  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DEV)  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

browser:  ## see to Chromium, for the tests of the page; who is root gets it from apt-get
	@if ! $(HAS_BROWSER) && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		echo "Installing Chromium with apt-get..."; \
		apt-get update -qq > /dev/null; \
		apt-get install -qq -y --no-install-recommends chromium > /dev/null; \
	fi; \
	$(HAS_BROWSER) || echo "There is no Chromium, so tests that need it are skipped (in CI they" \
		"fail). On Debian: apt-get install chromium"

notebooks: $(DEV)  ## run the notebooks, and save what they print
	$(BIN)/python -m nbconvert --to notebook --execute --inplace --log-level ERROR \
		--ExecutePreprocessor.record_timing=False notebooks/*.ipynb
	@# A cell's prints come in pieces, and are put together before anything is executed.
	$(BIN)/python -m nbconvert --to notebook --inplace --log-level ERROR --coalesce-streams \
		notebooks/*.ipynb

screenshots: $(DEV) browser  ## take the pictures of the page and of an explanation again
	$(BIN)/python -m scripts.screenshots

bench: $(DEV)  ## measure retrieval quality; ARGS="path/to/collection ..."
	$(BIN)/python -m benchmarks.quality $(ARGS)

bench-compression: $(DEV)  ## measure what smaller token vectors cost; ARGS="path/to/collection"
	$(BIN)/python -m benchmarks.compression $(ARGS)

bench-bge-m3: $(DEV)  ## time BGE-M3 beside FlagEmbedding, and beside what the processor can do
	$(BIN)/python -m benchmarks.bge_m3 $(ARGS)

bench-ingestion: $(DEV)  ## what storing adds to encoding, and the memory that many texts take
	$(BIN)/python -m benchmarks.ingestion $(ARGS)

bench-search: $(DEV)  ## time searches in SQLiteIndex and Qdrant Edge beside each other
	$(BIN)/python -m benchmarks.search $(ARGS)

bench-endpoint: $(BENCH)  ## time endpoint clients beside each other
	$(BIN)/python -m benchmarks.endpoint $(ARGS)

constraints:  ## renew constraints.txt: the newest versions that pyproject.toml allows
	@echo "Installing everything into build/constraints, about ten minutes..."
	@rm -rf build/constraints
	@$(PYTHON) -m venv build/constraints
	@grep '^torch==' constraints.txt > build/constraints/torch.txt
	@build/constraints/bin/pip install --quiet --disable-pip-version-check \
		-c build/constraints/torch.txt ".[dev,bench]"
	@{ grep '^#' constraints.txt; \
		build/constraints/bin/pip freeze --exclude langchain-hfembed | sed 's/+cpu$$//'; \
	} > build/constraints/new.txt
	@mv build/constraints/new.txt constraints.txt
	@rm -rf build/constraints

clean:  ## remove .venv and everything else that is built
	rm -rf .venv build dist site .coverage .hypothesis .import_linter_cache .mypy_cache \
		.pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		"The pinned packages need Python 3.11 or newer, and $(PYTHON) is not: try" \
		"'make PYTHON=python3.11'. (Installed with pip alone, the package runs on 3.10 too.)"; \
		exit 1; }
	@$(PYTHON) -m venv .venv

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the demo's packages, PyTorch among them, into .venv: some minutes..."
	@$(PIP_INSTALL) -e ".[demo]"
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the development packages, PyTorch among them, into .venv: some minutes..."
	@$(PIP_INSTALL) -e ".[dev]"
	@touch $(DEMO) $@

$(BENCH): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing other endpoint clients into .venv..."
	@$(PIP_INSTALL) -e ".[bench]"
	@touch $@
