# Every target sets up what it needs in .venv; nothing outside of this folder is touched.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
# What the tests compile engines with; of TensorRT itself the bindings alone, to compare our calls with.
TENSORRT := tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings tensorrt-cu13-bindings
# To compare our calls with; it cannot be imported without a driver.
NVCODEC := PyNvVideoCodec
# What `gpu-kit` makes bundles of: a folder with checkpoints/ and golden/.
DATA ?= ../shared
KIT_PYTHON ?= 3.12

.PHONY: demo demo-box demo-checkpoint test test-all check format api kernels gpu-kit gpu-kit-dry clean

## demo [IMAGE=photo.png]: upscale a picture with the network in the box, and draw it before and after
## demo CHECKPOINT=model.pth IMAGE=photo.png: export the checkpoint, upscale the image with the bundle
demo: $(if $(CHECKPOINT),demo-checkpoint,demo-box)

demo-box: $(VENV)/.run
	$(BIN)/sr-deploy upscale "$(or $(IMAGE),docs/demo.jpg)" -o $(DEMO)/images/ --overwrite
	$(BIN)/python benchmarks/draw_before_after.py "$(or $(IMAGE),docs/demo.jpg)" \
		"$(DEMO)/images/$(notdir $(or $(IMAGE),docs/demo.jpg))" $(DEMO)/before_after.png

demo-checkpoint: $(VENV)/.export
	@test -n "$(IMAGE)" || { echo "usage: make demo CHECKPOINT=model.pth IMAGE=photo.png" >&2; exit 2; }
	$(BIN)/sr-deploy export "$(CHECKPOINT)" -o $(DEMO)/bundle --overwrite
	$(BIN)/sr-deploy verify $(DEMO)/bundle
	$(BIN)/sr-deploy upscale "$(IMAGE)" -m $(DEMO)/bundle -o $(DEMO)/images --overwrite

## test: the test suite, on all cores
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal

## test-all: the long tests, too: every network, every way in which a node dies
test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m ""

## check: lint, formatting and types
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## format: rewrite the code the way `check` wants it
format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## api: write docs/api.md anew, once public names or docstrings have changed
api: $(VENV)/.dev
	$(BIN)/python benchmarks/write_api_page.py

## kernels: compile our kernels into the package, once their sources have changed
kernels: $(VENV)/.dev
	$(BIN)/python benchmarks/compile_kernels.py

## gpu-kit [DATA=folder] [KIT_PYTHON=3.12]: lay out in .gpu/ what a bare machine with a GPU needs, and print the calls
gpu-kit: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu_kit/prepare.py --data "$(DATA)" --python $(KIT_PYTHON)

## gpu-kit-dry KIT_PYTHON=3.11: lay out the same for this machine's Python, and run every call on the CPU, in an environment of its own
gpu-kit-dry: gpu-kit .gpu/venv/.done
	$(BIN)/python benchmarks/gpu_kit/dry_run.py --python .gpu/venv/bin/python3

.gpu/venv/.done: constraints.txt
	$(PYTHON) -m venv .gpu/venv
	.gpu/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt numpy onnx opencv-python-headless torch
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) .gpu build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.export: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[export]"
	@touch $@ $(VENV)/.run

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt --no-deps $(TENSORRT) \
		|| echo "TensorRT has no wheels for this machine; tests that need them are skipped" >&2
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt --no-deps $(NVCODEC) \
		|| echo "PyNvVideoCodec has no wheel for this machine; tests that need it are skipped" >&2
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt --no-deps spandrel einops
	@touch $@ $(VENV)/.export $(VENV)/.run

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sr-deploy needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)
