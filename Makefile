# Two commands do everything on a fresh machine with Python 3.11+: `make up` and `make test`.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
  >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
STAMP := .venv/.installed
COMPILED := $(wildcard tests/sdk/test_*.py tests/sim/test_scenarios.py tests/sim/test_nodes.py \
  tests/e2e/test_caps_under_load.py tests/e2e/test_killed_workers.py tests/e2e/test_revocation_under_load.py \
  $(addprefix tests/contract/test_,door.py governor*.py journal.py log_writer.py log_outage.py proxy*.py serving.py upstream*.py) \
  $(addprefix tests/property/test_,adapter*.py core*.py forms*.py reservation.py upstream*.py) \
  $(addprefix tests/unit/test_,adapter*.py core*.py sole_writer*.py upstream*.py))

.PHONY: up test unit lint wheel test-compiled bench bench-check chaos chaos-short clean

up: $(STAMP)  ## Everything on this machine, with simulated Stripe and OpenAI.
	$(BIN)/ringfence up --demo $(ARGS)

test: lint  ## Lint, types, import contracts, then every test but the long chaos runs.
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

unit: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" tests/unit tests/property $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(STAMP)  ## Measures beside nginx and a bare aiohttp proxy (docs/PERFORMANCE.md); asserts nothing.
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

bench-check: $(STAMP)  ## A short form; fails if a ratio is more than 10% worse than in bench/baseline.json.
	PYTHONPATH=tests $(BIN)/python -m bench --check $(ARGS)

wheel: $(STAMP)  ## A wheel for this platform whose hot path is compiled (docs/PERFORMANCE.md); needs a C compiler.
	rm -rf build/compiled dist
	RINGFENCE_COMPILED=1 $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps -w dist .
	$(BIN)/python -m zipfile -e dist/ringfence-*-cp*.whl build/compiled

test-compiled: wheel  ## The tests of nodes, adapters, logs, simulation and SDKs, run against what `make wheel` has built.
	PYTHONSAFEPATH=1 PYTHONPATH=build/compiled $(BIN)/python -m pytest -o "pythonpath=build/compiled tests" \
	  -m "not slow and not interpreted" $(COMPILED) $(ARGS)

chaos: $(STAMP)  ## The long runs: many simulation seeds, and ten minutes of storms over real processes (docs/CHAOS.md).
	$(BIN)/python -m pytest -m slow $(ARGS)

chaos-short: $(STAMP)  ## Two minutes of storm over real processes, with a new seed each time.
	RINGFENCE_CHAOS_S=120 $(BIN)/python -m pytest -m slow tests/chaos -k long_storm $(ARGS)

# The ready mark is written last, so that an interrupted installation is begun again.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Ringfence needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .ringfence .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
