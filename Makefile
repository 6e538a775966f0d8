# make demo   the demo app: its own environment, two server processes, the story over real HTTP;
#             with DB=postgresql, mysql, redis or mongodb on that database, whose server is started for it
# make test   lint, types and all tests: its own environment and everything the tests need; TESTS=tests/web for some,
#             WORKERS=0 in one process (else one for each processor, each with servers of its own); make cover: the tests,
#             and which lines and branches they run, which takes a third longer
# make bench  the benchmark table, side by side with peers; make bench-databases: the databases side by side;
#             make bench-report: docs/benchmarks.md and its chart, of what BENCH="--json docs/benchmarks.json" has kept
# Everything is installed into .venv; PYTHON names the interpreter to make it with (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DB := sqlite
WORKERS := auto
DATABASES := sqlite $(patsubst requirements/demo-%.txt,%,$(wildcard requirements/demo-*.txt))
$(if $(filter $(DB),$(DATABASES)),,$(error DB is '$(DB)'; use one of: $(DATABASES)))

.PHONY: demo test bench bench-databases bench-report docs lint types unit cover clean
.DEFAULT_GOAL := test

demo: $(VENV)/.demo-$(DB)
	@$(BIN)/python -m examples.demo --db $(DB) $(DEMO)

test: lint types unit

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(COVER) $(TESTS)

cover: COVER := --cov --cov-report=term
cover: unit

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH)

bench-databases: $(VENV)/.bench
	$(BIN)/python -m benchmarks.databases $(BENCH)

bench-report: $(VENV)/.bench
	$(BIN)/python -m benchmarks.report

docs: $(VENV)/.test
	$(BIN)/python tests/security/page.py

clean:
	rm -rf $(VENV) .venv-mongodb .venv-mongodb.lock .demo .mypy_cache .ruff_cache .pytest_cache .coverage .coverage.*

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sessiondb needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(VENV)/.made
	$(PIP) install -r requirements/demo.txt -e .
	@touch $@

$(VENV)/.demo-sqlite: $(VENV)/.demo
	@touch $@

$(VENV)/.demo-%: requirements/demo-%.txt $(VENV)/.demo
	$(PIP) install -r requirements/demo-$*.txt
	@touch $@

$(VENV)/.test: $(wildcard requirements/*.txt) pyproject.toml | $(VENV)/.made
	$(PIP) install -r requirements/test.txt -e .
	@touch $@

$(VENV)/.bench: $(wildcard requirements/*.txt) pyproject.toml | $(VENV)/.made
	$(PIP) install -r requirements/bench.txt -e .
	@touch $@
