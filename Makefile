# SPDX-License-Identifier: Apache-2.0
# A thin front: every target can be typed by hand from what stands under it.
#
#   sudo make demo     everything from nothing: packages, build, lab, traffic, report, tear-down
#   sudo make test     everything: lint, types, unit, property, live, packaging
#
# Works as root with and without sudo. PYTHON picks the interpreter the environment is made with.

SHELL := /bin/sh
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Where it is set, as in many a container, each of thousands of processes compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS := $(shell nproc 2>/dev/null || echo 1)
FUZZ_FRAMES ?= 250000

SOURCES := $(shell find hyperplane_nat bench -name '*.pyx' -o -name '*.pxd' -o -name '*.h') \
	hyperplane_nat/engine/state/constants.py netns/init.c
# Three stamps: what runs is installed, what checks and measures it is installed, what is compiled.
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools
BUILT := build/.built
# The AWS command line, in an environment of its own: it asks for other versions than the tests do.
AWS := $(VENV)/aws/.installed
# The CDK, Ansible and AWS SAM: hundreds of megabytes, with demands of their own.
INFRASTRUCTURE := $(VENV)/tools/.installed
# Of every interpreter that is to be tried; `make dist PYTHONS="python3.12 python3.13"`.
PYTHONS ?= $(PYTHON)

.PHONY: help deps deps-build demo test test-live test-alone test-rest test-long test-tools test-repeat lint build \
	bench bench-quick bpf docs-panels docs-page asan asan-build asan-fuzz dist docs clean distclean
.DELETE_ON_ERROR:

help:
	@sed -n '2,7s/^#//p' Makefile
	@echo " targets: deps build demo test test-long test-tools test-repeat lint bench bench-quick asan bpf dist docs" \
		"docs-panels docs-page clean distclean"

# Debian packages for everything, live tests included; only what is missing.
deps:
	@tools/install-packages test

# The flow cache's program, compiled anew: for whoever changes it.
bpf:
	@tools/install-packages bpf
	tools/build-bpf

deps-build:
	@tools/install-packages build

# An environment whose making was broken off has no pip: venv repairs it.
$(INSTALLED): constraints.txt pyproject.toml setup.py | deps-build
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt pip setuptools wheel Cython
	HYPERPLANE_EXTENSIONS=0 \
		$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e .
	touch $@

$(TOOLS): $(INSTALLED)
	HYPERPLANE_EXTENSIONS=0 \
		$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev,plots,aws]'
	touch $@

$(BUILT): $(INSTALLED) $(SOURCES)
	$(BIN)/python setup.py -q build_ext --inplace --parallel $(JOBS)
	$(BIN)/python -m compileall -q hyperplane_nat netns bench
	mkdir -p build
	touch $@

$(AWS): constraints.txt $(INSTALLED)
	$(BIN)/python -m venv $(VENV)/aws
	$(VENV)/aws/bin/pip install -q -c constraints.txt awscli
	touch $@

$(INFRASTRUCTURE): tests/live/tools/requirements.txt tests/live/tools/package.json $(INSTALLED)
	$(BIN)/python -m venv $(VENV)/tools
	$(VENV)/tools/bin/pip install -q -r tests/live/tools/requirements.txt
	cp tests/live/tools/package.json $(VENV)/tools/
	PATH="$$PWD/$(VENV)/tools/bin:$$PATH" npm install --prefix $(VENV)/tools --no-audit --no-fund --silent
	touch $@

build: $(BUILT)

demo: $(BUILT)
	$(BIN)/python -m bench.demo

test: deps
	$(MAKE) --jobs=2 $(BUILT) $(TOOLS) $(AWS)
	$(MAKE) --jobs=2 test-live asan-fuzz test-rest dist
	$(MAKE) test-alone

# Whole lines: two of these run beside each other.
PYTEST := bash -o pipefail -c '$(BIN)/python -m pytest "$$@" | sed -u ""' pytest

# Its tests wait more than they work: two files at a time.
test-live: $(TOOLS) $(AWS) $(BUILT)
	$(PYTEST) tests/live -m 'not alone and not long' -n 2 --dist loadfile

# What loads the machine has it to itself.
test-alone: $(TOOLS) $(BUILT)
	$(PYTEST) tests/live -m 'alone and not long'

