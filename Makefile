PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
CONSTRAINTS ?= constraints.txt
# Both names: pip before 25.3 hands PIP_CONSTRAINT to the build of an sdist, newer ones PIP_BUILD_CONSTRAINT.
INSTALL = PIP_CONSTRAINT=$(CONSTRAINTS) PIP_BUILD_CONSTRAINT=$(CONSTRAINTS) $(BIN)/pip install
# A process a core, one thread each; tests move to a process that has none left.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: setup extras demo check test test-arithmetic test-oldest test-versions test-browser lint docs tour bench bench-gpu clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.txt
	touch $@

extras: $(VENV)/.extras

$(VENV)/.extras: $(VENV)/.installed requirements-extra.txt
	$(INSTALL) -r requirements-extra.txt
	$(INSTALL) --no-deps imagecorruptions-imaug==1.1.5
	touch $@

demo: setup
	$(BIN)/python demo.py

check: lint
	$(PYTEST) -m "not slow"

test: setup
	$(PYTEST)

# The suite as two other kinds of CPU round.
test-arithmetic: setup
	DNNL_MAX_CPU_ISA=AVX2 $(PYTEST)
	ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE $(PYTEST)

test-versions: test test-oldest

# The suite under the oldest torch that requirements.txt allows, in an environment of its own.
test-oldest:
	$(MAKE) extras test VENV=.venv-oldest CONSTRAINTS=tests/constraints-oldest.txt

# The pages in a headless Chromium (Debian's package of that name); npm brings the scripts of visdom's page.
test-browser: extras
	TEST_BROWSER=1 SCREENSHOTS=screenshots OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser

lint: setup
	$(BIN)/ruff check .

# On an idle machine. CAMVID and WEIGHTS are optional: see python -m benchmarks --help.
BENCH = $(BIN)/python -m benchmarks $(if $(CAMVID),--camvid $(CAMVID)) $(if $(WEIGHTS),--weights $(WEIGHTS))
bench: setup
	$(BENCH) --out benchmarks/results/new.json

# The same; the sizes are a GPU's where there is one.
bench-gpu: setup
	$(BIN)/python -c "import torch; raise SystemExit(not torch.cuda.is_available() and 'no GPU is visible')"
	$(BENCH) --out benchmarks/results/new_gpu.json

docs: setup
	PYTHONPATH=. $(BIN)/python docs/make_flags.py > docs/flags.md

# The notebook, run again, with its pictures.
tour: extras
	$(BIN)/python docs/execute_tour.py

clean:
	rm -rf $(VENV) .venv-oldest demo screenshots .pytest_cache .ruff_cache
