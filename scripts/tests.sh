#!/usr/bin/env bash
# Every test, doc tests included, those that wait side by side: with cargo-nextest where it is installed, otherwise all test
# programs that `cargo test` builds, several at once. Then says which tests did not run and what they need, and which seeds were played. The last line is
# the sum of all, as nextest or `cargo test` says it. The status is 0 if every test passed. When nothing is
# left to be built, a file is made that `TESTS_ARE_BUILT_FILE` names: from then on nobody here waits for who builds something else. Another,
# `MACHINES_ARE_FREE_FILE`, is made when all tests with virtual machines have passed, with nextest only.
set -euo pipefail
cd "$(dirname "$0")/.."
unset ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE ALLOCDB_LOG ALLOCDB_PLANTED_FAULT RUST_LOG

# Test programs at once, tests at once in each of them, and seconds after which one hangs; nextest has its own configuration.
programs=4
threads=4
limit=1200

out=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$out"' EXIT
trap 'exit 130' INT TERM HUP
# Tests that cannot run, and those with seeds, say so in this file as well: what passing tests print is kept from the reader.
export TEST_NOTES_FILE=$out/notes
: >"$TEST_NOTES_FILE"

# Plays tests of one program; leaves what they said, and the status.
play() { # name program arguments...
    local name=$1 status=0
    shift
    timeout --kill-after=10 "$limit" "$@" --test-threads="$threads" >"$out/$name.said" 2>&1 || status=$?
    echo "$status" >"$out/$name.status"
    local sum
    sum=$(grep '^test result: ' "$out/$name.said" | tail -n 1 || true)
    printf '%-28s %s\n' "$name" "${sum#test result: }"
    [ "$status" -eq 0 ] || { echo "-- $name ended with status $status"; cat "$out/$name.said"; }
}

# Plays tests of one program once there are not too many at once.
running=0
queue() { # name program arguments...
    [ "$running" -lt "$programs" ] || { wait -n || true; running=$((running - 1)); }
    play "$@" </dev/null &
    running=$((running + 1))
}

# The tests in documentation, which are built as they are played: in the background, once everything else is built.
begin_doc_tests() {
    {
        cargo test --locked --all-features --doc --quiet >"$out/doc" 2>&1 && touch "$out/doc-passed"
        [ -z "${TESTS_ARE_BUILT_FILE:-}" ] || touch "$TESTS_ARE_BUILT_FILE"
    } &
}

# What nextest calls the tests with a virtual machine for each guest, and what it says when one has passed, at whatever attempt.
machines='binary(all) & test(/^qemu_machines::/)'
passed='^ *(TRY [0-9]+ )?PASS .* allocdb-node::all qemu_machines::'

await_machines() {
    local all
    all=$(cargo nextest list "$@" --filterset "$machines" --message-format oneline | grep -c .) || return 0
    until [ "$(grep -cE "$passed" "$out/nextest")" -eq "$all" ]; do sleep 1; done
    touch "$MACHINES_ARE_FREE_FILE"
}

side_by_side() {
    cargo test --locked --all-features --no-run --message-format=json-render-diagnostics >"$out/built" || return 1
    begin_doc_tests
    running=1
    sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p' "$out/built" >"$out/programs"
    local began=$SECONDS all program name
    # Most are in one program, which would play them by their names: those that take longest begin first.
    all=$(grep -E '/all-[0-9a-f]+$' "$out/programs")
    local long=(qemu_machines:: simulation:: sigkill:: qemu_runs:: transport:: watch_guests:: kubevirt:: hunt::)
    local half=("${long[@]:0:4}") rest=("${long[@]:4}")
    queue all-longest "$all" "${half[@]}"
    queue all-long "$all" "${rest[@]}"
    queue all "$all" "${long[@]/#/--skip=}"
    while read -r program; do
        name=$(basename "${program%-*}")
        [ "$program" = "$all" ] || queue "$name" "$program"
    done <"$out/programs"
    wait
    # A program that was cut off has no sum of its own; its status still counts.
    local word=ok
    [ "$(cat "$out"/*.status | sort -u)" = 0 ] || word=FAILED
    sum=$(sed -n 's/^test result: [a-zA-Z]*\. //p' "$out"/*.said |
        awk -v word="$word" -v seconds="$((SECONDS - began))" -F'[ ;]+' \
            '{ passed += $1; failed += $3; ignored += $5; measured += $7 }
             END { printf "test result: %s. %d passed; %d failed; %d ignored; %d measured; 0 filtered out; finished in %d.00s\n",
                   word, passed, failed, ignored, measured, seconds }')
    [ "$word" = ok ]
}

# Tests have deadlines, and wait for processes that other tests keep from the processors: on a slow machine fewer run side by side. One is
# slow that counts to 300,000 in more than 0.8 seconds of a processor.
is_slow() {
    local took TIMEFORMAT=%U
    took=$({ time for ((i = 0; i < 300000; i++)); do :; done; } 2>&1)
    echo "counting to 300,000 took $took s of a processor"
    awk -v took="$took" 'BEGIN { exit !(took > 0.8) }'
}

status=0 sum='no test was run'
if [ "${1:-}" != --plain ] && cargo nextest --version >/dev/null 2>&1; then
    cargo nextest list --locked --all-features --list-type binaries-only --message-format json >"$out/programs.json"
    host=$(rustc -vV | sed -n 's/^host: //p')
    cargo metadata --locked --all-features --format-version 1 --filter-platform "$host" >"$out/metadata.json"
    begin_doc_tests
    : >"$out/nextest"
    built=(--binaries-metadata "$out/programs.json" --cargo-metadata "$out/metadata.json")
    profile=default
    ! is_slow || profile=slow
    cargo nextest run "${built[@]}" --profile "$profile" --no-fail-fast --status-level pass --final-status-level slow >"$out/nextest" 2>&1 &
    played=$!
    # Of those that passed at once nothing is told.
    tail -n +1 -f --pid="$played" "$out/nextest" | grep --line-buffered -vE '^ *PASS \[' &
    awaits=
    if [ -n "${MACHINES_ARE_FREE_FILE:-}" ]; then
        await_machines "${built[@]}" >/dev/null 2>&1 &
        awaits=$!
    fi
    wait "$played" || status=1
    [ -z "$awaits" ] || kill "$awaits" 2>/dev/null || true
    wait
    sum=$(grep -E '^ *Summary \[' "$out/nextest" || echo "$sum")
else
    side_by_side || status=1
fi
[ -e "$out/doc-passed" ] || { cat "$out/doc" || true; status=1; }

sort -u "$TEST_NOTES_FILE"
echo "$sum"
exit "$status"