test-rest: $(TOOLS) $(BUILT)
	$(PYTEST) --ignore=tests/live -m 'not long'

# Ten thousand TCP conversations through the gateway and through nft, SEED=N repeats a run; two
# hundred labs, a hundred kills; and the repetitions.
test-long: deps $(TOOLS) $(AWS) $(INFRASTRUCTURE) $(BUILT)
	DIFFERENTIAL_SEED=$(SEED) $(PYTEST) -m long
	$(MAKE) asan-fuzz FUZZ_FRAMES=1000000
	$(MAKE) test-repeat

# What of that installs the CDK, Ansible and AWS SAM, which need a registry each.
test-tools: deps $(TOOLS) $(AWS) $(INFRASTRUCTURE) $(BUILT)
	$(PYTEST) tests/live/test_aws_tools.py

# What is marked as racing (processes, signals, threads, deadlines), N times beside four busy
# processes, which end with it, six at a time, as they wait for one another; it stops at the first
# failure. TESTS="tests/controller tests/netns" repeats all of those, or what else pytest is told.
N ?= 50
TESTS ?= -m races tests/controller tests/netns
test-repeat: deps $(TOOLS) $(BUILT)
	$(BIN)/python -m tools.repeat_tests --rounds $(N) --busy 4 -n 6 --dist worksteal $(TESTS)

lint: $(TOOLS) $(BUILT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: deps $(TOOLS) $(BUILT)
	$(BIN)/python -m bench all

bench-quick: deps $(TOOLS) $(BUILT)
	$(BIN)/python -m bench quick

# The source distribution, a wheel made from it, and a lab that runs on that wheel in an environment
# of its own outside the tree.
dist: deps $(TOOLS)
	$(BIN)/python -m tools.try_dist $(PYTHONS)

docs: $(TOOLS) $(BUILT)
	$(BIN)/python -m hyperplane_nat.config --markdown > docs/configuration.md
	$(BIN)/python -m tests.conformance > docs/conformance.md
	$(BIN)/python -m tools.states > docs/states.md
	$(BIN)/python -m hyperplane_nat.metrics > docs/metrics.md
	$(BIN)/python -m tools.aws_operations > docs/aws-api.md
	$(BIN)/python -m tools.panels

# The pictures of docs/observability.md, from a lab under traffic; three minutes, as root.
docs-panels: deps $(TOOLS) $(BUILT)
	$(BIN)/python -m tools.draw_panels

# The pictures of the page in README.md, from a lab under traffic; two minutes, as root.
docs-page: deps $(TOOLS) $(BUILT)
	$(BIN)/python -m tools.draw_page

# The engine under the address and undefined-behaviour sanitizers, in a tree of its own: the working
# tree keeps its fast extensions. Python itself is not instrumented, so the sanitizer's library is
# loaded first, its leak check is off (the interpreter never frees everything), and Python takes
# each object from malloc, where the sanitizer sees it.
ASAN := build/asan
ASAN_RUN = cd $(ASAN) && env \
	LD_PRELOAD="$$($(or $(CC),gcc) -print-file-name=libasan.so) $$($(or $(CC),gcc) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 \
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1 HYPERPLANE_SANITIZE=1

asan: asan-build
	$(ASAN_RUN) ../../$(BIN)/python -m pytest tests/engine -q -p no:cacheprovider
	$(MAKE) asan-fuzz

# The part of it that `make test` runs: a quarter of a million mutated frames.
asan-fuzz: asan-build
	$(ASAN_RUN) ../../$(BIN)/python -m tests.fuzz.engine_fuzz --frames $(FUZZ_FRAMES)

# What Cython made of the engine is C for these, too.
asan-build: $(TOOLS) $(BUILT)
	mkdir -p $(ASAN)
	rm -rf $(ASAN)/tests
	tar -cf - --exclude='*.so' --exclude=__pycache__ \
		setup.py pyproject.toml README.md LICENSE hyperplane_nat netns bench tests \
		build/cython/hyperplane_nat/engine | tar -C $(ASAN) -xf -
	cd $(ASAN) && HYPERPLANE_SANITIZE=1 ../../$(BIN)/python setup.py -q build_ext --inplace \
		--parallel $(JOBS)

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find hyperplane_nat netns bench tests -name '*.so' -delete
	find hyperplane_nat netns bench tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) *.egg-info
