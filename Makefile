# Two commands are enough: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
PY := .venv/bin/python
UV_COMPILE := .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --quiet
TESTS ?= tests
# run first with all requests read by gunicorn's own parser
ON_STOCK ?= $(if $(filter tests,$(TESTS)),$(wildcard $(addprefix tests/integration/test_,strict_requests.py \
	gateway_answers.py gateway_bodies.py gateway_connections.py gateway_parser.py gateway_process.py gateway_transparent.py)))
JOBS ?= 2

.PHONY: help run test bench lint format lock docs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

run: .venv/.embedded ## Run the whole system here: gateway on 5001, data in var/ (RESET=1 starts over)
	@exec $(PY) -m deploy.local

test: .venv/.test lint ## Everything: lint, types, contracts, unit, integration, contract and end-to-end tests
	@deploy/tools.sh
	$(PY) -m gateway test gateway/cases.yaml
	$(if $(ON_STOCK),TESTED_WORKER=stock $(PY) -m pytest $(ON_STOCK) -n $(JOBS))
	$(PY) -m pytest $(TESTS) -n $(JOBS)

bench: .venv/.embedded ## Measure what a request costs, beside other gateways, into docs/performance.md (QUICK=1: some, and only printed)
	@$(if $(QUICK),,deploy/tools.sh bench)
	@exec $(PY) -m bench $(if $(QUICK),--quick)

lint: .venv/.test ## Only the checks that run nothing
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright
	.venv/bin/lint-imports
	.venv/bin/yamllint --strict .
	git ls-files -z --cached --others --exclude-standard 'Dockerfile*' | xargs -0 -r .venv/bin/hadolint
	git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run | xargs -0 -r .venv/bin/shellcheck

format: .venv/.test ## Format the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: .venv/.test ## Resolve the dependencies of pyproject.toml anew
	$(UV_COMPILE) --upgrade -o requirements.txt
	$(UV_COMPILE) --upgrade --extra embedded -c requirements.txt -o requirements-embedded.txt
	$(UV_COMPILE) --upgrade --extra embedded --extra test -c requirements-embedded.txt -o requirements-test.txt
	$(UV_COMPILE) --upgrade --extra bench -c requirements.txt -o requirements-bench.txt

docs: .venv/.test ## Write the parts of the documentation that come from the code
	$(PY) -m deploy.reference

clean: ## Remove the environment, caches and the data of development runs
	rm -rf .venv var .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed and '$(PYTHON)' is not here; say where: make PYTHON=/path/to/python3 ..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) -V). Say where: make PYTHON=/path/to/python3 ..."; exit 2; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "This Python can't make virtual environments; on Debian: apt-get install python3-venv"; exit 2; }

.venv/.embedded: .venv/bin/python requirements-embedded.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-embedded.txt
	@touch $@

.venv/.test: .venv/bin/python requirements-test.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.txt
	@touch $@ .venv/.embedded
