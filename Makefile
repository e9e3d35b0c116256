# Everything a person runs by hand. `make start` is the newcomer's command, `make test` is CI's.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCALE ?= smoke
export PYTHONDONTWRITEBYTECODE ?=

.PHONY: help start setup test check lint types layers release unit notebooks stored walk vllm guidellm triton tritonserver llamacpp mnn hostile faults labs lectures bench lock clean python

help:  ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "make: no '$(PYTHON)' found: install Python 3.11 or newer, or name one: make start PYTHON=python3.12" >&2; exit 1; }

start: python  ## Set up, run one lecture, grade a sample class, open JupyterLab (LAB=0 leaves that out)
	@$(PYTHON) scripts/start.py

setup: python  ## Make .venv with everything tests and notebooks need
	@$(PYTHON) scripts/start.py --extra dev --only install,model

test: setup check unit hostile faults notebooks stored walk vllm guidellm triton tritonserver  ## All that CI runs, from a clean checkout

check: lint types layers release  ## Lint, types, layers, labs/ fresh and without leaks: half a minute

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

layers:
	$(BIN)/lint-imports

release:
	$(BIN)/grader release --check

unit:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not browser and not vllm and not guidellm and not tritonserver" \
		--ignore tests/grader/hostile

hostile:  ## Grade the hostile and broken submissions on every tier there is
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/grader/hostile/test_hostile.py \
		tests/grader/hostile/test_archives.py

faults:  ## Kill graders anywhere, fill the disk, lock the gradebook, keep the machine busy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/grader/hostile/test_interrupted.py \
		tests/grader/hostile/test_faults.py

notebooks:  ## Execute every lecture and solved lab at SCALE (smoke, cpu or gpu)
	$(BIN)/grader run --scale $(SCALE)

stored:  ## Compare the lectures' marked cells, as `make notebooks` left them, with those stored
	$(BIN)/python scripts/check_stored.py

walk:  ## A person's walk through make start, a lecture and a lab in headless Chromium
	$(BIN)/python -m pytest -q -m browser

vllm:  ## Load exported models in a real vLLM, in an environment of its own
	@$(PYTHON) scripts/vllm_env.py
	$(BIN)/python -m pytest -q -m vllm

guidellm:  ## Load our server with GuideLLM, in an environment of its own
	@$(PYTHON) scripts/guidellm_env.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m guidellm tests/labkit/serving/test_guidellm.py

triton:  ## Run our Triton kernels in its interpreter, in an environment of its own
	@$(PYTHON) scripts/triton_env.py
	TRITON_INTERPRET=1 .venv-triton/bin/python -m pytest -q tests/labkit/model/test_flash_triton.py

tritonserver:  ## Call a real Triton Inference Server that runs labkit, in an environment of its own
	@$(PYTHON) scripts/tritonserver_env.py
	OMP_NUM_THREADS=1 .venv-tritonserver/bin/python -m pytest -q -m tritonserver \
		tests/labkit/serving/tritonserver

llamacpp:  ## Compile llama.cpp into an environment of its own, for the benchmarks
	@$(PYTHON) scripts/llamacpp_env.py

mnn:  ## Install MNN-LLM into an environment of its own, for benchmarks/landscape.py
	@$(PYTHON) scripts/mnn_env.py

labs:  ## Generate labs/ from solutions/
	$(BIN)/grader release

lectures:  ## Execute the lectures at SCALE=cpu and store their outputs
	$(BIN)/grader run --scale cpu --only chapters --store

bench:  ## Measure the committed benchmarks on an idle machine
	$(BIN)/python -m benchmarks.decode
	$(BIN)/python -m benchmarks.training
	$(PYTHON) scripts/otter_env.py
	$(BIN)/python -m benchmarks.grading
	$(PYTHON) scripts/vllm_env.py
	$(PYTHON) scripts/llamacpp_env.py
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.report

lock:  ## Write constraints.txt: what the course needs, as .venv has it
	$(BIN)/python scripts/lock.py

clean:  ## Remove caches and what building left; .venv and grades stay
	rm -rf .start .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
