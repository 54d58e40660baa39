#!/usr/bin/env bash
# Everything that must hold before a push: formatting, lints, documentation, every test, and the release binary doing what
# the README shows first. Runs from any folder, needs a Rust toolchain, a C compiler, make and perl, and leaves nothing behind
# but the build folder. Tests that need more say on their own line what they need and that they were skipped.
#
#   preflight.sh [folder of recordings]      also compares the release with recordings, if a folder is named
#
# The release is built and tried while the tests, which mostly wait, are played; what it said comes after them.
set -euo pipefail
cd "$(dirname "$0")/.."
recordings=${1:-}

# What the environment says to the harness or the replicas is not for the tests.
unset ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE ALLOCDB_LOG ALLOCDB_PLANTED_FAULT RUST_LOG

began=$SECONDS
step() {
    printf '\n== %s (at %ss)\n' "$*" "$((SECONDS - began))"
}

out=$(mktemp -d)
release=
leave() {
    status=$?
    trap - EXIT
    [ -z "$release" ] || { kill -TERM "$release" 2>/dev/null && wait "$release" || true; }
    rm -rf "$out"
    exit "$status"
}
trap leave EXIT
trap 'exit 130' INT TERM HUP

# Runs a command so that a signal to this shell ends it in its own order.
child=
run_child() {
    local done=0
    "$@" &
    child=$!
    wait "$child" || done=$?
    child=
    return "$done"
}

try_release() {
    trap - EXIT
    trap '[ -z "$child" ] || { kill -TERM "$child" 2>/dev/null && wait "$child"; }; exit 130' INT TERM HUP
    step "the release binary, as in the README"
    run_child nice cargo build --quiet --locked --release || return 1
    run_child target/release/allocdb-jepsen hunt-local --output-root "$out/artifacts" --time-limit 30 ||
        [ $? -eq 2 ] || return 1 # Beside all the rest it may not come to everything; it says so, and what.
    ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE=1 run_child target/release/allocdb-jepsen run-local \
        --run-id reservation_contention-crash-restart --output-root "$out/artifacts" || return 1

    step "runs on virtual machines"
    if lacking=$(scripts/live.sh --check); then
        run_child scripts/live.sh --binary target/release/allocdb-jepsen || return 1
    else
        echo "skipped: $lacking"
    fi

    if [ -n "$recordings" ]; then
        step "recordings"
        run_child nice scripts/check-recordings.sh "$recordings" || return 1
    fi
    step "the release has been tried"
}

step "formatting"
cargo fmt --all --check

try_release >"$out/release" 2>&1 &
release=$!

step "lints"
cargo clippy --locked --all-targets --all-features -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib --all-features

step "tests"
status=0
scripts/tests.sh | tee "$out/tests" || status=1

step "waiting for the release"
wait "$release" || status=1
release=
cat "$out/release"

if [ "$status" -eq 0 ]; then
    printf '\npreflight passed in %ss\n' "$((SECONDS - began))"
else
    printf '\npreflight failed after %ss\n' "$((SECONDS - began))"
fi
tail -n 1 "$out/tests"
exit "$status"
