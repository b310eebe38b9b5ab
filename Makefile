# Every command makes the environment first when it is missing or pyproject.toml has changed; `make help` lists them.
PYTHON ?= python3
WORKERS ?= 2
MINUTES ?= 95
RUNS ?= runs
PRESET ?= tiny
RUN := .venv/bin/python
INSTALLED := .venv/.installed

# A stamp beside an environment that no longer works (half built, or its Python was upgraded away) counts for nothing.
ifneq ($(shell $(RUN) -c "import importlib.metadata as m; m.version('minidetr'); print('works')" 2>/dev/null),works)
.PHONY: $(INSTALLED)
endif

.PHONY: help install demo test lint lessons page test-page site matrix constraints colab-smoke notebooks figures stamp weights bench fuzz kill \
	load lab clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED)  ## make the environment in .venv

$(INSTALLED): pyproject.toml
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(RUN) -m pip install -e ".[test,notebooks]"
	touch $@

demo: install  ## segment held-out scenes with the shipped weights; pictures and scores in demo/
	$(RUN) -m minidetr demo --output demo

# WORKERS processes of one thread each: with a thread for every core in each of them they would wait for one another.
test: lint  ## lint, every test, the live page's, then every lesson
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile --ignore=tests/export
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/export # by themselves: other tests fork, which a process with OpenVINO's threads does not survive
	$(MAKE) test-page
	$(MAKE) lessons

lessons: install  ## run every lesson and compare its chosen cells with what is committed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile --nbval-lax --nbval-cell-timeout=600 --timeout=900 notebooks

page: install  ## build the live page into minidetr/page, for `minidetr page` (needs Node 20 and npm)
	rm -rf page/public/model
	OMP_NUM_THREADS=1 $(RUN) -m minidetr.export.page page/public/model
	cd page && npm ci --silent && npm run --silent check && npm run --silent build

CHROMIUM ?= $(or $(shell command -v chromium chromium-browser google-chrome | head -1),/usr/bin/chromium)
HAS_NODE = command -v npm >/dev/null && node -e 'process.exit(Number(parseInt(process.versions.node) < 20))'
test-page:  ## the live page's tests: in Node, and in a browser (CHROMIUM=/path/to/chromium)
	@$(HAS_NODE) || echo "no npm with Node 20 here: the live page's tests are left out (apt-get install nodejs npm chromium)"
	@test -x "$(CHROMIUM)" || echo "no Chromium here: the live page's tests in a browser are left out (apt-get install chromium)"
	@! { $(HAS_NODE); } || { $(MAKE) page && OMP_NUM_THREADS=1 $(RUN) tests/page/reference.py build/page-reference \
		&& cd page && REFERENCE=../build/page-reference CHROMIUM=$(CHROMIUM) npm test --silent; }

site: install  ## build the site into build/site: lessons, the live page where it is built, guides, reference, measurements
	$(RUN) -m pip install -q -e ".[site]"
	@$(HAS_NODE) || { echo "the site needs npm with Node 20: its MathJax comes from there"; exit 1; }
	cd page && npm ci --silent
	! test -f minidetr/page/index.html || (cd page && LESSONS=../lessons/ npm run --silent build -- --outDir ../build/live)
	rm -rf build/site
	$(RUN) -m sphinx -q -W --keep-going -b html docs build/site
	$(RUN) docs/check.py build/site

matrix: install  ## the tests on every Python from 3.10 on that is here, and once with torch 2.8 (ROWS="3.12 ..." for some)
	$(RUN) .ci/matrix.py $(ROWS)

constraints: install  ## write down the versions that the tests have just passed with, and see that they can be installed
	$(RUN) .ci/constraints.py
	$(RUN) -m pip install -q --dry-run -c constraints.txt ".[test,notebooks,colab]"

colab-smoke: install  ## lessons 00 and 10 as on Colab: a fresh environment with torch 2.8, the set-up cell, every cell
	$(RUN) .ci/colab_smoke.py

