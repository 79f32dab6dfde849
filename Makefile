# Commands for developers. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast coverage lint audit format study-mini bench chaos mutation lock docs site site-versions manifests image image-cpu image-slim image-locks release clean

PYTHON := $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/ready
MLFLOW := .venv/mlflow/ready
KSERVE := .venv/kserve/ready
AZURITE := .venv/azurite/ready
STEM = $(patsubst %-mini,%,$(or $(NAME),$(error Pass a study, as in NAME=verwimp-table1; `retrain study list` lists them)))
STUDY = $(if $(wildcard studies/$(STEM)-mini.yaml),$(STEM)-mini,$(NAME))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## Retrain on four weekly drops of scanned digits, in under three minutes
	$(BIN)/python -m retrain.cli.demo

# Tests start many processes, each of which would compile this project again.
test test-fast coverage: export PYTHONDONTWRITEBYTECODE =

test: $(READY) $(MLFLOW) $(KSERVE) ## Run all tests. As root on Debian, first install the programs that they need
	@scripts/debian_packages.sh
	@! command -v npm >/dev/null || $(MAKE) --no-print-directory $(AZURITE)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal

test-fast: $(READY) ## Run the tests that need no server or other program, in under two minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal -m "not slow and not integration"

coverage: $(READY) ## Run the fast tests and report the lines that they do not execute. Takes a quarter longer than make test-fast
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal -m "not slow and not integration" \
		--cov=retrain --cov-report=term-missing:skip-covered

lint: $(READY) ## Check formatting, style, types, which package imports which, spelling and banned words
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/python scripts/vocabulary.py

audit: $(READY) ## Look up every locked dependency in PyPI's advisories, and list the dependencies that could not be looked up
	$(BIN)/pip-audit --requirement requirements.lock --require-hashes --disable-pip --progress-spinner off

format: $(READY) ## Format the code and sort its imports
	$(BIN)/ruff check --fix-only --select I
	$(BIN)/ruff format

study-mini: $(READY) ## Repeat one of the papers' experiments: make study-mini NAME=verwimp-table1 ROOT=folder-of-the-data-sets
	$(BIN)/retrain study run $(STUDY) $(if $(ROOT),--root $(ROOT),--download)
	$(BIN)/retrain study report $(STUDY)

