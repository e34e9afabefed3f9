# make run          open the workstation (without a terminal: run the demo and print what runs)
# make test         everything that must hold: ruff, mypy, pytest with real containers
# make test-v2      what depends on cgroups or the kernel, in a virtual machine on cgroup v2 (a quarter of an hour on two
#                   free processors, half an hour on one; V2_TESTS=… chooses other tests)
# make lint         ruff and mypy alone
# make bench        compare with dockerd and podman in the same run
# make screenshots  the live workstation, drawn into screenshots/
# make clean        forget what set-up made
#
# Each does its own set-up on a fresh Debian machine as root. What is done is stamped in .venv, so that the second time starts at once.

SHELL := /bin/bash
PY := .venv/bin/python
# Two at a time, a file never split: every test has a data root, a bridge and a firewall table of its own. The files in
# the order of tests/conftest.py, the longest first.
# What must come about gets three times as long as it should need: one file starts two hundred containers at once.
WHARF_TEST_PATIENCE ?= 3
PYTEST ?= -q -n 2 --dist loadfile --no-loadscope-reorder
.PHONY: run test test-v2 lint bench screenshots clean
.NOTPARALLEL:

run: .venv/run.stamp
	@if [ -t 0 ] && [ -t 1 ]; then exec .venv/bin/wharf; else .venv/bin/wharf demo && .venv/bin/wharf ps; fi

test: lint
	@.ci/setup debian tests
	WHARF_TEST_PATIENCE=$(WHARF_TEST_PATIENCE) $(PY) -m pytest $(PYTEST)

# What asks for the cgroup version or the kernel's: limits and meters, devices, freezer, OOM, the start of containers and
# their end, exec, the runtime's command line, an ordinary user with a delegated cgroup. Images, registries, networks and
# the screens are the same on every kernel, and the emulated machine takes twenty times as long for everything.
V2_TESTS ?= $(addprefix tests/engine/test_,$(addsuffix .py,cgroups cgroups_live cgroups_joined lifecycle policies \
	update starter options_shared attacks oci_ends) \
	$(addprefix oci_verbs.py::test_,a_whole_life exec_and_its_flags pause_holds_every_process \
	kill_all_reaches_every_process update_and_events a_create_that_is_killed_can_be_deleted \
	deleting_is_the_end_of_the_cgroup_too) \
	$(addprefix rootless_limits.py::test_,without_a_delegated_cgroup with_a_delegated_cgroup \
	nothing_outlives_the_first_process_of_a_shared_pid_namespace) \
	crash.py::test_launcher_and_monitor_killed)

test-v2: .venv/dev.stamp
	@.ci/setup debian v2 || true
	@.ci/v2-vm env WHARF_TEST_PATIENCE=10 $(abspath $(PY)) -m pytest $(PYTEST) -p no:cacheprovider $(V2_TESTS); \
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
