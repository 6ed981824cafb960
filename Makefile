# SPDX-License-Identifier: MIT
# Each target does all of its own set-up. `make setup` does the set-up alone.
SHELL := /bin/sh
BIN := .venv/bin
OUT ?= demo
sources := pyproject.toml constraints.txt CMakeLists.txt .ci/setup $(wildcard csrc/*/*)

.PHONY: setup demo test lint pictures figures bench viewer gpu clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      the whole main job on a simulated virion tomogram; leaves ./$(OUT)"
	@echo "make test      lint, types, layer contracts and tests"
	@echo "make setup     the set-up alone, into .venv"
	@echo "make pictures  remake the README's pictures"
	@echo "make figures   remake the figures of docs/rendering.md"
	@echo "make bench     benchmarks, as JSON under benchmarks/results"
	@echo "make viewer    the viewer as a folder that needs no Python: dist/cryoet-viewer; SMALL=0 adds the networks"
	@echo "make gpu       on a machine with an NVIDIA card: GPU tests, then benchmarks, as JSON"

# The stamps carry what was done; a change of what they depend on does it again.
.venv/package: $(sources)
	@.ci/setup package
	@touch $@

.venv/opengl: .venv/package
	@.ci/setup opengl
	@touch $@

.venv/display: .venv/package
	@.ci/setup display
	@touch $@

setup: .venv/package .venv/opengl

demo: setup
	@$(BIN)/cryoet demo -o $(OUT)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu tests/cuda/emulation/*.h tests/cuda/emulation/*.cu)
	$(BIN)/mypy -p cryoet_engine
	$(BIN)/lint-imports --no-cache

test: lint .venv/display
	# Two processes of one thread: fast on two cores, and steady on a machine that is busy with other things.
	OMP_NUM_THREADS=1 LP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The figures of docs/rendering.md: twenty minutes on two cores.
figures: setup
	$(BIN)/python docs/make_figures.py

pictures: setup
	$(BIN)/python docs/make_pictures.py

bench: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]' --no-build-isolation
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/scaling.py --paper-size

# A folder for machines without Python; `.ci/viewer` builds the small one and tests it.
viewer: setup
	@SMALL=$(or $(SMALL),1) .ci/viewer build

# No set-up: a machine with a card may have no network. See benchmarks/gpu.sh.
gpu:
	@sh benchmarks/gpu.sh

clean:
	rm -rf .venv build dist demo pictures
