PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CPU_INDEX := https://download.pytorch.org/whl/cpu
# Another index for torch; its build is taken where the version is the same.
TORCH_INDEX ?=

BENCH ?= runs/bench
BENCHMARKS := startup scoring boss_overhead exposed_wait transport memory

COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.PHONY: demo test bench test-compose compose-image check install clean torch-note

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; give one with make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
		{ echo "Python's venv module is missing; install it (Debian: python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(MAKE) --no-print-directory torch-note
	$(BIN)/pip install --quiet --constraint constraints.txt$(if $(TORCH_INDEX), --extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[workloads,dev]'
	touch $(STAMP)

torch-note:  # where it matters: no GPU, and nobody has said where else torch comes from
	@test -n "$(TORCH_INDEX)" || command -v nvidia-smi >/dev/null || \
		$(BIN)/pip config list | grep -q -e index-url -e find-links || { \
		echo "No NVIDIA GPU is to be seen here, and the torch of PyPI is the CUDA build: 2.7 GB to download."; \
		echo "The CPU build is 0.2 GB; stop this (Ctrl-C) and say:  make install TORCH_INDEX=$(CPU_INDEX)"; }

install: $(STAMP)  ## the virtual environment, pinned by constraints.txt

demo: $(STAMP)  ## broker, Assistant and Boss train on Fashion-MNIST
	$(BIN)/autoassist run fashion-mnist --epochs 3 --seed 1

test: $(STAMP)  ## the whole suite
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope -m "not compose"

test-compose: $(STAMP)  ## the roles in containers, where a Docker engine answers
	$(BIN)/python -m pytest tests/compose -m compose -rs

bench: $(STAMP)  ## what the system costs, each figure beside its limit; eight minutes, on a machine that does nothing else
	mkdir -p $(BENCH)
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --json $(BENCH)/$$name.json; done
	$(BIN)/python -m benchmarks.limits $(BENCH)

compose-image:  ## the images of docker-compose.yml; BASE_IMAGE=... takes another base
	$(COMPOSE) --profile page build

check: $(STAMP)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
