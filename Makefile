# Two commands do everything on a fresh machine with Python 3.11+: `make up` and `make test`.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
  >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: up test unit lint bench bench-check chaos chaos-short clean

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
