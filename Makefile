# `make help` lists the targets. A target that needs .venv makes it first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

ifndef HARDWARE
HARDWARE := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
endif
ifeq ($(filter cpu gpu,$(HARDWARE)),)
$(error HARDWARE: found '$(HARDWARE)', expected cpu or gpu)
endif
READY := .venv/.ready-$(HARDWARE)
ACTIVATE := . .venv/bin/activate
PACKAGES := pipeline train evaluate
PARALLEL := -n auto --maxprocesses 8 --dist loadfile

.PHONY: help setup doctor demo run loso test test-slow fuzz test-gpu check bench clean lock deps

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: $(READY) ## make .venv from requirements/cpu.txt or gpu.txt; HARDWARE=cpu|gpu chooses

$(READY): requirements/setup.sh requirements/install.py requirements/$(HARDWARE).txt pyproject.toml
	@requirements/setup.sh $(HARDWARE)

doctor: ## print what a bug report needs: versions, hardware, free disk
	@[[ -x .venv/bin/python ]] || \
		{ echo "error: .venv: found no Python there, expected one; make setup makes it" >&2; exit 1; }
	@.venv/bin/python -m pipeline doctor

demo: setup ## set up, run all stages on synthetic speech, and name the report
	@$(ACTIVATE); recipes/demo.sh

run: setup ## run a recipe in runs/: RECIPE=name, DATA_ROOT=folder of its corpora
	@$(ACTIVATE); recipes/run.sh '$(RECIPE)' '$(DATA_ROOT)'

loso: setup ## run and pool the folds of a protocol: RECIPE=name, DATA_ROOT=folder, PROTOCOL=name
	@$(ACTIVATE); recipes/folds.sh '$(RECIPE)' '$(DATA_ROOT)' '$(PROTOCOL)'

test: setup ## run the fast tests
	@$(ACTIVATE); pytest $(PARALLEL)

test-slow: setup ## run the slow tests and those that need the demo's weights
	@$(ACTIVATE); OMP_NUM_THREADS=1 pytest -n 2 --dist loadgroup -m "(slow or weights) and not gpu"

fuzz: setup ## run the tests with random damaged inputs on 2,000 inputs each, instead of the 100 of make test
	@$(ACTIVATE); pytest $(PARALLEL) --dist load -m fuzz --hypothesis-profile fuzz --timeout 0

test-gpu: setup ## run the tests that need a GPU
	@$(ACTIVATE); pytest -m gpu

check: setup ## run ruff, mypy and import-linter
	@$(ACTIVATE); ruff check
	@$(ACTIVATE); ruff format --check
	@$(ACTIVATE); mypy $(PACKAGES) tests benchmarks requirements
	@$(ACTIVATE); lint-imports --no-cache

bench: setup ## run the benchmarks of training and of generation; DATA_ROOT=folder with EmoBox's lists
	@$(ACTIVATE); python -m benchmarks
	@$(ACTIVATE); python -m benchmarks.kd_loss
	@$(ACTIVATE); $(if $(DATA_ROOT),python -m benchmarks.official_layout '$(DATA_ROOT)',echo 'bench: left out official_layout, which needs DATA_ROOT=folder')
	@$(ACTIVATE); python -m benchmarks.generation

clean: ## remove the demo's outputs, DVC's cache and the tools' caches; keep .venv, corpora and runs/
	rm -rf data/synthetic data/packed models manifests/*.parquet manifests/ingested manifests/continuations
	rm -rf results/predictions results/report.html checkpoints logs .dvc/cache .dvc/tmp
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find $(PACKAGES) tests -name __pycache__ -prune -exec rm -rf {} +

lock: setup ## write requirements/*.txt again from pyproject.toml
	@requirements/lock.sh

deps: setup ## write the imports of each stage into dvc.yaml
	@$(ACTIVATE); python -m tests.dvc_graph
