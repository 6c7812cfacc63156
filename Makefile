# Two commands are all: `make demo` and `make test`. Both make .venv first.

PYTHON ?= python3
# Installed first, so that its build is your choice: TORCH="torch --index-url …", or TORCH=torch for the newest.
TORCH ?= torch==2.13.0
# Everything else that these targets install is pinned there, with hashes; `make lock` writes it again.
LOCK := .ci/lock

# Those of `make bench`, minutes each; benchmarks/README.md tells of all.
BENCHMARKS := import_time data_path training_throughput cost_curves fusion_encoder whole_model ctm_loss

BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test slow coverage check lock lowest newest bench clean

demo: $(READY)
	$(BIN)/python train_hf.py modeling_aver/training/recipes/demo.yaml --output_dir runs/demo --overwrite true
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
	$(BIN)/lint-imports
	$(MAKE) test

# The two ends of what pyproject.toml allows, without the lock, each in an environment of its own.
lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install --quiet packaging "setuptools>=77"
	.venv-lowest/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	.venv-lowest/bin/python tests/lowest_versions.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --quiet --requirement .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pytest -q -m "not slow"

newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/pip install --quiet $(TORCH)
	.venv-newest/bin/pip freeze | grep -i "^torch==" > .venv-newest/torch.txt
	.venv-newest/bin/pip install --quiet --upgrade --upgrade-strategy eager \
	    --constraint .venv-newest/torch.txt --editable ".[test]"
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -q -n 2 -m "not slow"

# all.txt serves the docs and every extra, test.txt the targets above; the versions are the same in both.
lock:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/pip install --quiet "uv>=0.9"
	$(COMPILE) --all-extras --output-file $(LOCK)/all.txt
	$(COMPILE) --extra test --constraint $(LOCK)/all.txt --output-file $(LOCK)/test.txt

COMPILE = .venv-lock/bin/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.10 \
    --generate-hashes --no-header --no-annotate --constraint $(LOCK)/clashes.in --override $(LOCK)/overrides.in

bench: $(READY)
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf .venv .venv-lock .venv-lowest .venv-newest runs build dist *.egg-info

$(READY): pyproject.toml $(LOCK)/test.txt
	$(PYTHON) -m venv .venv
	@echo "Installing $(TORCH) into .venv (1 of 3)"
	@$(BIN)/pip install --quiet $(TORCH)
	@echo "Installing what the package and its tests need, pinned in $(LOCK)/test.txt (2 of 3; about 1 GB, minutes)"
	@$(BIN)/pip install --quiet --require-hashes --no-deps --requirement $(LOCK)/test.txt
	@echo "Installing the package (3 of 3)"
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)
