PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A worker for each core; the tests of a file stay together, for they share what they compute.
PYTEST := -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs

# What the Python of a machine with GPUs must have to run the checks itself: it may have no network for another one.
HAS_CUDA := import deepspeed, torch, transformers; raise SystemExit(torch.version.cuda is None)

.PHONY: demo test test-slow coverage lint docs benchmark gpu-check

# The packages that `make` installs are pinned in constraints.txt; setup.cfg names the ranges that work.
$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,lint,onnx]'
	touch $(READY)

$(DOCS_READY): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $(DOCS_READY)

demo: $(READY)
	$(BIN)/ds-bert prepare --python_docs --train_vocab 2048 --validation_share 0.05 --output_dir runs/demo-data
	PATH="$(CURDIR)/$(BIN):$$PATH" DS_ACCELERATOR=cpu $(BIN)/deepspeed -q --num_accelerators 2 pipelines/pretrain.py ds_configs/demo/pretrain.json
	@echo
	@echo 'next:  source $(BIN)/activate'
	@echo '       ds-bert stage-map show ds_configs/demo/stage_map.json --config_name bert-demo --config_overrides vocab_size=2048'
	@echo '       ds-bert export runs/demo --output_dir runs/demo-exported'
	@echo '       DS_ACCELERATOR=cpu deepspeed -q --num_accelerators 2 pipelines/pretrain.py ds_configs/demo/pretrain.json --max_steps 2000'
	@echo '       tensorboard --logdir runs/demo/tensorboard'

test: $(READY)
	$(BIN)/python $(PYTEST) -m 'not slow'

test-slow: $(READY)
	$(BIN)/python $(PYTEST) -m slow

# The quick tests, and the share of the lines of ds_bert that they come by, in whatever process.
coverage: $(READY)
	rm -rf .coverage
	$(BIN)/coverage run $(PYTEST) -m 'not slow'
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, in site/. Warnings are errors: a link or an anchor that leads nowhere, a page in no menu.
# (With --quiet mkdocs would not count them.)
docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'site/index.html is the first page; with search: $(BIN)/python -m http.server --directory site'

benchmark: $(READY)
	$(BIN)/python tests/benchmarks/pretraining.py

# FLAGS='--only speed', FLAGS=--cpu, …: see tests/gpu/check.py
gpu-check:
	@if $(PYTHON) -c '$(HAS_CUDA)' >/dev/null 2>&1; then \
		$(PYTHON) -m tests.gpu.check $(FLAGS); \
	else \
		$(MAKE) --no-print-directory $(READY) && $(BIN)/python -m tests.gpu.check $(FLAGS); \
	fi
