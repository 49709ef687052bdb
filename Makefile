# Larder's entry points. `make run` and `make test` need nothing but Python 3.11+ with venv, and make.
#
# Lock files, each with the versions and hashes of what one target installs:
#   requirements.txt        the service (the Dockerfile takes it, too)
#   requirements-build.txt  the build backend (the Dockerfile alone)
#   requirements-run.txt    `make run`: the service, its private servers, the link to this checkout
#   requirements-dev.txt    `make test`, `lint`, `types`: the same and the test tools
#   requirements-ci.txt     `.ci/run`: the same, a second kind of Redis, and the resolver of `make resolve`

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup setup-ci run test heavy outages long-outages topologies pictures oversell openapi lint format types model simulate chaos bench soak wheel lock resolve sbom clean

# `make PYTHON=python3.13 setup` picks another interpreter for a new .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNNABLE := $(VENV)/.set-up-run
STAMP := $(VENV)/.set-up
CI_STAMP := $(VENV)/.set-up-ci

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv with the test tools from the pinned, hashed requirements (nothing else)
	@:

setup-ci: $(CI_STAMP)
	@:

INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -qq --require-hashes --only-binary :all: --requirement
# What a person can do where a package has no wheel. `make resolve` knows for which Pythons and platforms that is so.
NO_WHEEL := echo "Larder's packages could not be installed; the lines above say why. If a package has no wheel for this Python and platform: the private servers of make run exist for Linux (glibc 2.28 or newer; x86-64, ARM) and macOS, on CPython 3.11 to 3.14. Elsewhere bring a PostgreSQL and a Redis of your own and install the service alone: docs/OPERATIONS.md, 'Servers of your own'." >&2

# The version is asked with syntax that every Python understands, so that an old one answers with the sentence
# and not with a SyntaxError. A .venv that was left half made is made anew. The last line installs Larder itself:
# a link to this directory, made by the pinned build backend, without looking at any index.
$(RUNNABLE): requirements-run.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "Larder needs Python 3.11 or newer: '$(PYTHON)' was not found. Install it, or name one: make PYTHON=/path/to/python3 setup" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Larder needs Python 3.11 or newer: %s is Python %d.%d. Name another one: make PYTHON=/path/to/python3 setup" % (sys.executable, v[0], v[1]))'
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Larder needs Python's venv module: '$(PYTHON)' comes without it. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; about a minute)"
	@test -x $(BIN)/python || { rm -rf $(VENV) && "$(PYTHON)" -m venv $(VENV); } || { rm -rf $(VENV); exit 1; }
	@$(INSTALL) requirements-run.txt || { $(NO_WHEEL); exit 1; }
	@$(BIN)/python -m pip --disable-pip-version-check install -qq --no-index --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMP): $(RUNNABLE) requirements-dev.txt
	@echo "Adding the test tools to $(VENV)"
	@$(INSTALL) requirements-dev.txt
	@touch $@

$(CI_STAMP): $(STAMP) requirements-ci.txt
	@$(INSTALL) requirements-ci.txt
	@touch $@

run: $(RUNNABLE) ## start Larder with private servers and a demo catalogue on http://127.0.0.1:8000
	@exec $(BIN)/larder dev

test: $(STAMP) ## run the test suite on real servers
	@$(BIN)/python -m pytest --numprocesses 4 --dist worksteal -m "not alone and not heavy" $(ARGS)

heavy: $(STAMP) ## run the tests that start servers and services of their own, in three processes (make test leaves them out)
	@$(BIN)/python -m pytest --numprocesses 3 --dist worksteal -m "heavy and not long" $(ARGS)

outages: $(STAMP) ## run the tests that judge how long servers take under load, one after another (make test leaves them out)
	@$(BIN)/python -m pytest -m "alone and not long" $(ARGS)

long-outages: $(STAMP) ## run the long forms of those tests: every alert, every drill
	@$(BIN)/python -m pytest -m long $(ARGS)

