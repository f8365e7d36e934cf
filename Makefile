# Every target does its own set-up; see scripts/setup.sh. ARGS are handed on: make test ARGS="-k names"

# The Python that .venv is made with, 3.11 or newer; to change it, `make clean` first.
PYTHON ?= python3
export PYTHON
# The tests start some thousand Pythons: not each of them is to compile every module anew.
unexport PYTHONDONTWRITEBYTECODE
# The processes that the tests are spread over; most of them wait for a disk or for a server most of the time.
WORKERS ?= 4

.PHONY: help install run test check bench man screenshots wok-install clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 24

install: ## Set up what `make run` needs, and nothing else
	@scripts/setup.sh run

run: install ## Start the server; options of `cloner serve` in ARGS
	@exec .venv/bin/cloner serve $(ARGS)

test: ## Run the tests; pytest's options in ARGS
	@scripts/setup.sh test
	@.venv/bin/pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

check: ## Lint, check the format and the types
	@scripts/setup.sh check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --package cloner --package bench
	.venv/bin/mypy tests

bench: ## Measure against the alternatives, QUICK=1 for less; options in ARGS, see ARGS=--help
	@scripts/setup.sh bench
	@PYTHONPATH=tests .venv/bin/python -P -m bench $(if $(QUICK),--quick) $(ARGS)

man: ## Write docs/cloner.1, the manual page, anew
	@scripts/setup.sh run
	@.venv/bin/python scripts/manpage.py

wok-install: ## Put the plugin into a Wok: WOK=DIR, which has `plugins` in it
	@scripts/wok-install.sh "$(WOK)"

screenshots: ## Take the pictures of the page in docs/img anew, as root
	@scripts/setup.sh test
	@PYTHONPATH=tests .venv/bin/python -P scripts/screenshots.py

clean: ## Remove .venv, caches and builds
	rm -rf .venv *.egg-info build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
