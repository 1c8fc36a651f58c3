# What a person types. Everything works on a machine where nothing was prepared but Rust: setup brings the rest.

TARGET := $(or $(CARGO_TARGET_DIR),target)
TEST_FLAGS := --workspace --all-features

.PHONY: setup-demo demo setup-test test run-tests test-matrix bench lint fmt

setup-demo:
	@scripts/setup demo

demo: setup-demo
	cargo build --release -p pgleap
	$(TARGET)/release/pgleap demo $(DEMO_ARGS)

setup-test:
	@scripts/setup test

test: setup-test run-tests

run-tests:
	cargo test $(TEST_FLAGS) --doc
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo cargo nextest run $(TEST_FLAGS) --no-fail-fast; \
		cargo nextest run $(TEST_FLAGS) --no-fail-fast; \
	else \
		echo cargo test $(TEST_FLAGS) --no-fail-fast --lib --bins --tests; \
		cargo test $(TEST_FLAGS) --no-fail-fast --lib --bins --tests; \
	fi

test-matrix:
	@scripts/setup matrix
	PGLEAP_TEST_MATRIX=1 $(MAKE) run-tests

bench:
	@scripts/setup demo
	cargo build --release -p pgleap
	cargo bench -p pgleap-upgrade --bench chain -- $(BENCH_ARGS)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings

fmt:
	cargo fmt --all