notebooks: install  ## execute the lessons afresh, in place
	$(RUN) -m minidetr.course.notebooks run

lint: install  ## ruff, mypy, and that imports point downwards
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	.venv/bin/lint-imports

figures: install  ## rebuild every figure in images/ from the shipped model
	$(RUN) -m minidetr.course.figures images
	$(RUN) -m minidetr demo --output build/figures --count 4
	cp build/figures/contact_sheet.png images/demo.png

stamp: install  ## write the repository's address of pyproject.toml into the lessons' badges
	$(RUN) -m minidetr.course.notebooks stamp

# From random weights to the model in the box: boxes on small scenes, then everything on larger and larger ones. Cut off, it goes on
# from its last checkpoint. MINUTES is the time it has on WORKERS processes. PRESET=tiny-after: with what came after DETR, whose masks
# learn from the first minute on.
TINY := OMP_NUM_THREADS=1 $(RUN) -m accelerate.commands.launch $(if $(filter-out 1,$(WORKERS)),--multi_gpu) \
	--num_processes $(WORKERS) -m minidetr train
run = $(TINY) $(if $(wildcard $(RUNS)/$(1)/checkpoint.pt),--resume $(RUNS)/$(1),--output $(RUNS)/$(1) --preset $(PRESET) --workers 0 \
	--validation-images 100 --minutes $(shell expr $(MINUTES) \* $(2) / 95) $(3))
AFTER := $(findstring after,$(PRESET))
rate = --learning-rate $(1) --backbone-learning-rate $(1)
WITH_MASKS := --warmup 0.03 --focal 40 --dice 3 --masks-per-image 4 --pixel-class 2 --cells 0.5
weights: install  ## train the model in the box from scratch and put it there (MINUTES=95)
	$(call run,$(PRESET)-128,15,--steps $(if $(AFTER),joint,boxes) --size 128 --schedule drop --drop 1 --warmup 0.05 --batch-size 16 $(call rate,7e-4))
	$(call run,$(PRESET)-192,28,--from $(RUNS)/$(PRESET)-128/last.safetensors $(if $(AFTER),,--reset mask-head) --size 192 --scenes 10000 \
		--batch-size 16 $(call rate,6e-4) --ema 0.998 $(WITH_MASKS))
	$(call run,$(PRESET)-288,52,--from $(RUNS)/$(PRESET)-192/last.safetensors --size 288 --scenes 15000 --scene-seed 10000 \
		$(call rate,4e-4) --ema 0.999 $(WITH_MASKS))
	$(RUN) -m benchmarks.shipped_model $(foreach size,128 192 288,$(RUNS)/$(PRESET)-$(size)) --name $(PRESET) \
		--command "make weights MINUTES=$(MINUTES)$(if $(AFTER), PRESET=$(PRESET))"

bench: install  ## measure against transformers, torchmetrics, hotcoco, onnxruntime, OpenVINO; fills benchmarks/RESULTS.md
	$(RUN) -m pip install -q -e ".[bench,onnx,openvino,fast]"
	$(RUN) -m benchmarks.run
	$(RUN) -m benchmarks.engines
	$(RUN) -m benchmarks.steps

fuzz: install  ## the properties on many more made-up inputs (FUZZ=20000 each)
	MINIDETR_FUZZ_EXAMPLES=$(or $(FUZZ),20000) $(RUN) -m pytest -s tests/safety/test_fuzz.py

kill: install  ## cut a training run off 20 times; it must end as if it never was
	$(RUN) -m benchmarks.kill_training --kills 20

load: install  ## memory while evaluating 5,000 predictions and training on 20,000 scenes
	$(RUN) -m benchmarks.load

lab: install  ## open the first lesson in Jupyter
	$(RUN) -m jupyter lab notebooks/00_panoptic_in_five_minutes.ipynb

clean:  ## remove what can be made again, but for the environment
	rm -rf demo build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find minidetr tests -name __pycache__ -type d -prune -exec rm -rf {} +
