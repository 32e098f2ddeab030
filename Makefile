SHELL := /bin/bash
.DEFAULT_GOAL := help
COMMA := ,
.PHONY: help demo demo-update docs test test-runtime lint clean

help:            ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

# Demos of a driving robot: the scripts demo/NAME.py.
DEMOS := two_rooms first_person
DEMO ?= first_person

demo:            ## run the demo over ROS 2; results in out/demo; DEMO=first_person or two_rooms (for DEMO_SECONDS, default 45)
	@$(if $(filter $(DEMO),$(DEMOS)),,$(error DEMO must be one of $(DEMOS), got $(DEMO)))
	@scripts/setup.sh --with ros,viz$(if $(filter first_person,$(DEMO)),$(COMMA)first-person)
	@. scripts/env.sh && exec python demo/$(DEMO).py

demo-update:     ## three releases over the air to a driving robot: one is installed, two are rejected; results in out/demo-update
	@scripts/setup.sh --with ros,viz,export
	@. scripts/env.sh && exec python demo/update.py

docs:            ## build the documentation site in out/site; strict: a broken link is an error
	@scripts/setup.sh --with ros,viz,export,docs
	@. scripts/env.sh && exec python -m mkdocs build

# Tests start thousands of processes: none compiles the modules that an earlier one has imported.
test test-runtime: export PYTHONDONTWRITEBYTECODE =

test:            ## run the tests; PYTEST_ARGS="-k bundle" selects some
	@scripts/setup.sh --with ros,viz,export,dev
	@. scripts/env.sh && $(if $(PYTEST_ARGS),exec python -m pytest $(PYTEST_ARGS),$(ALL_TESTS))

# The tests of ROS 2 nodes run alone, because they check real-time limits, except those in simulated time.
ALL_TESTS = failed=0; \
	python -m pytest --durations=10 -rfEs --numprocesses 2 --dist worksteal --ignore-glob 'tests/ros/test_*' || failed=1; \
	python -m pytest --durations=10 -rfEs tests/ros --ignore tests/ros/simulated_time || failed=1; \
	exit $$failed

test-runtime:    ## the runtime's tests in an environment without torch and ROS 2; PYTHON=python3.10 make test-runtime
	@scripts/setup.sh --with onnxruntime,viz,dev
	@. scripts/env.sh && $(RUNTIME_TESTS)

# Trust, downloads and the gate of updates, which run on Python 3.10 on JetPack 6.
UPDATE_TESTS = $(addprefix tests/ota/,trust/test_repository_trust.py trust/test_floors.py test_client.py \
	transport/test_http_source.py gate/test_probe.py gate/test_confinement.py gate/test_engine_build.py)
# Tests of the code that uses third-party packages, for a run with the oldest ones.
PACKAGE_TESTS = $(addprefix tests/runtime/,calibration control visualization planning replay commands/test_arguments.py \
	backends/test_backends.py backends/test_openvino_cache.py sources/test_bag.py bundle/test_bundle.py profiling/test_comparison.py \
	imaging/test_conversion.py util/test_output_files.py sources/test_sources.py profiling/test_perfetto_trace.py \
	model/test_parity.py)
# Run separately: tests that use OpenVINO directly may leave their thread with a freed signal stack, see
# jepa_runtime.backends.openvino.signal_stack.
SIGNAL_TESTS = tests/runtime/commands/test_run.py tests/runtime/commands/test_run_process.py
PYTEST = python -m pytest --durations=10 -rfEs
ifeq ($(JEPA_PACKAGES),oldest)
RUNTIME_TESTS = exec $(PYTEST) --numprocesses 2 --dist worksteal $(PACKAGE_TESTS) $(UPDATE_TESTS)
else
RUNTIME_TESTS = failed=0; \
	$(PYTEST) --numprocesses 2 --dist worksteal $(addprefix --ignore=,$(SIGNAL_TESTS)) tests/runtime tests/sim $(UPDATE_TESTS) || failed=1; \
	$(PYTEST) $(SIGNAL_TESTS) || failed=1; \
	exit $$failed
endif

lint:            ## check style, types, the direction of imports and spelling
	@scripts/setup.sh --with ros,viz,export,dev
	@. scripts/env.sh && ruff check . && mypy && lint-imports && codespell

clean:           ## remove build outputs (.venv stays)
	@rm -rf out ros2_ws/build ros2_ws/install ros2_ws/log .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
