# Everything is installed into .venv by the targets themselves; a machine needs Python 3.11 or newer, make and a package
# registry. With UV=1 uv makes and fills the same .venv.
PYTHON ?= python3.11
PORT ?= 8000
STATE ?= .state
SEED ?= 1
SEEDS ?= 100
QUICK ?=
UV ?=
MINUTES ?= 10
N ?= 20000
STACK ?= embedded
DATA ?=
OPEN ?=
WHAT ?=
PROCESSES ?=
WORKERS ?=
AGAINST ?=
JOBS ?= $(if $(ARGS),0,3)
BIN := .venv/bin
ifeq ($(UV),)
VENV := $(PYTHON) -m venv
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
else
VENV := uv venv --quiet --allow-existing --python $(PYTHON)
INSTALL := uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
endif

.PHONY: help run test coverage faults simulate fuzz soak check licences audit house format dist services services-stop bench clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/run ## Run the marketplace: [PORT=8000] [STATE=.state] [OPEN=1] [DATA=folder with the Olist files] [PROCESSES=1] [WORKERS=1]
	@exec $(BIN)/python -m marketplace --port $(PORT) --state $(STATE) $(if $(OPEN),--open) $(if $(DATA),--data $(DATA)) $(if $(PROCESSES),--processes) $(if $(WORKERS),--workers $(WORKERS))

test: .venv/dev ## Run the tests, on real engines too after make services: [ARGS=what pytest takes, in one process] [JOBS=3]
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder $(ARGS)

coverage: .venv/dev ## Run the tests and show which lines and branches they reach, in every process: [ARGS=what pytest takes]
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(ARGS); ended=$$?; $(BIN)/coverage combine --quiet && $(BIN)/coverage report; exit $$ended

faults: .venv/dev ## Break fleets on purpose, after make services, and write docs/results/faults.md: [QUICK=1] [SEED=1] [ARGS=…]
	@$(BIN)/python -m chimera_faults --seed $(SEED) $(if $(QUICK),--quick,--out docs/results/faults.md) $(ARGS)

simulate: .venv/dev ## Simulate fleets under faults, in one thread each: [SEED=1] [SEEDS=100] [ARGS=--mutants]
	@$(BIN)/python -m chimera_faults.simulated --seed $(SEED) --seeds $(SEEDS) $(ARGS)

fuzz: .venv/dev ## Give all that reads what strangers send inputs changed by chance: [N=20000] [SEED=1] [ARGS=--out docs/results/fuzz.md]
	@PYTHONPATH=tools $(BIN)/python -m fuzz --inputs $(N) --seed $(SEED) $(ARGS)

soak: .venv/dev ## Load and strike a fleet for a while, see that memory stays flat, and write docs/results/soak.md: [MINUTES=10] [STACK=embedded] [SEED=1]
	@$(BIN)/python -m chimera_faults.soak --minutes $(MINUTES) --stack $(STACK) --seed $(SEED) --out docs/results/soak.md

check: .venv/dev ## Lint, type-check, and compare licences and contracts with what is committed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted; run: make format"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/python tools/licences.py --check
	@$(BIN)/python -m chimera contract check --offline
	@$(BIN)/python -m chimera --config examples/conduit/chimera.toml contract check --offline

licences: .venv/dev ## List what the library stands on, with licences, in docs/licences.md
	@$(BIN)/python tools/licences.py

audit: .venv/dev ## Compare what is installed with what is locked, and ask the index what was withdrawn; advisories with pip-audit
	@$(BIN)/python tools/audit.py

house: ## Measure the structure of the code: [AGAINST=other checkout] [ARGS=--chain]
	@$(PYTHON) tools/house.py $(if $(AGAINST),--against $(AGAINST)) $(ARGS)

format: .venv/dev ## Format the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

dist: .venv/dev ## Build the wheel and the source distribution into dist
	@rm -rf dist
	@$(BIN)/python -m hatchling build

services: ## Start real engines for the tests: PostgreSQL, MariaDB, MongoDB, Redis, memcached, RabbitMQ, Kafka
	@$(PYTHON) services/run.py start

services-stop: ## Stop them; their data stays
	@$(PYTHON) services/run.py stop

bench: .venv/dev .bench/venv/ready ## Measure beside the peers and the machine's limit, after make services: [WHAT="reads intake"] [AGAINST=other checkout] [ARGS=…]
	@$(BIN)/python -m benchmarks.$(if $(AGAINST),turns $(AGAINST),run) $(WHAT) $(ARGS)

clean: ## Remove what was installed and built
	rm -rf .venv .bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*

.venv/pip: constraints.txt
ifeq ($(UV),)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with PYTHON=…"; exit 1; }
endif
	@test -x $(BIN)/python || { echo "making .venv"; $(VENV) .venv; }
	@$(INSTALL) pip && touch $@

.venv/run: pyproject.toml .venv/pip
	@echo "installing what the marketplace needs" && $(INSTALL) --editable . --group marketplace && touch $@

.venv/dev: pyproject.toml .venv/run
	@echo "installing what the tests need" && $(INSTALL) --editable '.[engines]' --group dev && touch $@

.bench/venv/ready: benchmarks/peers.txt
	@test -x .bench/venv/bin/python || { echo "making .bench/venv"; $(PYTHON) -m venv .bench/venv; }
	@echo '*' > .bench/.gitignore
	@echo "installing the peers" && .bench/venv/bin/python -m pip --disable-pip-version-check install --quiet --requirement benchmarks/peers.txt && touch $@
