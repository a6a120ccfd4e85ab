PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Both names: pip before 25.3 hands PIP_CONSTRAINT to the build of an sdist, newer ones PIP_BUILD_CONSTRAINT.
INSTALL = PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/pip install

.PHONY: setup demo test lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.txt
	touch $@

demo: setup
	$(BIN)/python demo.py

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache
