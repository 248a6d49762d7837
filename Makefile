# make help says what there is. PYTHON=... picks an interpreter; PYTEST_ARGS=... goes to pytest.
PYTHON = python3
PYTEST_ARGS =
VENV = .venv

.DELETE_ON_ERROR:
.PHONY: help test lint demo demo-live mail mail-table museum nightly bench bench-memory bench-explore soak \
	kernel-cases corpus real-binaries verify coverage mutation packages browser guest lvm clean

help:
	@echo 'make test    install what is missing, then ruff, mypy and the tests'
	@echo 'make demo    a mirror with a snapshot: mounted, broken, repaired, checked'
	@echo 'make demo-live  the deadlock of two commands on a real ext4, and the ways out of it (root)'
	@echo 'make kernel-cases  the scripts that a real kernel was recorded with, run on mounts (some minutes)'
	@echo '                   DMSETUP=real: with the unmodified dmsetup, through dmspec exec'
	@echo 'make real-binaries  unmodified LVM2 and dmeventd on the emulator; writes docs/real-binaries.md'
	@echo 'make corpus  ask a real kernel and dmsetup anew for the answers that tests/corpus keeps (minutes)'
	@echo 'make verify  every spec that can be, and 200 drawn sequences, against a real kernel'
	@echo 'make bench   the mount beside QEMU, nbdkit and the plain file (some minutes)'
	@echo 'make bench-memory   what a mount of 1 TiB and one of ten million exceptions take (a minute)'
	@echo 'make bench-explore  the explorer beside SPIN, on the scenarios of the mail (some minutes)'
	@echo 'make soak    mounts under load whose disks fail and whose server is killed, 1000 times (an hour)'
	@echo 'make museum  plant every bug of tests/museum and look for it (minutes)'
	@echo 'make nightly 20,000 examples of every stock property (an hour or two)'
	@echo 'make coverage  which branches of mirrors, snapshots and suspends the tests take; under 95 % fails'
	@echo 'make mutation  how many small changes of them the tests notice; writes docs/mutation.md (an hour)'
	@echo 'make mail    the slow tests: the mail explored in full, beside SPIN (minutes)'
	@echo 'make mail-table  every scenario of the mail searched to its end, into docs/mail.md (half an hour)'
	@echo 'make lint    ruff and mypy only'
	@echo 'make clean   remove the virtual environment and what the tools left'
	@echo
	@echo 'PYTHON=python3.12 picks an interpreter (3.11 or newer; found by itself otherwise).'
	@echo "PYTEST_ARGS='-n 2 -k mirror' goes to pytest."

test: lint packages browser guest lvm
	$(VENV)/bin/pytest $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

demo: $(VENV)/installed packages
	sh specs/demo.sh

demo-live: $(VENV)/installed packages
	sh specs/demo-live.sh

mail: $(VENV)/installed packages
	$(VENV)/bin/pytest -m slow tests/explore tests/compiler $(PYTEST_ARGS)

# NAMES='locked passthrough' does only these; their rows are replaced, the others stay.
mail-table: $(VENV)/installed
	$(VENV)/bin/python -m tests.explore.mail_table --write $(NAMES)

# BUGS='flush merge' looks only for those whose names have one of these words in them.
museum: $(VENV)/installed
	$(VENV)/bin/python -m tests.museum.show $(BUGS)

nightly: $(VENV)/installed
	$(VENV)/bin/pytest -m slow tests/properties $(PYTEST_ARGS)

# Each module has to have its 95 %.
COVERED = dirty_log exception_store mapped_device region_hash suspend targets/mirror targets/mirror_work \
	targets/snapshot targets/snapshot_merge targets/snapshot_origin targets/snapshot_work
coverage: $(VENV)/installed
	$(VENV)/bin/pytest --cov --cov-report= tests/runtime tests/kernel tests/corpus tests/specs tests/museum tests/properties \
		tests/both $(PYTEST_ARGS)
	$(VENV)/bin/coverage report
	@for module in $(COVERED); do $(VENV)/bin/coverage report --include="*/runtime/$$module.py" >/dev/null || \
		{ echo "make: $$module is under 95 %" >&2; exit 1; }; done

