# Every target sets itself up first (contrib/setup); all of it works from a bare checkout.
.DEFAULT_GOAL := help
.PHONY: help setup demo bench test quick soak lint lock lowest man docs deb clean

BIN := .venv/bin
# Tests wait for machines and for programs: one worker more than there are processors keeps all of these busy.
WORKERS = $$(($$(nproc) + 1))
# What takes each worker a second to import, for the tests of one file.
LIGHT := -p no:schemathesis --ignore=tests/api/test_generated_requests.py
# Machines and programs on busy cores are now and then slower than a test allows: what fails is run once more, alone.
AGAIN := -x --last-failed --last-failed-no-failures=none
# Tests are compiled once, whatever the environment says: to do that takes as long as to collect them.
export PYTHONDONTWRITEBYTECODE :=

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: # the programs and the virtual environment that everything else needs
	@contrib/setup

demo: setup ## three real machines on this one, with a fleet to play with (needs root); ACT=change, ACT=reboot, ACT=services: under traffic
	@$(BIN)/python -m contrib.demo $(ACT)

quick: lint ## what to run after each change, in a minute: linters, types, all tests but machines and long ones
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not machines and not long" --hypothesis-profile=quick $(LIGHT)

test: lint ## everything, real machines among it (needs root): 83 minutes on two busy cores
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --cache-clear --durations=20 --cov --cov-report= --cov-fail-under=0 || \
	  { [ $$? = 1 ] && $(BIN)/python -m pytest $(AGAIN); }
	$(BIN)/python -m coverage report

soak: setup ## until stopped: what is too long for make test, FLEET_STORMS (100) if root, then simulated hours
	@$(BIN)/python -m pytest -v -m soak
	@[ "$$(id -u)" != 0 ] || FLEET_STORMS=$${FLEET_STORMS:-100} $(BIN)/python -m pytest -v -x tests/cluster/test_storms.py
	@$(BIN)/python -m tests.simulation soak

bench: setup ## measure the figures of docs/performance.md on real machines (needs root); BENCH=large: on twenty
	@$(BIN)/python -m contrib.bench $(if $(filter large,$(BENCH)),--machines 20 --units 1000 --rounds 3)

lint: setup ## style, types, and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: setup # requirements.lock: the newest version of everything that a machine gets, by hash
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --extra speed --extra top --extra dns --extra template --extra build \
	  --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

lowest: setup # the tests of what libraries are used for, on the lowest versions that pyproject.toml allows
	@contrib/lowest

man: setup ## render the man pages in contrib/man, which the package contains, from docs/man and the programs
	@$(BIN)/python -m contrib.man

docs: setup ## build the web pages of docs/ into build/docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/docs

deb: setup ## build the Debian package, with everything that fleet needs but Python itself, into build/
	@contrib/deb/build

clean: ## remove the virtual environment, caches, and what killed runs left behind
	@[ ! -x $(BIN)/python -o "$$(id -u)" != 0 ] || $(BIN)/python -c 'from contrib.testbed import Cluster; Cluster.clean_leftovers()'
	rm -rf .venv .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
	find fleetd fleetctl contrib tests -name __pycache__ -prune -exec rm -rf {} +
