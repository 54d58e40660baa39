#!/usr/bin/env bash
# Everything that must hold before a push: formatting, lints, documentation, every test, and the release binary doing what
# the README shows first. Runs from any folder, needs a Rust toolchain, a C compiler, make and perl, and leaves nothing behind
# but the build folder. Tests that need more say on their own line what they need and that they were skipped.
#
#   preflight.sh [folder of recordings]      also compares the release with recordings, if a folder is named
#
# Everything is built once. Tests come first, and mostly wait; the release is built beside them and gives way to them, as they have
# deadlines, and lints take what processors nobody else wants. What was said meanwhile comes afterwards, step by step. The table at
# the end says when each step began and how many seconds it took.
set -euo pipefail
cd "$(dirname "$0")/.."
recordings=${1:-}

# What the environment says to the harness or the replicas is not for the tests.
unset ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE ALLOCDB_LOG ALLOCDB_PLANTED_FAULT RUST_LOG

began=$SECONDS
out=$(mktemp -d)
: >"$out/times"
jobs=()
# The command under way in this shell or in that of a job, so that it ends in its own order when that is told to end.
child=

leave() {
    status=$?
    trap - EXIT
    for job in ${jobs[@]+"${jobs[@]}"}; do kill -TERM "$job" 2>/dev/null || true; done
    for job in ${jobs[@]+"${jobs[@]}"}; do wait "$job" 2>/dev/null || true; done
    rm -rf "$out"
    exit "$status"
}
interrupted() {
    [ -z "$child" ] || { kill -TERM "$child" 2>/dev/null && wait "$child"; } || true
    exit 130
}
trap leave EXIT
trap interrupted INT TERM HUP

run_child() {
    local done=0
    "$@" &
    child=$!
    wait "$child" || done=$?
    child=
    return "$done"
}

# Carries out a step: its title above what it says, and its time in the table at the end. What takes time in a function is a
# child of it.
step() { # title command or function...
    local title=$1 at=$((SECONDS - began)) done=0
    shift
    printf '\n== %s (at %ss)\n' "$title" "$at"
    if declare -F "$1" >/dev/null; then "$@" || done=$?; else run_child "$@" || done=$?; fi
    printf '%6s %8s  %s\n' "$at" "$((SECONDS - began - at))" "$title" >>"$out/times"
    return "$done"
}

# Begins a job, a function with steps of its own, whose output is kept for later.
begin() { # name
    (
        jobs=() child=
        trap 'for job in ${jobs[@]+"${jobs[@]}"}; do kill -TERM "$job" 2>/dev/null || true; wait "$job" 2>/dev/null || true; done' EXIT
        trap interrupted INT TERM HUP
        "$1"
    ) >"$out/$1" 2>&1 &
    jobs+=($!)
}

# Waits for a job and tells what it said.
end() { # name job
    local done=0
    wait "$2" || done=$?
    cat "$out/$1"
    return "$done"
}

# Only when nobody else wants a processor.
if chrt --idle 0 true 2>/dev/null; then spare=(chrt --idle 0); else spare=(nice -n 19); fi

try_release() {
    # Beside all the rest a hunt may not come to everything; it says so, and what.
    run_child target/release/allocdb-jepsen hunt-local --output-root "$out/artifacts" --time-limit 30 ||
        [ $? -eq 2 ] || return 1
    ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE=1 run_child target/release/allocdb-jepsen run-local \
        --run-id reservation_contention-crash-restart --output-root "$out/artifacts"
}

# OpenSSL takes longer than the rest of the release, so where this system has one to link with, it is taken. A build folder in which one
# was built already keeps it, so that what people build by themselves has nothing to do anew because of this script.
choose_openssl() {
    [ -z "${OPENSSL_NO_VENDOR:-}${OPENSSL_DIR:-}${OPENSSL_LIB_DIR:-}" ] || return 0
    local settings
    if compgen -G 'target/*/build/openssl-sys-*/out/openssl-build/install/lib/libcrypto.a' >/dev/null; then
        echo "OpenSSL: the one that was built in this folder"
    elif settings=$(scripts/system-openssl.sh); then
        # shellcheck disable=SC2086
        export $settings
    else
        echo "OpenSSL: built with the tests"
    fi
}

