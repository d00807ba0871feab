# make demo   the small study, from images to tables and figures, on this machine
# make test   the unit tests, in minutes      make lint   ruff, mypy, snakefmt, snakemake --lint
# make test-all   every test: whole workflows, a real Slurm, full-size networks
# make docs   the documentation in site/      make env    only the environment in .venv (the others make it first)
#
# FROM_SCRATCH=1 make demo   trains every run from nothing instead of continuing the committed checkpoints.
# Needed: Python 3.11 or later, make, gcc. uv is taken from PATH, or fetched into .venv-uv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CORES ?= 2
# Test files run side by side, each in one process; one more than the cores, since some wait for Slurm.
WORKERS ?= 3
UV ?= $(shell command -v uv 2>/dev/null || echo .venv-uv/bin/uv)
BIN := .venv/bin

ifeq ($(FROM_SCRATCH),1)
DEMO := demo_scratch
DEMO_CONFIG := config/demo.yaml config/demo-scratch.yaml
else
DEMO := demo
DEMO_CONFIG := config/demo.yaml
endif

.DELETE_ON_ERROR:
.PHONY: env demo networks checkpoints test test-all lint docs

env: .venv/.complete

demo: env
	@$(BIN)/snakemake --profile workflow/profiles/local --cores $(CORES) --configfile $(DEMO_CONFIG)
	@cat results/$(DEMO)/report/summary.txt

# How the committed weights in resources/demo were made: an hour each on two cores.
networks: env
	$(BIN)/snakemake --profile workflow/profiles/local --cores $(CORES) --configfile config/demo-networks.yaml \
		--until generator extractor
	$(BIN)/python -m mixar publish --study results/demo_networks/study.json --to resources/demo

CHECKPOINTS := mar/seed0 mar/seed1 dc_mix/seed0 dc_mix/seed1 dc_sa/seed0 dc_ca/seed0
checkpoints: env
	$(BIN)/snakemake $(CHECKPOINTS:%=results/demo_long/train/%/weights.safetensors) \
		--profile workflow/profiles/local --cores $(CORES) --configfile config/demo.yaml config/demo-long.yaml
	$(BIN)/python -m mixar publish --study results/demo_long/study.json --to resources/demo

PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

test: env
	$(PYTEST) -n $(WORKERS) -m "not (workflow or full_size or slow or slurm)"

test-all: env
	$(PYTEST) -n $(WORKERS)

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint

# Everything is pinned and hash-checked, the build backend included; the project and its packages are installed in place.
PROJECTS := . $(wildcard packages/*)
.venv/.complete: requirements.lock $(PROJECTS:%=%/pyproject.toml) | $(filter .venv-uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(PROJECTS:%=--editable %)
	touch $@

.venv-uv/bin/uv:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet uv
