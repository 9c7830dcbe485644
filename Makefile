# Nothing but Python 3.11, venv, git and make is needed beforehand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# pip would only say that a package has no such version
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python %d.%d, and this needs 3.11 or newer: make install PYTHON=python3.11" % sys.version_info[:2])'

export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
# otherwise each process would compile the sources and the tests again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install shell rehearse up test coverage prove screenshots bench lint types style imports secrets audit lock clean

install: $(READY)

# An environment that was copied or moved with its folder runs the code of the other one, and one whose
# Python has gone runs nothing: without its python it is made anew.
ifneq ($(wildcard $(READY)),)
STALE := $(shell test "$$(cat $(READY))" = "$(CURDIR)" && $(BIN)/python -c "" || rm -f $(READY) $(BIN)/python)
endif

$(READY): requirements-dev.lock pyproject.toml
# without a pip that works it was never finished: no python3-venv, or Ctrl-C
	@$(BIN)/python -m pip install --help >/dev/null 2>&1 || { $(NEW_ENOUGH) && $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	echo "$(CURDIR)" > $@

# a shell in which `cmek` and `prefect` are found; `exit` leaves it
shell: $(READY)
	. $(BIN)/activate && exec "$${SHELL:-/bin/sh}"

# SIGNED=1: the approver signs, and a gateway holds the Admin API credential
rehearse: $(READY)
	$(BIN)/cmek rehearse $(if $(SIGNED),--signed)

up: $(READY)
	$(BIN)/cmek up

test: lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# branch coverage of the tests of `make test`, with the floor of pyproject.toml
coverage: $(READY)
	mkdir -p .cmek
	$(BIN)/coverage run -m pytest -n 3 --dist loadfile --no-loadscope-reorder
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# the long proofs, with the variants that `make test` leaves out; ends with their table
prove: $(READY)
	$(BIN)/python -m tests.proofs

# the pictures in docs/, taken again by the browser tests
screenshots: $(READY)
	CMEK_SCREENSHOTS=docs/screenshots $(BIN)/python -m pytest tests/e2e/test_browser.py -m e2e

# seconds are compared within one run only; needs a machine that does nothing else
bench: $(READY)
	$(BIN)/python -m benchmarks.start_up
	$(BIN)/python -m benchmarks.checks
	$(BIN)/python -m benchmarks.gateway
	$(BIN)/python -m benchmarks.api_writes
	$(BIN)/python -m benchmarks.burst
	$(BIN)/python -m benchmarks.revalidation
	$(BIN)/python -m benchmarks.detection

# two at a time: no tool but the scan for secrets uses two processors
lint: $(READY)
	@+$(MAKE) --no-print-directory --jobs 2 types secrets style imports
# a vulnerability that became known since the lock was written is no fault of the checkout: here it is
# only said; a workflow of its own runs `make audit` every week
	@if $(BIN)/python -c 'import socket; socket.create_connection(("api.osv.dev", 443), 3)' 2>/dev/null; then $(MAKE) audit || echo "packages not audited, or with known vulnerabilities: see above; make audit"; else echo "dependencies not audited: api.osv.dev, which knows their vulnerabilities, can't be reached"; fi

types: $(READY)
	$(BIN)/mypy

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports: $(READY)
	$(BIN)/lint-imports

secrets: $(READY)
# the excluded texts are names of secrets, and what tests put where a secret is expected
	git ls-files -z > $(VENV)/tracked && test -s $(VENV)/tracked
	xargs -0 -n 120 -P 2 $(BIN)/detect-secrets-hook --no-verify --disable-plugin Base64HighEntropyString --disable-plugin HexHighEntropyString --disable-filter detect_secrets.filters.heuristic.is_indirect_reference --exclude-secrets '^(prefect-api-auth-string|cmek-records-key|CANARY)$$' < $(VENV)/tracked

# known vulnerabilities of the locked packages
audit: $(READY)
	$(BIN)/pip-audit --vulnerability-service osv --disable-pip --require-hashes --requirement requirements-dev.lock

# production's lock, and the same with the local stack and the tools; for each 3.11, since 3.11.2,
# which is Debian 12's, needs a package more than 3.11.3
COMPILE = $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra build
lock: $(READY)
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) --extra local --extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) *.egg-info
