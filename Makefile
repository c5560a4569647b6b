# Two commands are enough on a fresh machine: `make demo` and `make test`. Both build .venv when it is missing.
SHELL := /bin/bash
BIN := .venv/bin
CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Passed on to snakemake by `make demo`, for example DEMO_ARGS="-n".
DEMO_ARGS ?=
# So small a problem gains little from many threads: the two scenes side by side, each on half the cores, are faster.
HALF := $(shell expr \( $(CORES) + 1 \) / 2)
SIDE_BY_SIDE := --set-threads $(foreach rule,sfm prepare triangulate train mesh tsdf texture render evaluate_mesh evaluate_views report,$(rule)=$(HALF))
# Passed on to pytest by `make test`, for example TEST_ARGS="tests/unit -k mesh".
TEST_ARGS ?=
# The first Python on the path that runs and is new enough; override with `make PY=/path/to/python test`.
PY ?= $(shell for p in python3.11 python3.12 python3 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help demo demo-short test lint format schema clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

# uv does not read PIP_FIND_LINKS; handing it on lets it see wheels that pip would see.
# Bytecode is made at once: where PYTHONDONTWRITEBYTECODE is set, each program of a run would compile torch and snakemake again.
.venv/.ok: pyproject.toml
	@test -n "$(PY)" || { echo "error: no Python 3.11 or newer found; install one (Debian/Ubuntu: apt install python3 python3-venv)" \
		"or name it: make PY=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PY) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PY) has no venv module;" \
		"install it (Debian/Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PY) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev]'
	@touch $@

demo: .venv/.ok ## reconstruct the two example objects on the CPU and measure the result
	$(BIN)/snakemake --cores $(CORES) --rerun-incomplete $(SIDE_BY_SIDE) --configfile config/demo.yaml $(DEMO_ARGS)

demo-short: .venv/.ok ## the same whole workflow with very few training steps, to see that it runs
	$(BIN)/snakemake --cores $(CORES) --rerun-incomplete $(SIDE_BY_SIDE) \
		--configfile config/demo.yaml config/demo-short.yaml $(DEMO_ARGS)

test: .venv/.ok ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES) --dist loadgroup $(TEST_ARGS)

lint: .venv/.ok ## check style, types and the workflow's format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules

format: .venv/.ok ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

schema: .venv/.ok ## regenerate config/schemas from the dataclasses
	$(BIN)/python -c "from pathlib import Path; from nsr.manifest import write_schemas; write_schemas(Path('config/schemas'))"

clean: ## remove the demo's results and caches; keeps .venv, results/ and report/
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