# MUTATION='dirty_log --most-seconds 2' looks at those mutants only, and not for long. Answers are kept in .mutation/.
mutation: $(VENV)/installed
	$(VENV)/bin/python -m tests.mutation.run --write $(MUTATION)

# BENCH='--short --group mirror' does less; --help says what there is.
bench: $(VENV)/installed packages
	@python=$$(sh tools/find-python.sh '$(PYTHON)') && sh tools/install-packages.sh "$$python" bench
	$(VENV)/bin/python -m tests.bench.mount.run $(BENCH)

bench-memory: $(VENV)/installed packages
	$(VENV)/bin/python -m tests.bench.memory

# STATES=0 searches every space to its end, which takes hours.
bench-explore: $(VENV)/installed packages
	$(VENV)/bin/python -m tests.bench.spin_ratio --states $(or $(STATES),3000)

# SOAK='--kills 100 --seed 2' does another, shorter one.
soak: $(VENV)/installed packages
	$(VENV)/bin/python -m tests.soak.run $(SOAK)

# CASES='a-basic --keep' runs one and keeps what it printed; DMSETUP=real takes the unmodified dmsetup.
kernel-cases: $(VENV)/installed packages
	$(VENV)/bin/python tests/kernel_cases/run.py $(if $(filter real,$(DMSETUP)),--real) $(CASES)

# Some twenty minutes; docs/real-binaries.md is made anew.  LVM='20 41' runs these scripts alone.
real-binaries: $(VENV)/installed packages lvm guest
	$(VENV)/bin/python tests/real_binaries/run.py $(or $(LVM),--all --write docs/real-binaries.md)

# Looks each time, which takes a moment: a stamp could not know that somebody removed a library.
packages:
	@python=$$(sh tools/find-python.sh '$(PYTHON)') && sh tools/install-packages.sh "$$python"

# The tests of `dmspec explore --report` want a real browser. Where there is none to be had they are skipped.
browser:
	@python=$$(sh tools/find-python.sh '$(PYTHON)') && sh tools/install-packages.sh "$$python" browser || \
		echo 'make: no Chromium here; going on: the tests that need it will be skipped' >&2

# `dmspec verify` and its tests want a real kernel as a process. Without it they are skipped.
guest:
	@python=$$(sh tools/find-python.sh '$(PYTHON)') && sh tools/install-packages.sh "$$python" guest || \
		echo 'make: no user-mode Linux here; going on: the tests that need it will be skipped' >&2

# `dmspec exec` is tested with the real dmsetup, LVM2 and dmeventd. Without them those tests are skipped.
lvm:
	@python=$$(sh tools/find-python.sh '$(PYTHON)') && sh tools/install-packages.sh "$$python" lvm || \
		echo 'make: no LVM2 here; going on: the tests that need it will be skipped' >&2

# `make corpus CHECK=--check` writes nothing and fails if the guest answers otherwise than the files have it.
corpus: $(VENV)/installed packages guest
	$(VENV)/bin/python tests/corpus/record.py $(CHECK)

# Takes about ten minutes: what `make test` does of it is a sample. A difference fails; a spec that cannot be compared
# is only named.
verify: $(VENV)/installed packages guest
	$(VENV)/bin/dmspec verify specs/targets/*.dms
	$(VENV)/bin/dmspec verify specs/tour/*.dms specs/lvm/*.dms || [ $$? -eq 2 ]
	DMSPEC_SEQUENCES=200 $(VENV)/bin/pytest -s tests/verify/test_differential.py $(PYTEST_ARGS)

# Installed anew only when pyproject.toml changes: it is an editable install, so the sources are no part of that. The
# environment itself is kept as long as its interpreter runs.
$(VENV)/installed: pyproject.toml | packages
	@$(VENV)/bin/python -c '' 2>/dev/null || { python=$$(sh tools/find-python.sh '$(PYTHON)') && \
		echo "$$python -m venv --clear $(VENV)" && "$$python" -m venv --clear $(VENV); }
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --use-pep517 --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .mutation .coverage build dist
	rm -rf *.egg-info src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
