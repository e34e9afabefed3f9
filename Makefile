# make run          open the workstation (without a terminal: run the demo and print what runs)
# make test         everything that must hold: ruff, mypy, pytest with real containers
# make test-v2      what depends on the kernel's cgroups, in a virtual machine on cgroup v2 (a quarter of an hour)
# make lint         ruff and mypy alone
# make bench        compare with dockerd and podman in the same run
# make screenshots  the live workstation, drawn into screenshots/
# make clean        forget what set-up made
#
# Each does its own set-up on a fresh Debian machine as root. What is done is stamped in .venv, so that the second time starts at once.

SHELL := /bin/bash
PY := .venv/bin/python
# Two at a time, a file never split: every test has a data root, a bridge and a firewall table of its own.
PYTEST ?= -q -n 2 --dist loadfile
.PHONY: run test test-v2 lint bench screenshots clean
.NOTPARALLEL:

run: .venv/run.stamp
	@if [ -t 0 ] && [ -t 1 ]; then exec .venv/bin/wharf; else .venv/bin/wharf demo && .venv/bin/wharf ps; fi

test: lint
	@.ci/setup debian tests
	$(PY) -m pytest $(PYTEST)

# The rest does not ask for the cgroup version, or takes too long in a machine that is emulated.
V2_TESTS ?= tests/engine/test_cgroups.py tests/engine/test_cgroups_live.py tests/engine/test_lifecycle.py \
	tests/engine/test_attacks.py tests/engine/test_oci_verbs.py

test-v2: .venv/dev.stamp
	@.ci/setup debian v2 || true
	@.ci/v2-vm $(abspath $(PY)) -m pytest $(PYTEST) -p no:cacheprovider $(V2_TESTS); \
	status=$$?; [ $$status = 77 ] || exit $$status

lint: .venv/dev.stamp
	$(PY) -m ruff check core tui tests
	$(PY) -m mypy

bench: .venv/dev.stamp
	@.ci/setup debian bench
	$(PY) -m tests.bench $(BENCH)

screenshots: .venv/dev.stamp
	$(PY) -m tests.screenshots

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
	find core tui tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/run.stamp: pyproject.toml .ci/setup
	@[ -e .venv/dev.stamp ] && [ .venv/dev.stamp -nt pyproject.toml ] || .ci/setup python run
	@touch $@

.venv/dev.stamp: pyproject.toml .ci/setup
	@.ci/setup python dev
	@touch $@ .venv/run.stamp
