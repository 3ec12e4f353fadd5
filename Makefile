# Two commands: `make run` and `make test`. Each installs what it needs from Debian's packages first.
# Both work as root and through sudo; as another user they call sudo themselves for what needs root.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

tools := tests/tools
image := target/examples/busybox.tar

.PHONY: help run test bench check build packages-run packages-test dist clean

help:
	@echo 'make run     build, then run the pods of examples/ until Ctrl-C'
	@echo 'make test    everything CI runs'
	@echo 'make check   formatting, lints, unit tests: no root needed'
	@echo 'make bench   figures, as a table'
	@echo 'make dist    the release binary as it is packaged'

packages-run:
	@$(tools)/packages run

packages-test:
	@$(tools)/packages run test cluster

build: packages-run
	@$(tools)/as-builder cargo build --locked --release -p agent --bin longshore

$(image): $(tools)/pack-busybox | packages-run
	@$(tools)/as-builder $(tools)/pack-busybox $@

run: build $(image)
	@exec $(tools)/as-root target/release/longshore run --import $(image) examples/

check: packages-run
	@$(tools)/as-builder cargo fmt --all --check
	@$(tools)/as-builder cargo clippy --locked --workspace --all-targets -- -D warnings
	@$(tools)/as-builder $(tools)/nextest run --locked --workspace --exclude tests --lib --bins

test: packages-test $(image)
	@$(tools)/test

bench: packages-test dist $(image)
	@$(tools)/as-builder cargo build --locked --profile dist -p tests --bin bench
	@folder=$$($(tools)/as-builder $(tools)/control-plane kube-proxy) || true; \
	LONGSHORE_TEST_CONTROL_PLANE=$$folder $(tools)/as-root target/dist/bench

dist:
	@$(tools)/as-builder cargo build --locked --profile dist -p agent --bin longshore
	@ls -l target/dist/longshore

clean:
	rm -rf target
