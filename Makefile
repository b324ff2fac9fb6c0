PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test lint slow gpu bench audit clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'mosaicml-streaming>=0.12'  # its pins would hold back NumPy for all
	touch $(READY)

demo: $(READY)  ## curate an artificial colonoscopy and compare with what is known of it (2 to 3 minutes)
	$(BIN)/python -m curation demo

test: lint  ## lint, types and all tests but the slow ones (about 20 minutes on 2 cores)
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(READY)  ## the long tests: kills at every step, whole sweeps, the demonstration
	$(BIN)/python -m pytest -m slow

gpu: $(READY)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: $(READY)  ## all benchmarks (hours)
	for script in tests/bench/bench_*.py; do $(BIN)/python $$script || exit 1; done

audit: $(READY)  ## known faults of the packages that are installed (asks PyPI)
	$(BIN)/pip-audit --skip-editable

clean:  ## delete .venv and runs/
	rm -rf .venv runs