# One that is built is the same in all builds: a release that has none of its own yet is given that of the tests.
build_release() {
    local own openssl=()
    own=$(compgen -G 'target/release/build/openssl-sys-*/out/openssl-build/install/lib/libcrypto.a' || true)
    if [ -z "$own${OPENSSL_NO_VENDOR:-}${OPENSSL_DIR:-}${OPENSSL_LIB_DIR:-}" ]; then
        local built
        built=$(sed -n 's/.*"reason":"build-script-executed".*#openssl-sys@.*"out_dir":"\([^"]*\)".*/\1/p' "$out/built" | head -n 1)
        openssl=(env OPENSSL_NO_VENDOR=1 OPENSSL_STATIC=1 OPENSSL_DIR="$built/openssl-build/install")
        [ -e "$built/openssl-build/install/lib/libcrypto.a" ] || openssl=()
    fi
    run_child nice -n 10 ${openssl[@]+"${openssl[@]}"} cargo build --quiet --locked --release
}

release() {
    step "build of the release" build_release || return 1
    touch "$out/release-is-built"
    local done=0
    step "the release binary, as in the README" try_release || done=$?
    touch "$out/release-is-tried"
    return "$done"
}

# The comparison is built with the tests; what it compares is the release.
compare() {
    while [ ! -e "$out/release-is-built" ]; do
        kill -0 "$release" 2>/dev/null || { echo "nothing is compared with recordings: there is no release" && return 1; }
        sleep 1
    done
    step "recordings" target/debug/examples/check_recordings --program target/release/allocdb-jepsen "$recordings"
}

# Virtual machines want processors. Tests have some of their own, and of those one at a time; so these come when the tests with machines
# have passed, or when all tests are through.
machines() {
    local lacking
    while [ ! -e "$out/machines-are-free" ] || [ ! -e "$out/release-is-tried" ]; do
        kill -0 "$$" 2>/dev/null || return 1
        kill -0 "$release" 2>/dev/null || [ -e "$out/release-is-tried" ] || return 1
        sleep 1
    done
    if lacking=$(scripts/live.sh --check); then
        step "runs on virtual machines" scripts/live.sh --binary target/release/allocdb-jepsen \
            --stand-in target/debug/examples/kubernetes_stand_in
    else
        printf '\n== runs on virtual machines\nskipped: %s\n' "$lacking"
    fi
}

# Not before tests are played: whoever looks whether they are built would wait until this is through.
lints() {
    while [ ! -e "$out/tests-are-built" ]; do
        kill -0 "$$" 2>/dev/null || return 1
        sleep 0.5
    done
    step "lints" "${spare[@]}" cargo clippy --quiet --locked --all-targets --all-features -- -D warnings || return 1
    RUSTDOCFLAGS="-D warnings" step "documentation" \
        "${spare[@]}" cargo doc --quiet --locked --no-deps --lib --all-features
}

# With the programs that compare recordings and stand in for Kubernetes.
build_tests() {
    run_child cargo test --quiet --locked --all-features --no-run || return 1
    run_child cargo build --quiet --locked --all-features --example check_recordings --example kubernetes_stand_in \
        --message-format=json-render-diagnostics >"$out/built"
}

play_tests() {
    local done=0 shows
    : >"$out/tests"
    TESTS_ARE_BUILT_FILE=$out/tests-are-built MACHINES_ARE_FREE_FILE=$out/machines-are-free \
        scripts/tests.sh >"$out/tests" 2>&1 &
    child=$!
    tail -n +1 -f --pid="$child" "$out/tests" &
    shows=$!
    wait "$child" || done=$?
    child=
    wait "$shows" || true
    touch "$out/tests-are-built" "$out/machines-are-free"
    return "$done"
}

step "formatting" cargo fmt --all --check
choose_openssl
step "build of the tests" build_tests
begin release
release=$!
begin lints
lints=$! compare=
if [ -n "$recordings" ]; then
    begin compare
    compare=$!
fi
begin machines
machines=$!
status=0
step "tests" play_tests || status=1
end release "$release" || status=1
[ -z "$compare" ] || end compare "$compare" || status=1
end machines "$machines" || status=1
end lints "$lints" || status=1

printf '\n began  seconds  step\n'
sort -n "$out/times"
if [ "$status" -eq 0 ]; then
    printf '\npreflight passed in %ss\n' "$((SECONDS - began))"
else
    printf '\npreflight failed after %ss\n' "$((SECONDS - began))"
fi
tail -n 1 "$out/tests"
exit "$status"
