#!/usr/bin/env bash
# Plays 200 seeds of the simulation with each planted fault, or 2,000 where these do not show it, makes the first seed that does small, and writes what
# came of it to docs/simulated-faults.md. With words only these faults are played; the rows of the others stay as they were.
# Builds the release with all features first; ALLOCDB_JEPSEN_BINARY names another program to use as it is.
# The status is 0 if everything was found that a simulation can have.
set -euo pipefail
cd "$(dirname "$0")/.."
unset ALLOCDB_LOG ALLOCDB_PLANTED_FAULT RUST_LOG

record=docs/simulated-faults.md
few=200
many=2000
words=("$@")

# What a simulated replica does not have: its process ends only when somebody ends it, and its files lose only what was not flushed.
beyond=" replica-ends replica-faults replica-hangs slot-back-ends torn-tail-taken loss-unseen damage-to-all "

# Lines of two fields out of the list in the source: word, sentence.
faults=$(awk '
    /^planted_faults! \{/ { inside = 1; next }
    inside && /^\}/ { exit }
    inside && /^ *\/\/\/ / { sub(/^ *\/\/\/ /, ""); sentence = sentence (sentence == "" ? "" : " ") $0; next }
    inside && / = "/ { split($0, part, "\""); print part[2] "\t" sentence; sentence = "" }
' src/planted.rs)

binary=${ALLOCDB_JEPSEN_BINARY-}
if [ -z "$binary" ]; then
    cargo build --quiet --locked --release --all-features
    binary=target/release/allocdb-jepsen
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
touch "$work/missed"

value() { sed -n "s/^$1=//p" "$work/$2" | head -n 1; }

row() { # word, sentence
    local word=$1 seed=none seeds
    for seeds in "$few" "$many"; do
        # The exit code says what the lines say.
        ALLOCDB_PLANTED_FAULT=$word "$binary" simulate --seeds "0..$seeds" >"$work/sweep" || true
        seed=$(value first_failing_seed sweep)
        [ "$seed" = none ] || break
    done
    if [ "${seed:-none}" = none ]; then
        [[ $beyond == *" $word "* ]] || echo "$word" >>"$work/missed"
        printf '| `%s` | %s | 0 of %s | - | - | - | - | - | - |\n' "$word" "${2%.}" "$many"
        printf '%-28s not found\n' "$word" >&2
        return
    fi
    ALLOCDB_PLANTED_FAULT=$word "$binary" simulate --seed "$seed" --shrink --plan-file "$work/plan" >"$work/small" || true
    printf '| `%s` | %s | %s of %s | %s | %s | %s | %s | %s | %s |\n' "$word" "${2%.}" "$(value violated sweep)" "$seeds" "$seed" \
        "$(value anomaly small | cut -d' ' -f1)" "$(value processes small)" "$(value operations small)" "$(value faults small)" "$(value seconds small)"
    printf '%-28s seed %s\n' "$word" "$seed" >&2
}

while IFS=$'\t' read -r word sentence; do
    if [ ${#words[@]} -gt 0 ] && ! printf '%s\n' "${words[@]}" | grep -qxF -e "$word"; then
        grep -F -e "| \`$word\` |" "$record" || true
        continue
    fi
    row "$word" "$sentence"
done <<<"$faults" >"$work/rows"

{
    cat <<END
# Planted faults, simulated

Beside what [hunts](track-record.md) find of them: each planted fault in $few seeds of the simulation, in $many where these do not show it, and what is left of the first
seed that does when it is made small. Played by $("$binary" --version). This file is written by \`scripts/simulated-faults.sh\`, not by hand. One of them again, to look at:

\`\`\`
ALLOCDB_PLANTED_FAULT=expire-early cargo run --release --all-features -- simulate --seed 0 --shrink
\`\`\`

Faults that are heals of others are not counted. A simulated process ends only when somebody ends it, and simulated disks lose nothing but what was not
flushed, so \`replica-ends\`, \`replica-faults\`, \`replica-hangs\`, \`slot-back-ends\`, \`torn-tail-taken\`, \`loss-unseen\` and \`damage-to-all\` have nothing to show there.

| planted fault | what a replica with it does | seeds that show it | first of them | anomaly | processes | operations | faults | seconds to make it small |
|---|---|---|---|---|---|---|---|---|
END
    cat "$work/rows"
} >"$record.new"
mv "$record.new" "$record"
echo "$record: $(wc -l <"$work/missed") missed" >&2
[ ! -s "$work/missed" ]
