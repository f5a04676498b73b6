# What a person types; CI types the same.
# DVC runs a stage with the first `python` on PATH, so the project's own comes first.
SHELL := /bin/bash
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true
# A variable left by an outer DVC process would name another repository.
unexport DVC_ROOT DVC_EXP_NAME DVC_EXP_BASELINE_REV
# With it, each of the many short processes would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
READY := $(VENV)/.ready
# Where an environment forbids Python to keep what it has compiled, as those of containers do, each
# start of `dvc` would compile thousands of modules anew. DVC imports most of its own when needed.
LAZY := dvc* scmrepo dulwich networkx celery kombu amqp ruamel hydra omegaconf antlr4 pygit2 fsspec funcy \
  platformdirs pathspec uvicorn anyio docker hypothesis execnet xdist
SERVING := mlflow.server.fastapi_app, mlflow.cli, mlflow.pyfunc.scoring_server
COMPUTING := torch.export, torch._dynamo, torchvision.datasets, sklearn.datasets, matplotlib.figure, optuna, pytest

.DEFAULT_GOAL := help
.PHONY: help setup repro compare sweep ladder sync verify test test-slow test-fast lint format fresh nightly gate audit ui docs screenshots lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock bootstrap.lock pyproject.toml
	@case "$$PWD" in \
	  *:*) echo "error: $$PWD has a colon, which PATH cannot hold; rename the folder"; exit 2;; \
	  *%*) echo "error: $$PWD has a %, below which MLflow cannot be installed; rename the folder"; exit 2;; \
	esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed; name it: make PYTHON=python3.12 ...")'
	@echo "making $(VENV) ..."
	@# Not by the environment's own Python, which comes first on PATH and is about to be removed.
	@"$$($(PYTHON) -c 'import sys; print(sys._base_executable)')" -m venv --clear $(VENV)
	@pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@echo "installing the packages of requirements.lock; they are 6 GB, and are downloaded only once ..."
	@VIRTUAL_ENV="$$PWD/$(VENV)" uv pip install --quiet --require-hashes -r requirements.lock
	@echo "installing this project ..."
	@VIRTUAL_ENV="$$PWD/$(VENV)" uv pip install --quiet --no-deps --no-build-isolation --editable .
	@echo "compiling what DVC, PyTorch and MLflow load ..."
	@unset PYTHONDONTWRITEBYTECODE; \
	python -W ignore -c 'import $(COMPUTING)' & \
	python -m compileall -q -x '/tests?/' $(LAZY:%=$(VENV)/lib/python3*/site-packages/%); \
	python -W ignore -c 'import $(SERVING)'; \
	wait
	@pwd -P > $@

# Scripts in an environment name its folder, so that one that was moved or copied runs what is left
# in the old place. The file is empty where an older Makefile made it.
setup: $(READY) .dvc/config ## make .venv with every dependency at its locked version
	@[ ! -s $(READY) ] || [ "$$(cat $(READY))" -ef . ] || { \
	  echo "error: $(VENV) was made in $$(cat $(READY)) and works only there; make a new one: make clean setup"; exit 2; }

.dvc/config:
	dvc init --quiet

repro: setup ## run the four stages, or what of them is out of date
	@dvc repro
	@striate sync
	@striate summary

compare: setup ## show the experiments as a table
	@striate experiments

# Every combination is an experiment. Two trainings that share cores slow each other down many times.
SWEEP ?= -S model.layers=1,2,3 -S model.width=8,16 -S training.learning_rate=0.001,0.003
WORKERS ?= 2

sweep: setup ## train 12 networks on two workers; draw accuracy against size and time
	dvc exp run --queue $(SWEEP)
	OMP_NUM_THREADS=1 dvc exp run --run-all --jobs $(WORKERS)
	@striate sync
	@striate pareto

DATA ?= digits
SEEDS ?= 5

ladder: setup ## train the networks of 1986 to 2024 on DATA=digits; a page and a picture in docs/ladder
	@striate ladder $(DATA) --seeds $(SEEDS) --to docs/ladder

sync: setup ## give every DVC experiment its run in MLflow
	@striate sync

verify: setup ## check that DVC and MLflow hold the same numbers
	@striate verify

# Side by side, each on one core; what takes longest comes first and is not left for the end.
TESTERS ?= 2
TEST = OMP_NUM_THREADS=1 pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder --durations=20

test: setup ## run the tests but long walks; fail below 90 % of coverage
	$(TEST) -m "not walk" --cov --cov-report=term-missing:skip-covered

test-slow: setup ## run the long walks: kills, a team, a browser, the pages' commands, MNIST and CIFAR-10
	$(TEST) -m walk --no-cov

test-fast: setup ## run the tests that take seconds
	pytest -m "not slow and not walk"

# It fails at a link or an anchor that leads nowhere.
SITE = NO_MKDOCS_2_WARNING=1 mkdocs build --strict

lint: setup ## check style, format, types, imports, the docs site, the workflow and what is deployed
	ruff check
	ruff format --check
	mypy
	lint-imports --no-logo --no-cache
	$(SITE)
	check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml
	bash -n deploy/slurm.sbatch
	zizmor --quiet --offline --no-progress .github/workflows

format: setup ## mend style and format
	ruff check --fix
	ruff format

# DVC ends with status 0 also where it would run something.
fresh: setup ## check that dvc.lock and metrics/ are of this code and these params
	@planned=$$(dvc repro --dry --allow-missing) || { echo "$$planned"; exit 1; }; \
	if grep "^Running stage" <<< "$$planned"; then \
	  echo "error: dvc.lock is older than code or params: run make repro and commit its results"; exit 1; \
	fi

nightly: setup ## kill 100 trainings, and processes of 20 more; train on MNIST; fail below 99%
	STRIATE_KILLS=100 pytest tests/unit/training/test_resume.py --no-cov -k random_instants
	STRIATE_KILLS=20 pytest tests/unit/training/test_parallel.py --no-cov -k random_instants
	dvc exp run $$(striate recipe mnist-99)
	@python -c 'import json, sys; right = json.load(open("metrics/test.json"))["accuracy"]; \
	  sys.exit(0 if right >= 0.99 else f"error: {right:.2%} is below 99%")'

gate: setup ## compare metrics/ with main, or with AGAINST=REV
	@striate gate $(if $(AGAINST),--against $(AGAINST))

# It reports and never fails: many a finding has no mended version yet. Without the network there is
# nothing to look up, which it says too.
audit: setup ## look up known vulnerabilities of the locked dependencies
	@pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements.lock \
	  || echo "audit: there are findings, or not everything could be looked up (see above)"

ui: setup ## open MLflow's pages on this machine
	@striate ui

serve: setup ## open a page on which to draw for the champion
	@striate serve

docs: setup ## write docs/params.md and docs/cli.md from their sources; build the site in site/
	@python docs/make_params.py
	@python docs/make_cli.py
	@$(SITE)

screenshots: setup ## keep the pictures in docs/images that the browser tests see
	STRIATE_SCREENSHOTS=docs/images pytest tests/integration/test_browser.py

lock: setup ## resolve the dependencies anew
	uv pip compile --quiet pyproject.toml --extra team --extra timm --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -o requirements.lock

clean: ## remove .venv and what tools leave behind; data, models and runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
