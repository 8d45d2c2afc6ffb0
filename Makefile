# Two commands do everything, their own set-up included: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ftmeta-installed
CONFIG ?=

# Ray asks for a token wherever it runs; threads beyond the two cores of a small machine only get in each other's way.
export RAY_AUTH_MODE := token
export TOKENIZERS_PARALLELISM := false
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo test test-fast test-faults test-long test-images test-fuzz lint format up mlflow stop status doctor bench bench-gpu bench-plan bench-finetune bench-collection bench-tune bench-serve bench-sweep bench-scale bench-tracking report-tasks report-metadata report-live pretrain clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## the virtual environment, with everything

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found; install it, or say make PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; say make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Setting up $(VENV) (once; about four minutes) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt torch 2>$(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev,baselines,smollm2,synthesis]' 2>>$(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }
	@touch $@

demo: $(STAMP)  ## from a dataset to a recommended, finetuned model, on this machine
	@$(BIN)/python -m jobs.demo

test: $(STAMP) lint  ## all checks and tests, a real Ray cluster, Serve and MLflow among them
	@$(BIN)/python tests/run.py

test-fast: $(STAMP)  ## the tests that start no cluster and no browser
	@$(BIN)/python -m pytest -m "not cluster and not browser and not long"

test-faults: $(STAMP)  ## the two-node cluster and every fault, with those that `make test` leaves out (15 minutes)
	@$(BIN)/python -m pytest -m "long or not long" tests/cluster/test_two_nodes.py tests/cluster/test_faults.py

test-long: $(STAMP)  ## everything that `make test` leaves out (half an hour)
	@$(BIN)/python -m pytest -m long

test-images: $(STAMP)  ## what the images and manifests install and start, for real (10 minutes)
	@$(BIN)/python -m pytest -m long tests/manifests

test-fuzz: $(STAMP)  ## 10,000 requests to the service that nobody means well (4 minutes)
	@$(BIN)/python -m pytest -m "long or not long" tests/serving/test_fuzz.py

lint: $(STAMP)  ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/lint-imports --no-cache > $(VENV)/import-linter.log || { cat $(VENV)/import-linter.log; exit 1; }

format: $(STAMP)  ## let ruff write the layout
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

up: $(STAMP)  ## a Ray cluster, MLflow and the selector service on this machine
	@$(BIN)/python -m ftmeta.orchestrate.local up
	@printf 'Service                 ' && env -u RAY_ADDRESS -u RAY_AUTH_TOKEN $(BIN)/python -m jobs.serve

mlflow: $(STAMP)  ## an MLflow server alone on this machine, until Ctrl-C
	@mkdir -p .ftmeta/mlflow
	@$(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	  --backend-store-uri sqlite:///$(CURDIR)/.ftmeta/mlflow/mlflow.db --artifacts-destination $(CURDIR)/.ftmeta/mlflow/artifacts

stop:  ## ends what `make up` or `make demo` started, and nothing else
	@test -e $(STAMP) || { echo "Nothing to stop: nothing is installed here."; exit 0; }; $(BIN)/python -m ftmeta.orchestrate.local stop

status: $(STAMP)  ## what of it runs, and where
	@$(BIN)/python -m ftmeta.orchestrate.local status

doctor: $(STAMP)  ## what this machine has and lacks
	@$(BIN)/ftmeta doctor

bench: $(STAMP)  ## speed and memory of the spine against its targets
	@$(BIN)/python -m jobs.bench --out docs/reports/spine.md

bench-gpu: $(STAMP)  ## what waits for a CUDA device: the Phi-3-mini architecture, GPU tests
	@$(BIN)/python -m jobs.bench_gpu

bench-plan: $(STAMP)  ## the planner's memory model against measured peaks (half an hour; goes on where it stopped)
	@$(BIN)/python -m jobs.bench_plan

bench-serve: $(STAMP)  ## the service beside an empty deployment, and under load with kills (needs wrk)
	-@$(BIN)/python -m jobs.bench_serve speed
	@$(BIN)/python -m jobs.bench_serve kills

bench-sweep: $(STAMP)  ## many runs at once on one base against one at a time (fifteen minutes; --device cuda on a GPU)
	@$(BIN)/python -m jobs.bench_sweep

bench-scale: $(STAMP)  ## what is full first at 100 and 1,000 GPUs (ten minutes, no GPU)
	@$(BIN)/python -m jobs.bench_scale

bench-tracking: $(STAMP)  ## MLflow's share of a sweep, in turns (quiet machine, twenty minutes); reading 10,000 runs
	@$(BIN)/python -m jobs.bench_tracking overhead
	@$(BIN)/python -m jobs.bench_tracking read

bench-tune: $(STAMP)  ## live tuning: what a step costs beside its work, time to the first step, busy slots (six minutes)
	@$(BIN)/python -m jobs.bench_tune

bench-finetune: $(STAMP)  ## the worker's speed and memory against trl's SFTTrainer, start-up on two workers (half an hour)
	@$(BIN)/python -m jobs.bench_startup
	@$(BIN)/python -m jobs.bench_finetune --again

bench-collection: $(STAMP)  ## the sweep's machine: scale, scheduling, against trl, kill -9 twenty times (about two hours)
	-@$(BIN)/python -m jobs.bench_collection scale
	-@$(BIN)/python -m jobs.bench_collection schedule
	-@$(BIN)/python -m jobs.bench_collection trl
	@$(BIN)/python -m jobs.bench_collection faults

report-tasks: $(STAMP)  ## finetune on the bundled tasks and write docs/reports/tasks.md (an hour; goes on where it stopped)
	@$(BIN)/ftmeta collect jobs/configs/collect-tasks.yaml --out out/tasks-sweep
	@$(BIN)/python -m jobs.report_tasks --sweep out/tasks-sweep --out docs/reports/tasks.md

report-metadata: $(STAMP)  ## what the bundled meta-dataset shows: docs/reports/metadata.md (minutes)
	@$(BIN)/python -m jobs.report_metadata --metadata phi3-micro --out docs/reports/metadata.md

report-live: $(STAMP)  ## live tuning on three new datasets and write docs/reports/live.md (two hours; goes on where it stopped)
	@$(BIN)/python -m jobs.report_live

pretrain: $(STAMP)  ## rebuild phi3-micro into out/phi3-micro (7 minutes on an H100; its card says what a CPU takes)
	@$(BIN)/python -m jobs.pretrain_micro --config jobs/configs/pretrain-micro.yaml --out out/phi3-micro

clean: stop  ## remove the virtual environment and the state of the local cluster
	@rm -rf $(VENV) .ftmeta
