# Two commands do everything from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
KD3D_SHARED ?= ../shared
export KD3D_SHARED

BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt
# One test process for each core. Whoever runs out of tests takes the last ones of the other, so that the tests of a
# file, which share what is built for them, stay together where they can. `make check AT_ONCE=` runs one process.
AT_ONCE ?= --numprocesses logical --maxprocesses 4 --dist worksteal

.PHONY: demo test test-all check bench docs clean

demo: $(VENV)/.installed-all
	$(BIN)/kd3d demo --out demo-run --force

test: $(VENV)/.installed-dev
	$(MAKE) check VENV=$(VENV)

# What the continuous integration runs, in an environment that is already installed.
check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p kd3d
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(AT_ONCE)

# Hours; a stopped run goes on where it was, and a finished one writes benchmarks/results/test_all.json.
test-all: $(VENV)/.installed-dev
	$(MAKE) check VENV=$(VENV)
	$(BIN)/python benchmarks/test_all

# Every suite in benchmarks/ records its result into benchmarks/results/; then the tables of README and docs are written anew.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run_all.py
	$(BIN)/python benchmarks/readme_table.py
	$(BIN)/python benchmarks/real_data_tables.py

docs: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/docs -m "not gpu" $(AT_ONCE)

clean:
	rm -rf $(VENV)/.installed-all $(VENV)/.installed-dev .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed-all: $(BIN)/python $(INPUTS)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]'
	touch $@

$(VENV)/.installed-dev: $(BIN)/python $(INPUTS)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev]'
	touch $(VENV)/.installed-all $@
