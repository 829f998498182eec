# `make help` lists the targets. You need git, make and Python 3.10 or later; the rest goes into .venv/.

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
INSTALLED := $(VENV)/.installed
# Without --python, uv installs into an active environment of the user's instead of $(VENV).
INSTALL := uv pip install --quiet --python $(VENV)/bin/python \
	--constraint constraints.txt --constraint hashes.txt --group
# If pip is given a folder of wheels, uv takes the same folder.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

.DEFAULT_GOAL := help

$(INSTALLED): pyproject.toml constraints.txt hashes.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet uv==0.13.9
	$(INSTALL) test
	@touch $@

.PHONY: install
install: $(INSTALLED)  ## create .venv/ with pinned versions

.PHONY: run
run: install  ## run the whole pipeline on MNIST (DATA=digits: on 8x8 digits; PRESET=quick: less of everything)
	@test -z '$(PRESET)' || python -m tools.preset '$(PRESET)'
	@python -m tools.get_data $(DATA)
	@rm -f .scratch/stages.jsonl
	dvc repro
	@python -m tools.summary

.PHONY: samples
samples: install  ## draw, measure and make figures with the committed model, without training
	dvc pull --quiet models/model.safetensors models/classifier.safetensors reference/
	@rm -f .scratch/stages.jsonl
	dvc repro --single-item --force sample fid figures
	@python -m tools.summary

.PHONY: demo
demo: install  ## draw digits in your browser, step by step
	@test -f models/model.safetensors || dvc pull --quiet models/model.safetensors || true
	python -m tools.demo

.PHONY: student
student: install  ## distil the model into students that draw in 4, 2 and 1 evaluations, and measure them
	dvc repro student/dvc.yaml

.PHONY: draw
draw: install  ## write PNGs drawn by a model file to drawn/: MODEL=students/student-2.safetensors
	@python -m tools.draw '$(or $(MODEL),students/student-2.safetensors)' $(ARGS)

.PHONY: web
web: install  ## write web/digits.html, which draws digits in a browser without a server (needs npm)
	$(INSTALL) web
	python -m tools.web

.PHONY: report
report: install  ## write report/report.html: metrics, figures and experiments on one page
	dvc repro --single-item --force report

.PHONY: queue
queue: install  ## run the experiments in DVC's queue, JOBS at a time, and say which failed
	@python -m tools.queue --jobs '$(or $(JOBS),1)'

.PHONY: compare
compare: install  ## compare experiments over training seeds: A=schedule=linear B=schedule=cosine
	@python -m tools.compare --a '$(A)' --b '$(B)'

.PHONY: score
score: install  ## score a folder of digits that somebody drew: FOLDER=path
	@python -m tools.score '$(FOLDER)' $(if $(CLASSES),--classes '$(CLASSES)') $(if $(FIT),--fit '$(FIT)') $(ARGS)

.PHONY: report-diff
report-diff: install  ## write report_diff/index.md: what changed since a commit, REV=main
	@python -m tools.report_diff --rev '$(or $(REV),HEAD)'

.PHONY: submission
submission: install  ## check generated_images/ against a homework's list, and zip it into submission/
	@python -m tools.submission

.PHONY: test
test: install  ## run all tests (on MNIST too if MNIST_MIRROR is set)
	python -m pytest

.PHONY: test-fast
test-fast: install  ## run the quick tests
	python -m pytest -m "not slow and not browser"

.PHONY: soak
soak: install  ## kill each stage of make run at 20 random moments and compare the results (hours)
	python -m tools.soak --report benchmarks/results/soak.json

.PHONY: fuzz
fuzz: install  ## search for files that break a reader, 15 minutes each (hours; Linux)
	$(INSTALL) fuzz
	python -m tools.guided --report benchmarks/results/fuzz.json

.PHONY: lint
lint: install  ## check form (ruff) and types (mypy)
	ruff check .
	ruff format --check .
	mypy src stages

.PHONY: benchmark
benchmark: install  ## compare with others, time, run ablations (hours; after make run)
	$(INSTALL) benchmark
	python -m benchmarks.switches
	python -m benchmarks.arithmetic
	python -m benchmarks.pipeline
	python -m benchmarks.quick_start
	python -m benchmarks.fid
	python -m benchmarks.peers
	python -m benchmarks.ablations
	python -m benchmarks.spoilt
	python -m benchmarks.yardstick
	python -m benchmarks.convergence
	python -m benchmarks.formulations
	python -m benchmarks.sampling
	python -m benchmarks.replicas
	python -m benchmarks.processors
	python -m benchmarks.scaling
	python -m benchmarks.score
	python -m benchmarks.scale

.PHONY: audit
audit: install  ## look for known vulnerabilities of the pinned versions (needs the network)
	$(INSTALL) audit
	pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

.PHONY: clean
clean:  ## remove .venv/, scratch files and caches of tools; keep data and DVC's cache
	rm -rf $(VENV) .scratch .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.dvc/*' -prune -exec rm -rf {} +

.PHONY: help
help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
