# Two commands are all: `make demo` and `make test`. Both make .venv first.

PYTHON ?= python3
# Installed first, so that its build is your choice: TORCH="torch --index-url …", or TORCH=torch for the newest.
TORCH ?= torch==2.13.0

# Those of `make bench`, minutes each; benchmarks/README.md tells of all.
BENCHMARKS := import_time data_path training_throughput cost_curves fusion_encoder whole_model ctm_loss

BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test slow coverage check lowest newest bench clean

demo: $(READY)
	$(BIN)/python train_hf.py modeling_aver/training/recipes/demo.yaml --output_dir runs/demo
	$(BIN)/aver evaluate runs/demo
	$(BIN)/aver figure3 runs/demo --clip 1001_DFA_ANG_XX --out runs/demo/figure3a.png

# Tests run in two processes of one thread each, which is what two cores can do.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow"

slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow

# All tests, the slow ones too; fails where less than 95 % of the lines ran.
coverage: $(READY)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under 95

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) test

# The two ends of what pyproject.toml allows. Their environments are their own, and TORCH is not asked.
lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install --quiet packaging "setuptools>=77"
	.venv-lowest/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	.venv-lowest/bin/python tests/lowest_versions.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --quiet --requirement .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pytest -q -m "not slow"

newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable ".[test]"
	.venv-newest/bin/python -m pytest -q -m "not slow"

bench: $(READY)
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf .venv .venv-lowest .venv-newest runs build dist *.egg-info

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $(READY)
