# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Processes that run tests; each uses one thread.
WORKERS ?= 2

.PHONY: help venv demo test test-slow test-gpu test-lowest test-deepspeed format lint types unit bench methods archangel-tiny value-lab \
        docs notebooks pictures clean
.DEFAULT_GOAL := help

help: ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

venv: $(STAMP) ## Make the environment .venv from pyproject.toml and constraints.txt.

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP) ## Align the embedded model with embedded feedback and show what that achieved.
	$(BIN)/python cli.py demo

test: $(STAMP) lint types unit ## Format check, lint, types and the default tests.

format: $(STAMP) ## Format the code and apply the safe lint fixes.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP) ## Check format and lint.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP) ## Check the types.
	$(BIN)/mypy

unit: $(STAMP) ## Run the default tests alone.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(EXTRAS_STAMP) ## Run the tests that take minutes.
	$(BIN)/python -m pytest -m slow

test-gpu: $(STAMP) ## Run the tests that need a CUDA device.
	$(BIN)/python -m pytest -m gpu

# Of an older torch there may be no wheel for CPUs: `make test-lowest LOWEST_TORCH=2.9` may download 5 GB, with CUDA.
LOWEST_TORCH := 2.13.0
LOWEST       := .venv-lowest-$(LOWEST_TORCH)
LOWEST_STAMP := $(LOWEST)/.installed
LOWEST_TESTS := tests/test_losses.py tests/test_values.py tests/test_logprobs.py tests/metrics tests/modules/test_modules.py \
                tests/test_policy.py tests/test_forward.py tests/test_architectures.py tests/test_reference.py tests/test_model_folders.py tests/data \
                tests/callbacks tests/evaluation/test_sampling.py tests/reliability/test_hostile.py

$(LOWEST_STAMP): pyproject.toml constraints-lowest.txt
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	sed 's/^torch==.*/torch==$(LOWEST_TORCH)/' constraints-lowest.txt > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/constraints.txt \
	    -e ".[lora,completion,judge]" hypothesis jsonschema pytest pytest-timeout
	@touch $@

test-lowest: $(LOWEST_STAMP) ## Run a part of the tests, and a short run, with the lowest versions that are declared.
	$(LOWEST)/bin/python -m pytest $(LOWEST_TESTS)
	$(LOWEST)/bin/python cli.py fit --config configs/tiny_kto.yaml --model.policy embedded:small --trainer.max_steps 3 \
	    --run_dir runs/lowest

DEEPSPEED := .deepspeed
DEEPSPEED_NEEDS := hjson msgpack py-cpuinfo einops ninja pydantic pydantic-core annotated-types typing-inspection

test-deepspeed: $(STAMP) ## Train under DeepSpeed on CPUs, with the DeepSpeed of a folder of its own (some minutes).
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-build-isolation --no-deps --upgrade --target $(DEEPSPEED) -c constraints.txt deepspeed $(DEEPSPEED_NEEDS)
	DS_ACCELERATOR=cpu PYTHONPATH=$(DEEPSPEED) $(BIN)/python -m pytest -m slow tests/strategies -k deepspeed

BENCH_STAMP := $(VENV)/.bench_installed
HH ?= ../shared/data/hh-rlhf/harmless-base-test.jsonl.gz

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,bench]"
	@touch $@

bench: $(BENCH_STAMP) ## Measure training beside TRL and straightforward PyTorch (an idle machine, half an hour; HH=FILE).
	$(BIN)/python -m benchmarks.training --data $(HH)
	$(BIN)/python -m benchmarks.training --data $(HH) --shape 30M --methods dpo kto --rounds 1
	$(BIN)/python -m benchmarks.training --data $(HH) --alone --methods dpo kto
	$(BIN)/python -m benchmarks.growth --data $(HH)
	$(BIN)/python -m benchmarks.results

EXTRAS_STAMP := $(VENV)/.extras_installed

$(EXTRAS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs,notebooks]"
	@touch $@

docs: $(EXTRAS_STAMP) ## Build the documentation site: site/index.html.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "built site/index.html"

notebooks: $(EXTRAS_STAMP) ## Run all notebooks, and keep what they show in them (some minutes).
	cd notebooks && for name in *.ipynb; do "$(CURDIR)/$(BIN)/jupyter-execute" --inplace "$$name" || exit 1; done

pictures: $(STAMP) ## Make the README's pictures again (needs chromium and tmux).
	$(BIN)/python docs/make_pictures.py

methods: $(STAMP) ## Train every method on three seeds, and make the table docs/methods.md again (half an hour).
	$(BIN)/python cli.py compare

archangel-tiny: $(STAMP) ## Train the report's grid in miniature, and make the page docs/archangel_tiny.md again (half an hour).
	$(BIN)/python cli.py archangel-tiny

value-lab: $(STAMP) ## Train with other value functions, and make the page docs/value_lab.md again (a quarter of an hour).
	$(BIN)/python cli.py value-lab

clean: ## Remove the environment, caches and runs.
	rm -rf $(VENV) .venv-lowest-* $(DEEPSPEED) runs site notebooks/runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
