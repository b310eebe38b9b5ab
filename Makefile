# Every command makes the environment first when it is missing or pyproject.toml has changed; `make help` lists them.
PYTHON ?= python3
WORKERS ?= 2
RUN := .venv/bin/python
INSTALLED := .venv/.installed

# A stamp beside an environment that no longer works (half built, or its Python was upgraded away) counts for nothing.
ifneq ($(shell $(RUN) -c "import importlib.metadata as m; m.version('minidetr'); print('works')" 2>/dev/null),works)
.PHONY: $(INSTALLED)
endif

.PHONY: help install demo test lint figures lab clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED)  ## make the environment in .venv

$(INSTALLED): pyproject.toml
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(RUN) -m pip install -e ".[test,notebooks]"
	touch $@

demo: install  ## segment held-out scenes with the shipped weights; pictures and scores in demo/
	$(RUN) -m minidetr demo --output demo

test: lint  ## lint, then every test
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

lint: install  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m mypy

figures: install  ## rebuild every figure in images/ from the shipped model
	$(RUN) -m minidetr demo --output build/figures --count 4
	mkdir -p images && cp build/figures/contact_sheet.png images/demo.png

lab: install  ## open the lessons in Jupyter
	$(RUN) -m jupyter lab notebooks

clean:  ## remove what can be made again, but for the environment
	rm -rf demo build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find minidetr tests -name __pycache__ -type d -prune -exec rm -rf {} +
