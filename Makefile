# Needs make, Python 3.11 or newer, and internet. `make` alone lists what there is.
.DEFAULT_GOAL := help
.PHONY: help setup demo up test faults cancels recovery bigclean bench counts lint openapi lock clean
MAKEFLAGS += --no-print-directory
PY := .venv/bin/python

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## Make .venv as requirements.lock says; every target does this first
	@python=$$(./tools/find-python.sh) && "$$python" tools/setup.py

demo: setup temporal ## Show it all on an example site; SITE=https://... takes a real one
	@$(PY) examples/demo.py $(if $(SITE),--site '$(SITE)')

up: setup temporal ## Run the whole stack until Ctrl-C; ARGS='--port 0' and the like
	@.venv/bin/ke up $(ARGS)

# Tests mostly wait for real servers: more processes than cores. A file's tests stay in one of them.
PARALLEL ?= 3

test: setup temporal ## Run the tests; ARGS='-k cancel' and the like; PARALLEL=0 in one process
	@$(PY) -m pytest -n $(PARALLEL) --dist loadfile $(ARGS)

faults: setup temporal ## Break a stack FAULTS=20 times and look at what is left; SEED=1 repeats a run
	@$(PY) -m tests.faults run --faults $(or $(FAULTS),20) $(if $(SEED),--seed $(SEED)) $(if $(BROKEN),--broken $(BROKEN)) $(if $(JSON),--json '$(JSON)')

cancels: setup temporal ## Cancel COUNT=200 jobs at random moments, and show how soon each stood still; SEED=1
	@$(PY) -m tests.faults cancels $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

recovery: setup temporal ## Kill a worker KILLS=20 times, and show how soon its jobs went on; SEED=1
	@$(PY) -m tests.faults recovery $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

bigclean: setup temporal ## Clean up SOURCES=10000 sources with 100,000 chunks: exact? how long? what memory?
	@$(PY) -m tests.faults cleanup $(if $(SOURCES),--sources $(SOURCES))

bench: setup temporal ## Measure against other tools, as ratios: ONLY=name,name RUNS=3 QUICK=1 JSON=bench.json
	@cmp -s requirements-bench.lock .venv/ke-bench || { .venv/bin/uv pip install --python $(PY) --quiet --require-hashes --no-deps -r requirements-bench.lock && cp requirements-bench.lock .venv/ke-bench; }
	@$(PY) -m tests.bench $(if $(ONLY),--only '$(ONLY)') $(if $(RUNS),--runs $(RUNS)) $(if $(QUICK),--quick) $(if $(JSON),--json '$(JSON)')

counts: setup temporal ## Count real sites twice, by a crawl and by an independent walk: PACKAGES='rust-doc sqlite3-doc'
	@$(PY) -m tests.counts $(PACKAGES)

lint: setup ## Check style, types and layers
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

openapi: setup ## Write the API's description to openapi.json
	@$(PY) -m api.openapi > openapi.json.new && mv openapi.json.new openapi.json && echo 'wrote openapi.json'

lock: setup ## Write both locks anew from pyproject.toml; UPGRADE=1 takes newer versions
	.venv/bin/uv pip compile --generate-hashes --universal --no-header --no-emit-index-url --python-version 3.11 --extra dev \
		$(if $(UPGRADE),--upgrade) --quiet --output-file requirements.lock pyproject.toml
	.venv/bin/uv pip compile --generate-hashes --universal --no-header --no-emit-index-url --python-version 3.11 --group bench \
		$(if $(UPGRADE),--upgrade) --constraints requirements.lock --quiet --output-file requirements-bench.lock

clean: ## Remove .venv and caches; data folders stay
	rm -rf .venv .venv.lock .mypy_cache .ruff_cache .pytest_cache .import_linter_cache openapi.json.new
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Found, downloaded or built before it is needed, where its progress can be seen.
.PHONY: temporal
temporal: setup
	@$(PY) -m ke.runtime.embedded.temporal_cli > /dev/null
