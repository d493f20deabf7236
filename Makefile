# Everything starts from a bare machine with Python 3.11 or newer: each target makes .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: compare test test-slow lint docs bench bench-quantization bench-simulators bench-gpu clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ketune needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

compare: $(STAMP)  ## compare the five methods on the bundled model; ends with the report
	$(BIN)/ketune compare

test: $(STAMP)  ## run the tests (a few minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

# torchao, bitsandbytes and hqq change what PEFT imports, so they come only where they are tested.
$(VENV)/.quantization: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,quantization]"
	touch $@

test-slow: $(VENV)/.quantization  ## run the long tests too: PEFT's own suite on our methods, whole comparisons
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

lint: $(STAMP)  ## format, lint, types, floors of the architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(STAMP)  ## check the documentation: links, and that its code runs, docstrings included
	$(BIN)/python tools/check_docs.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q README.md docs src

bench: $(STAMP)  ## speed and memory, with the peers beside us in the same run
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/circuits.py
	$(BIN)/python benchmarks/gate_adapters.py --turns 3
	$(BIN)/python benchmarks/compounds.py

bench-quantization: $(VENV)/.quantization  ## rotations, the fake-quantised step, memory of ZeroQAT, the ways compared (hours)
	$(BIN)/python benchmarks/hadamard.py
	$(BIN)/python benchmarks/quantized_step.py
	$(BIN)/python benchmarks/zeroqat_memory.py
	$(BIN)/python benchmarks/quantization.py

bench-simulators: $(STAMP)  ## circuits beside every simulator that can be installed; makes .venv-peers
	$(BIN)/python benchmarks/peers/install.py
	$(BIN)/python benchmarks/simulators.py

bench-gpu: $(STAMP)  ## on a machine with an NVIDIA GPU: its tests, then its rates, errors and times
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python benchmarks/limits.py --device cuda
	$(BIN)/python -c 'from ketune.circuits import calibrate; calibrate()'
	$(BIN)/python benchmarks/precision.py --device cuda --ways highest tf32x3 tf32 bfloat16
	$(BIN)/python benchmarks/peers/install.py --cuda
	$(BIN)/python benchmarks/gpu.py

clean:  ## remove the environment and caches, never results
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
