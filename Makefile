# Two commands on a fresh machine with Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test check format test-compat bench-peers bench-accuracy bench-gate bench-prune bench-factorize bench-cost reliability readme-table test-versions test-newest lock clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

demo: $(VENV)/.installed-demo  ## Fine-tune an embedded real model, export it to INT8, show the report.
	$(BIN)/deploycomp demo --output demo-output

test: $(VENV)/.installed-dev  ## Run the test suite.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not compat" --numprocesses 2 --dist loadfile

check: $(VENV)/.installed-dev  ## Lint, format, types, import direction.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-compat: $(VENV)/.installed-dev  ## Load our artifacts with optimum's ORTModel classes, in their own venv.
	$(BIN)/python benchmarks/peers/venvs.py optimum
	$(BIN)/python -m pytest -m compat tests/compat

test-versions: $(VENV)/.installed-dev  ## Every kind of graph on ONNX Runtime 1.18 to the newest, two transformers, three Pythons.
	$(BIN)/python benchmarks/versions/run.py

test-newest: $(VENV)/.installed-dev  ## The newest known versions (constraints-newest.txt): load, export, answers.
	$(BIN)/python benchmarks/versions/run.py --newest

bench-peers: $(VENV)/.installed-dev  ## Latency, accuracy and memory against every INT8 peer, side by side.
	$(BIN)/python benchmarks/peers/run.py

bench-accuracy: $(VENV)/.installed-dev  ## What INT8 costs in answers, on six tasks.
	$(BIN)/python benchmarks/accuracy.py

bench-gate: $(VENV)/.installed-dev  ## The gate on this machine: false alarms, slowdowns, others beside it.
	$(BIN)/python benchmarks/gate/run.py --peers

bench-prune: $(VENV)/.installed-dev  ## Pruning: accuracy by measured speed, ours and four other methods.
	$(BIN)/python benchmarks/prune/run.py
	$(BIN)/python benchmarks/prune/int8.py
	$(BIN)/python benchmarks/prune/vocabulary.py

bench-factorize: $(VENV)/.installed-dev  ## Factorization: the paper's comparison, what data is worth, half the numbers in INT8.
	$(BIN)/python benchmarks/factorize/run.py
	$(BIN)/python benchmarks/factorize/encoder.py
	$(BIN)/python benchmarks/factorize/whole.py
	$(BIN)/python benchmarks/factorize/finetuned.py

bench-cost: $(VENV)/.installed-dev  ## Time and memory of the export itself.
	$(BIN)/python benchmarks/cost.py

reliability: $(VENV)/.installed-dev  ## Mutate, kill and break on purpose for two hours, and print docs/reliability.md.
	$(BIN)/python benchmarks/reliability.py --run

readme-table: $(VENV)/.installed-dev  ## Print the README's table.
	$(BIN)/python benchmarks/readme_table.py

lock: $(VENV)/.installed-dev  ## Write constraints.txt anew from this venv, and the newest versions that there are.
	(sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//') > constraints.new
	mv constraints.new constraints.txt
	$(BIN)/python benchmarks/versions/lock.py

clean:  ## Remove the venvs and everything the targets wrote.
	rm -rf $(VENV) .venv-* demo-output .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.installed-demo
