#!/usr/bin/env bash
# Everything that must hold before a push: formatting, lints, documentation, every test, and the release binary doing what
# the README shows first. Runs from any folder, needs a Rust toolchain, a C compiler, make and perl, and leaves nothing behind
# but the build folder. Tests that need more say on their own line what they need and that they were skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

# What the environment says to the harness or the replicas is not for the tests.
unset ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE ALLOCDB_LOG ALLOCDB_PLANTED_FAULT RUST_LOG

step() {
    printf '\n== %s\n' "$*"
}

began=$SECONDS

step "formatting"
cargo fmt --all --check

step "lints"
cargo clippy --locked --all-targets --all-features -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib --all-features

step "tests"
cargo test --locked --all-features

step "the release binary, as in the README"
cargo build --locked --release
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE=1 target/release/allocdb-jepsen run-local \
    --run-id reservation_contention-crash-restart --output-root "$out/artifacts"

step "runs on virtual machines"
if lacking=$(scripts/live.sh --check); then
    scripts/live.sh --binary target/release/allocdb-jepsen
else
    echo "skipped: $lacking"
fi

printf '\npreflight passed in %ss\n' "$((SECONDS - began))"
