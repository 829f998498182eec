# `make help` lists the targets. Needs nothing but git, make and Python >= 3.10; everything else goes into .venv/.

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet pip==25.3
	python -m pip install --quiet --no-compile --constraint constraints.txt --group test
	@touch $@

.PHONY: install
install: $(INSTALLED)  ## create .venv/ with the pinned dependencies

.PHONY: run
run: install  ## get the data, run the pipeline, print metrics and timings (DATA=digits: 8x8 digits, minutes)
	@python -m tools.get_data $(DATA)
	@rm -f .scratch/stages.jsonl
	dvc repro
	@python -m tools.summary

.PHONY: samples
samples: install  ## without data or training: fetch the committed model, draw, measure and make the figures
	dvc pull --quiet models/model.safetensors models/classifier.safetensors reference/
	@rm -f .scratch/stages.jsonl
	dvc repro --single-item --force sample fid figures
	@python -m tools.summary

.PHONY: demo
demo: install  ## draw digits in the browser with the committed model or your own, step by step
	@test -f models/model.safetensors || dvc pull --quiet models/model.safetensors || true
	python -m tools.demo

.PHONY: report
report: install  ## one HTML page of what was run, measured and drawn, with the experiments: report/report.html
	dvc repro --single-item --force report

.PHONY: submission
submission: install  ## check generated_images/ against a course's checklist, and zip it: submission/
	@python -m tools.submission

.PHONY: test
test: install  ## run the tests (those on MNIST only where MNIST_MIRROR is set)
	python -m pytest

.PHONY: test-fast
test-fast: install  ## run the tests that take seconds
	python -m pytest -m "not slow and not browser"

.PHONY: soak
soak: install  ## kill every stage at 20 random moments and compare what comes out in the end (long)
	python -m tools.soak --report benchmarks/results/soak.json

.PHONY: fuzz
fuzz: install  ## give every reader of files 20,000 damaged ones, with little memory; counts: benchmarks/results/fuzz.json
	python -m tools.fuzz --report benchmarks/results/fuzz.json

.PHONY: lint
lint: install  ## check the code's form and types
	ruff check .
	ruff format --check .
	mypy src stages

.PHONY: benchmark
benchmark: install  ## ours beside others' training and fid, ablations, growth, DVC's overhead (hours; after make run)
	python -m pip install --quiet --constraint constraints.txt --group benchmark
	python -m benchmarks.switches
	python -m benchmarks.arithmetic
	python -m benchmarks.growth
	python -m benchmarks.pipeline
	python -m benchmarks.demo
	python -m benchmarks.fid
	python -m benchmarks.peers
	python -m benchmarks.ablations

.PHONY: audit
audit: install  ## look the pinned versions up among known vulnerabilities (needs the network)
	python -m pip install --quiet --constraint constraints.txt --group audit
	pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

.PHONY: clean
clean:  ## remove .venv/, scratch files and caches of tools; data/ and DVC's cache stay
	rm -rf $(VENV) .scratch .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.dvc/*' -prune -exec rm -rf {} +

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
