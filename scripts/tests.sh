#!/usr/bin/env bash
# Every test, doc tests included, those that wait side by side: with cargo-nextest where it is installed, otherwise all test
# programs that `cargo test` builds, several at once. Then says which tests did not run and what they need, and which seeds were played. The last line is
# the sum of all, as nextest or `cargo test` says it. The status is 0 if every test passed.
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

# Plays one test program; leaves what it said, and its status.
play() { # program
    local name status=0
    name=$(basename "$1")
    timeout --kill-after=10 "$limit" "$1" --test-threads="$threads" >"$out/$name.said" 2>&1 || status=$?
    echo "$status" >"$out/$name.status"
    local sum
    sum=$(grep '^test result: ' "$out/$name.said" | tail -n 1 || true)
    printf '%-28s %s\n' "${name%-*}" "${sum#test result: }"
    [ "$status" -eq 0 ] || { echo "-- $name ended with status $status"; cat "$out/$name.said"; }
}

side_by_side() {
    cargo test --locked --all-features --no-run --message-format=json-render-diagnostics >"$out/built" || return 1
    # Those that take longest begin first.
    local long='qemu_machines|kubevirt|transport|watch_guests|qemu_runs|sigkill|simulation|faults'
    sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p' "$out/built" >"$out/found"
    { grep -E "/($long)-[0-9a-f]+$" "$out/found" || true; grep -Ev "/($long)-[0-9a-f]+$" "$out/found"; } >"$out/programs"
    local began=$SECONDS running=0 program
    while read -r program; do
        [ "$running" -lt "$programs" ] || { wait -n || true; running=$((running - 1)); }
        play "$program" </dev/null &
        running=$((running + 1))
    done <"$out/programs"
    wait
    # A program that was cut off has no sum of its own; its status still counts.
    local word=ok
    [ "$(cat "$out"/*.status | sort -u)" = 0 ] || word=FAILED
    sum=$(sed -n 's/^test result: [a-zA-Z]*\. //p' "$out"/*.said |
        awk -v word="$word" -v seconds="$((SECONDS - began))" -F'[ ;]+' \
            '{ passed += $1; failed += $3; ignored += $5; measured += $7; filtered += $9 }
             END { printf "test result: %s. %d passed; %d failed; %d ignored; %d measured; %d filtered out; finished in %d.00s\n",
                   word, passed, failed, ignored, measured, filtered, seconds }')
    [ "$word" = ok ]
}

status=0 sum='no test was run'
if [ "${1:-}" != --plain ] && cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --all-features --no-fail-fast --status-level slow --final-status-level slow \
        >"$out/nextest" 2>&1 &
    played=$!
    tail -n +1 -f --pid="$played" "$out/nextest" &
    wait "$played" || status=1
    wait
    sum=$(grep -E '^ *Summary \[' "$out/nextest" || echo "$sum")
else
    side_by_side || status=1
fi
cargo test --locked --all-features --doc --quiet >"$out/doc" 2>&1 || { cat "$out/doc" && status=1; }

sort -u "$TEST_NOTES_FILE"
echo "$sum"
exit "$status"
