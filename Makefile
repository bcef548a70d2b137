# make env        make the environment, .venv, with everything that ctvae needs
# make demo       encode a phantom and show the results; make demo IN=folder encodes your own CT
# make pacs-demo  show the listener with a private Orthanc; IN=folder sends your own CT, KEEP=1 keeps it running
# make test       run ruff, mypy and pytest; make test ARGS="-k sr" passes ARGS to pytest
# make map        build the container image, dist/ctvae-cpu.oci.tar; ARGS="--base IMAGE" is passed on
# make ohif       unpack the viewer that a test opens the SR in, into .cache
# make clean      remove what was built and cached, and demo/; the environment stays (rm -r .venv)
#
# Only relative paths are used: a checkout may lie in a folder whose name has spaces.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := env
.DELETE_ON_ERROR:
.PHONY: env demo pacs-demo test map map-locks ohif clean

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

VERSION_FITS := sys.exit(not (3, 11) <= sys.version_info < (3, 14))

# Stamps: each is touched when its step has succeeded, so that a broken-off run goes on where it stopped.
MADE := $(VENV)/.made
PACKAGES := $(VENV)/.packages
OURS := $(VENV)/.ours
TOOLS := $(VENV)/.tools

OHIF_VERSION := 3.13.2
OHIF := .cache/ohif-$(OHIF_VERSION)

# Always the last thing that is installed: our `monai-deploy` takes the place of the script that holoscan-cli brings.
# Without build isolation pip needs no network for it: setuptools is in requirements.txt.
INSTALL_OURS := PYTHONWARNINGS=ignore $(PIP) install --quiet --no-deps --no-build-isolation --editable .
IS_OURS := grep --quiet app.cli.monai_deploy $(BIN)/monai-deploy

# pip says much; of that only what takes long is shown.
SHOW_LARGE := sed -u -n -E \
  -e 's/^ *(Downloading|Using cached) ([A-Za-z0-9_.]+)-.*\(([0-9]{2,}\.?[0-9]* MB|[0-9.]+ GB)\).*/  \2, \3/p' \
  -e 's/^Installing collected packages.*/  all there, unpacking …/p'

env: $(OURS)
	@$(IS_OURS) || $(INSTALL_OURS)

demo: env
	@$(BIN)/ctvae demo $(if $(IN),"$$IN")

pacs-demo: env
	@$(BIN)/python -m app.pacs.demo $(if $(IN),"$$IN")

test: env $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

map: env
	@$(BIN)/ctvae map build $(ARGS)

# The libraries of the image: pyproject.toml's core and what the variant's .in names, in the versions of requirements.txt.
# Left out is what holoscan asks for and only installs, or only other operators of it import. For --python-platform
# aarch64-manylinux_2_36 the same versions are found.
LEFT_OUT := cupy-cuda13x pip cloudpickle wheel-axle-runtime wheel setuptools
LOCK := uv pip compile --quiet --extra pacs --python-version 3.11 --only-binary :all: --no-emit-index-url \
  --constraint requirements.txt --no-annotate --generate-hashes --python-platform x86_64-manylinux_2_36 \
  --custom-compile-command "make map-locks" $(LEFT_OUT:%=--no-emit-package %)

map-locks:
	$(LOCK) pyproject.toml app/packaging/requirements-cpu.in --no-emit-package cuda-pathfinder \
	  --output-file app/packaging/requirements-cpu.lock >/dev/null
	$(LOCK) pyproject.toml app/packaging/requirements-gpu.in --output-file app/packaging/requirements-gpu.lock >/dev/null

ohif: $(OHIF)/.unpacked

# npm gives the package, a complete build of 50 MB; node runs none of it.
$(OHIF)/.unpacked:
	@echo "Unpacking OHIF $(OHIF_VERSION) into $(OHIF)"
	@mkdir -p $(OHIF)
	@cd $(OHIF) && npm pack --silent @ohif/app@$(OHIF_VERSION) >/dev/null
	@tar --extract --gzip --strip-components 1 --directory $(OHIF) --file $(OHIF)/ohif-app-$(OHIF_VERSION).tgz
	@rm $(OHIF)/ohif-app-$(OHIF_VERSION).tgz
	@touch $@

clean:
	rm -rf build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

# An environment that works is kept, also by make -B: another python3 over it would leave a mixture of the two.
$(MADE):
	@$(BIN)/python -c 'import pip, sys; $(VERSION_FITS)' 2>/dev/null || { \
	  "$(PYTHON)" -c 'import sys; $(VERSION_FITS)' 2>/dev/null || { \
	    echo "make env: '$(PYTHON)' is not Python 3.11, 3.12 or 3.13; apt-get install python3 python3-venv," \
	      "or name another: make env PYTHON=python3.11" >&2; exit 1; }; \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make env: '$(PYTHON)' cannot make an environment; apt-get install python3-venv" >&2; exit 1; }; \
	  "$(PYTHON)" -m venv --clear $(VENV); }
	@touch $@

$(PACKAGES): requirements.txt | $(MADE)
	@echo "Installing requirements.txt into $(VENV): the first time 2 GB or more and some minutes"
	@$(PIP) install --requirement requirements.txt | $(SHOW_LARGE)
	@touch $@

$(OURS): $(PACKAGES) pyproject.toml
	@$(INSTALL_OURS)
	@$(IS_OURS)
	@$(PIP) check
	@touch $@

$(TOOLS): requirements-dev.txt $(OURS)
	@echo "Installing requirements-dev.txt into $(VENV)"
	@$(PIP) install --requirement requirements-dev.txt | $(SHOW_LARGE)
	@$(IS_OURS) || $(INSTALL_OURS)
	@$(PIP) check
	@touch $@
