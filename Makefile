# Each target does all its own set-up; VENV=path puts the environment elsewhere, an up-to-date one is reused.
# EXTRAS=test,cluster,quantize tests DeepSpeed and torchao too, whose tests are else skipped.
VENV ?= .venv
PYTHON ?= python3
EXTRAS ?= test
PY := $(VENV)/bin/python

.PHONY: demo test slow fuzz rehearse lint audit docs clean

demo: $(VENV)/.installed
	$(PY) experiments/run.py +exp=fcd_mask_a trainer.max_steps=1300 validation.every=325

test: $(VENV)/.installed-$(EXTRAS)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -n 2 --dist loadfile

# What takes minutes: runs that are killed and go on, a real SLURM, every strategy, thousands of mutated keys and files,
# every published table in miniature.
slow: $(VENV)/.installed-$(EXTRAS)
	$(PY) -m pytest -n 2 --dist loadfile -m slow

# Thousands of mutated keys and files (docs/robustness.md); minutes.
fuzz: $(VENV)/.installed-$(EXTRAS)
	$(PY) -m pytest -n 2 --dist loadfile -m slow -k fuzz

# Both papers and every published table at paper scale, on miniatures of models and data sets.
rehearse: $(VENV)/.installed-$(EXTRAS)
	$(PY) -m pytest -n 2 --dist loadfile -m 'slow or not slow' tests/rehearsal

lint: $(VENV)/.installed-$(EXTRAS)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The documentation as a site, site/index.html; a dead link stops it.
docs: $(VENV)/.installed-$(EXTRAS)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# Known vulnerabilities of what is installed. In an environment of its own, so that it changes none of what it looks at.
audit: $(VENV)/.installed
	@test -x $(VENV)-audit/bin/pip-audit || { $(PY) -m venv $(VENV)-audit && \
	$(VENV)-audit/bin/python -m pip install -q --disable-pip-version-check pip-audit; } || true
	@$(PY) .ci/audit.py $(VENV)-audit/bin/pip-audit "$$($(PY) -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"

clean:
	rm -rf $(VENV) $(VENV)-audit site build *.egg-info

$(PY):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"unigen needs Python 3.11 to 3.13; {sys.executable} is {v[0]}.{v[1]}: say make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(PY)
	$(PY) -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-$(EXTRAS): pyproject.toml | $(PY)
	$(PY) -m pip install -q --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $@ $(VENV)/.installed