bench: $(READY) ## Run every benchmark
	@for benchmark in $(wildcard benchmarks/*.py); do echo "$$benchmark"; $(BIN)/python $$benchmark || exit 1; done

chaos: $(READY) ## Run 50 random scenarios under faults, and audit their stores: make chaos BREAK=etag
	PYTHONPATH=tests:benchmarks $(BIN)/python -m chaos $(if $(BREAK),--break $(BREAK))

mutation: $(READY) ## Change the code in small ways and list the changes that no test notices: make mutation MODULE=retrain/...
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutation.py $(MODULE)

COMPILE = $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"
IN_IMAGE = -c requirements.lock pyproject.toml --extra kfp --extra report --extra gcs --extra azure
# Packages that torch's wheels on PyPI need, and torch's wheels for CPUs do not need.
CUDA = cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton
# On arm64 the images must need the same packages, and all except kfp-server-api (pure Python) must have wheels.
ARM64 = --python-platform aarch64-manylinux_2_28 --only-binary :all: --no-binary kfp-server-api

# rfc3987-syntax is left out: jsonschema, which kfp and altair import, would import it in 1.8 s of processor time.
lock: $(READY) ## Resolve requirements.lock, the locks of the images, and the locks of the tests' two servers
	echo rfc3987-syntax | $(COMPILE) --upgrade --all-extras --group dev --excludes /dev/stdin pyproject.toml \
		-o requirements.lock
	$(MAKE) --no-print-directory image-locks FOLDER=.
	rm -rf build/arm64 && mkdir -p build/arm64
	$(MAKE) --no-print-directory image-locks FOLDER=build/arm64 FLAGS='$(ARM64)'
	for lock in image cpu slim; do cmp requirements-$$lock.lock build/arm64/requirements-$$lock.lock || exit; done
	echo 'mlflow>=3.17,<4' | $(COMPILE) --upgrade - -o requirements-mlflow.lock
	echo 'kserve>=0.21,<0.22' | $(COMPILE) --upgrade - -o requirements-kserve.lock

image-locks:
	$(COMPILE) $(FLAGS) $(IN_IMAGE) --extra serve --extra energy -o $(FOLDER)/requirements-image.lock
	printf '%s\n' $(CUDA) | $(COMPILE) $(FLAGS) $(IN_IMAGE) --extra serve --excludes /dev/stdin \
		--no-emit-package torch --no-emit-package torchvision -o $(FOLDER)/requirements-cpu.lock
	printf 'torch\ntorchvision\n' | $(COMPILE) $(FLAGS) $(IN_IMAGE) --group build --excludes /dev/stdin \
		-o $(FOLDER)/requirements-slim.lock

docs: $(READY) ## Generate dashboards and the reference pages of the docs from the code
	$(BIN)/python docs/schemas.py
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/messages.py
	$(BIN)/python -m retrain.monitoring.dashboards charts/retrain/dashboards

site: $(READY) ## Build the documentation site in build/site. A dead link makes it fail
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site . build/site

site-versions: $(READY) ## Build the site of every release (tags vX.Y.Z) and of main in build/versions, with a selector
	$(BIN)/python -m sphinx_polyversion docs/site/versions.py build/versions

manifests: $(READY) ## Generate the chart's values schema and the plain manifests in k8s/
	$(BIN)/python scripts/manifests.py

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' retrain/__init__.py)
BUILD = $(if $(shell docker version >/dev/null 2>&1 && echo there),docker build,buildah bud --isolation chroot)

LABELS = title=retrain licenses=Apache-2.0 version=$(VERSION) revision=$(shell git rev-parse HEAD)
IMAGE = $(BUILD) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(if $(PLATFORM),--platform $(PLATFORM)) \
	$(addprefix --label org.opencontainers.image.,$(LABELS)) \
	--label org.opencontainers.image.description='Keeps image classifiers up to date for a fraction of the compute'

image: image-slim ## Build the images retrain:VERSION and retrain:VERSION-slim with docker or buildah. BASE_IMAGE= names another base
	$(IMAGE) --tag retrain:$(VERSION) .

image-cpu: ## Build only retrain:VERSION-cpu, for training without GPUs. TORCH_INDEX= names the index of torch's wheels for CPUs
	$(IMAGE) --build-arg TORCH_INDEX=$(or $(TORCH_INDEX),$(error Pass TORCH_INDEX=address of the index)) --tag retrain:$(VERSION)-cpu .

image-slim: ## Build only retrain:VERSION-slim, for watcher and exporter
	$(IMAGE) --target slim --tag retrain:$(VERSION)-slim .

release: $(READY) ## Build the distributions, the chart's package, notes, bill of materials and checksums in dist/
	$(BIN)/python scripts/release.py

clean: ## Remove the files that other targets made, and the virtual environment
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info demo-store

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: install it, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

$(MLFLOW): requirements-mlflow.lock $(READY) # the tests' MLflow server needs an older graphql-core than the lock has
	$(PYTHON) -m venv .venv/mlflow
	.venv/mlflow/bin/pip install --quiet --require-hashes -r requirements-mlflow.lock
	@touch $@

# KServe's SDK, which needs an older pandas and psutil than the lock has. Other packages come from .venv.
$(KSERVE): requirements-kserve.lock $(READY)
	$(PYTHON) -m venv .venv/kserve
	.venv/kserve/bin/pip install --quiet --require-hashes -r requirements-kserve.lock
	echo "import site; site.addsitedir('$$(echo $(abspath .venv)/lib/python*/site-packages)')" \
		> $$(echo .venv/kserve/lib/python*/site-packages)/shared.pth
	@touch $@

$(AZURITE): tests/node/package.json tests/node/package-lock.json # a server of Azure Blob Storage for the tests
	@mkdir -p $(@D)
	@cp $^ $(@D)
	cd $(@D) && npm ci --silent --ignore-scripts
	@touch $@
