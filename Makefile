# make demo | make test | make lint | make bench | make bench-trl
# make test-long | make test-sglang | make test-integrations | make test-megatron-latest
# Everything runs in a virtual environment that the first target makes; only Python 3.11+ and pip must be there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL := smollm2-135m

.PHONY: demo test lint bench bench-trl test-long test-sglang test-integrations test-megatron-latest clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/slimrl train --config examples/arithmetic/demo.toml --hf-checkpoint "$$($(BIN)/slimrl model fetch $(MODEL))"

# Two at a time: whole runs wait half of theirs.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-long: $(VENV)/.installed
	$(BIN)/python -m pytest -m long tests/e2e

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/transport.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/rewards.py
	$(BIN)/python benchmarks/rollout_scale.py

# TRL in an environment of its own, with the versions that slimrl has where both need a package.
.venv-trl/.installed: constraints.txt
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --upgrade pip
	.venv-trl/bin/python -m pip install --quiet --constraint constraints.txt 'trl>=1.16' pluggy psutil
	touch $@

bench-trl: $(VENV)/.installed .venv-trl/.installed
	$(BIN)/python benchmarks/trl_step.py

test-sglang: $(VENV)/.installed
	tests/sglang/setup.sh .venv-sglang
	SLIMRL_SGLANG_VENV=.venv-sglang $(BIN)/python -m pytest -m sglang tests/contract

# The extras' libraries have many dependencies of their own, so they get an environment of their own.
INTEGRATIONS := integrations/rl-reward-reasoning-gym integrations/rl-generator-verifiers
.venv-integrations/.installed: pyproject.toml constraints.txt $(INTEGRATIONS:%=%/pyproject.toml)
	$(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/python -m pip install --quiet --upgrade pip
	grep -v '^openai==' constraints.txt > .venv-integrations/constraints.txt  # verifiers 0.4 wants openai 2
	.venv-integrations/bin/python -m pip install --quiet --constraint .venv-integrations/constraints.txt \
	    --editable '.[dev,reasoning-gym,verifiers]'
	.venv-integrations/bin/python -m pip install --quiet --no-deps $(INTEGRATIONS:%=--editable %)
	touch $@

test-integrations: .venv-integrations/.installed
	set -e; for folder in $(INTEGRATIONS); do (cd $$folder && $(CURDIR)/.venv-integrations/bin/python -m pytest); done
	.venv-integrations/bin/python -m pytest -m integration tests/integrations

# The newest Megatron-core; it is built for Python 3.11 too, though its metadata asks for 3.12.
.venv-megatron/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-megatron
	.venv-megatron/bin/python -m pip install --quiet --upgrade pip
	.venv-megatron/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	.venv-megatron/bin/python -m pip install --quiet --no-deps --ignore-requires-python --upgrade 'megatron-core==0.19.*'
	touch $@

test-megatron-latest: .venv-megatron/.installed
	.venv-megatron/bin/python -m pytest -n 2 --dist loadgroup

clean:
	rm -rf $(VENV) .venv-trl .venv-sglang .venv-integrations .venv-megatron runs
