# make help says what there is. PYTHON=... picks an interpreter; PYTEST_ARGS=... goes to pytest.
PYTHON = python3
PYTEST_ARGS =
VENV = .venv

.DELETE_ON_ERROR:
.PHONY: help test lint demo packages clean

help:
	@echo 'make test    install what is missing, then ruff, mypy and the tests'
	@echo 'make demo    a mirror with a snapshot: mounted, broken, repaired, checked'
	@echo 'make lint    ruff and mypy only'
	@echo 'make clean   remove the virtual environment and what the tools left'
	@echo
	@echo 'PYTHON=python3.12 picks an interpreter (3.11 or newer; found by itself otherwise).'
	@echo "PYTEST_ARGS='-n 2 -k mirror' goes to pytest."

test: lint packages
	$(VENV)/bin/pytest $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

demo: $(VENV)/installed packages
	sh specs/demo.sh

# Looks each time, which takes a moment: a stamp could not know that somebody removed a library.
packages:
	@python=$$(sh tools/find-python.sh '$(PYTHON)') && sh tools/install-packages.sh "$$python"

# Installed anew only when pyproject.toml changes: it is an editable install, so the sources are no part of that. The
# environment itself is kept as long as its interpreter runs.
$(VENV)/installed: pyproject.toml | packages
	@$(VENV)/bin/python -c '' 2>/dev/null || { python=$$(sh tools/find-python.sh '$(PYTHON)') && \
		echo "$$python -m venv --clear $(VENV)" && "$$python" -m venv --clear $(VENV); }
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	rm -rf *.egg-info src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