topologies: $(STAMP) ## run the long forms of failovers, of a pooler's outages and of moves of the cache and of buckets, under load
	@$(BIN)/python -m pytest -m long tests/outages/test_sentinel.py tests/outages/test_cluster.py tests/outages/test_pooler.py tests/outages/test_moves.py tests/outages/test_buckets.py tests/outages/test_patroni.py -o log_cli=true -o log_cli_level=INFO $(ARGS)

pictures: $(STAMP) ## make the pictures of the dashboard in docs/dashboard (needs chromium)
	@PICTURES=docs/dashboard $(BIN)/python -m pytest -q tests/browser/test_dashboard.py $(ARGS)

oversell: $(STAMP) ## 100 clients take 200 units each of 10,000, from one process and from three: exactly 10,000 succeed
	@$(BIN)/python -m tests.oversell --processes 1 $(ARGS)
	@$(BIN)/python -m tests.oversell --processes 3 $(ARGS)

openapi: $(CI_STAMP) ## check the API's description by tools of others, and take the tour by a client that is made of it
	@CI=1 $(BIN)/python -m pytest tests/openapi tests/api/test_schema.py $(ARGS)

lint: $(STAMP) ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP) ## apply the formatting and the safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP) ## check the types
	@$(BIN)/mypy

model: ## check the protocol's model exhaustively (needs spin and gcc)
	@python3 model/check.py $(ARGS)

SEEDS ?= 2000
START ?= 1
simulate: $(STAMP) ## run the shipped cache over simulated time and faults: make simulate SEEDS=20000 START=1
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --start $(START)
	@$(BIN)/python -m tests.simulation.accepted --seeds $$(( $(SEEDS) / 5 )) --start $(START)

MINUTES ?= 3
chaos: $(STAMP) ## real servers, real faults, a checked history: make chaos MINUTES=10 [SEED=n]
	@$(BIN)/python -m tests.outages --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

ROUNDS ?= 5
SECONDS ?= 3
bench: $(STAMP) ## measure Larder beside others and alone, write benchmarks/RESULTS.md (needs wrk and h2load): make bench TRACE=file; a quick look: ROUNDS=1 SECONDS=1
	@$(BIN)/python -m benchmarks --rounds $(ROUNDS) --seconds $(SECONDS) $(if $(TRACE),--trace "$(TRACE)") $(ARGS)

# The default of MINUTES above is that of the outages.
soak: $(STAMP) ## ten minutes of mixed load for each of two catalogues, and whether memory grows: make soak [MINUTES=10]
	@$(BIN)/python -m benchmarks.steady.soak --minutes $(if $(filter file,$(origin MINUTES)),10,$(MINUTES)) $(ARGS)

DIST ?= dist
wheel: $(RUNNABLE) ## build the wheel larder-cache, the cache for other services: docs/EMBEDDING.md
	@dist="$(abspath $(DIST))" && python="$(abspath $(BIN)/python)" && cd packaging/larder-cache && \
	  "$$python" -m hatchling build -t wheel -d "$$dist"

# Needs uv. Existing pins stay unless `make lock ARGS=--upgrade` or ARGS='--upgrade-package NAME' asks for newer ones.
LOCK = uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-header --no-emit-index-url --no-emit-find-links $(ARGS)

lock: ## renew the lock files from pyproject.toml
	@command -v uv >/dev/null || { echo "make lock needs uv (a Python package of that name)" >&2; exit 1; }
	@$(LOCK) --output-file requirements.txt
	@$(LOCK) --group run --extra private-servers --output-file requirements-run.txt
	@$(LOCK) --group dev --extra private-servers --extra traces --output-file requirements-dev.txt
	@$(LOCK) --group ci --extra private-servers --extra traces --output-file requirements-ci.txt
	@$(LOCK:pyproject.toml=) --group build --output-file requirements-build.txt

resolve: $(CI_STAMP) ## for which Pythons and platforms can what `make run` installs be had? (asks the package index)
	@$(BIN)/python -m tests.resolve

sbom: ## print the list of the image's Python packages as CycloneDX: make sbom > sbom.json
	@$(PYTHON) deploy/sbom.py

clean: ## remove .venv and every cache; the data in .larder/ stays
	@rm -rf $(VENV) .venv-bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis dist
	@find app alembic tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
