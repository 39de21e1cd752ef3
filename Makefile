# Each target sets itself up: a fresh machine needs Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
# torch is named beside the package, so that pip takes the one pinned build and no other.
PIP := -m pip install --quiet --disable-pip-version-check
TORCH := -c constraints.txt torch==2.13.0
INSTALL := $(BIN)/python $(PIP) $(TORCH)

.PHONY: demo docs test test-slow test-peers bench bench-laws bench-few-steps bench-fashion bench-lectures mutate lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[demo,test,lint]'
	touch $@

demo: $(VENV)/.installed
	OMP_WAIT_POLICY=passive $(BIN)/python -m pushforward.demo --out runs/demo --overwrite

# The site in build/docs: pages whose cells run, warnings as errors. What cells gave is kept while the library stays the same.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html -d build/docs/doctrees docs build/docs/html

$(VENV)/.docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	touch $@

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m 'not slow'

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m slow

# Small changes of formulas and of default values, drawn by a seed: which are noticed by no test? About an hour on one core
# for all areas; one area by AREA=couplings, another sample by SEED=1.
AREA ?=
SEED ?= 0
mutate: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation --seed $(SEED) $(if $(AREA),--area $(AREA))

# Other libraries, to compare with in one process.
$(PEERS)/.installed: pyproject.toml constraints.txt $(wildcard benchmarks/peers/*.txt)
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP) $(TORCH) -e '.[demo]' -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/python $(PIP) --no-deps -r benchmarks/peers/requirements-alone.txt
	# azula brings a torchvision that does not go with this torch, and that diffusers would import.
	$(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

# Solvers against those of other libraries, state by state.
test-peers: $(PEERS)/.installed
	$(PEERS)/bin/python $(PIP) $(TORCH) -e '.[test]'
	$(PEERS)/bin/python -m pytest tests/solvers/test_peers.py

bench: $(VENV)/.installed $(PEERS)/.installed
	$(BIN)/python -m benchmarks.run few_steps_digits normals processes training
	$(BIN)/python -m benchmarks.run --threads 1 cells derivatives diffflow exported gallery gaussian_bridge maximum_likelihood reflow solver_error_models superresolution
	$(PEERS)/bin/python -m benchmarks.run --threads 1 couplings couplings_images decoding multimodal overhead solver_error throughput

# Five seeds of six methods on four tasks: about two hours on one core. Takes up what an earlier call has left.
bench-laws: $(VENV)/.installed
	$(BIN)/python -m benchmarks.between_laws

# Three seeds of eleven few-step methods on three laws: about two hours on one core. Takes up what is there, too.
bench-few-steps: $(VENV)/.installed
	$(BIN)/python -m benchmarks.few_steps

# Tables and figures of the lectures: about half an hour on one core. Takes up what is there.
LECTURES := five_ways paths consistency precision trajectories dpm_solver scaling
bench-lectures: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.lectures $(LECTURES)

# Fashion-MNIST beside diffusers, and transformers of eight sizes: about three hours on one core. FASHION: the folder of the
# four IDX files. What is done is not done again.
FASHION ?= /usr/share/datasets/fashion-mnist
PUSHFORWARD := OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pushforward
bench-fashion: $(PEERS)/.installed
	test -d runs/classifier || $(PUSHFORWARD) train classifier --data $(FASHION) --out runs/classifier
	test -d runs/fashion || $(PUSHFORWARD) train fashion --data $(FASHION) --steps 4300 --out runs/fashion
	test -d runs/fashion-peer || $(PEERS)/bin/python -m benchmarks.fashion train-peer --data $(FASHION)
	$(PEERS)/bin/python -m benchmarks.fashion judge --data $(FASHION)
	$(PEERS)/bin/python -m benchmarks.scaling --data $(FASHION) --classifier runs/classifier

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(PEERS) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
