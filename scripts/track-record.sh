#!/usr/bin/env bash
# Hunts clusters whose replicas have a planted fault, one fault at a time or as many as there are lanes, checks the hand-written histories of tests/traps, and writes
# what came of it to docs/track-record.md. With words only these faults are hunted; the rows of the others stay as they were.
# Without --no-build it builds the release with all features first; ALLOCDB_JEPSEN_BINARY names another program to use as it is.
# The status is 0 if everything was found that can be.
set -euo pipefail
cd "$(dirname "$0")/.."
unset ALLOCDB_LOG ALLOCDB_PLANTED_FAULT RUST_LOG

usage="usage: track-record.sh [--seeds <count>] [--time-limit <secs>] [--lanes <count>] [--no-build] [<planted fault>...]"
record=docs/track-record.md
seeds=3
limit=60
lanes=1
build=yes
words=()

refuse() {
    printf '%s\n%s\n' "$1" "$usage" >&2
    exit 2
}

number() { # flag, value
    [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || refuse "$1: expected a number from 1 to 99999, found '$2'"
    printf '%s' "$2"
}

while [ $# -gt 0 ]; do
    case $1 in
        --seeds) seeds=$(number "$1" "${2-}"); shift 2 ;;
        --time-limit) limit=$(number "$1" "${2-}"); shift 2 ;;
        --lanes) lanes=$(number "$1" "${2-}"); shift 2 ;;
        --no-build) build=no; shift ;;
        --help | -h) echo "$usage"; exit 0 ;;
        -*) refuse "$1 is not known" ;;
        *) words+=("$1"); shift ;;
    esac
done

# Lines of three fields out of the list in the source: word, name, sentence.
faults=$(awk '
    /^planted_faults! \{/ { inside = 1; next }
    inside && /^\}/ { exit }
    inside && /^ *\/\/\/ / { sub(/^ *\/\/\/ /, ""); sentence = sentence (sentence == "" ? "" : " ") $0; next }
    inside && / = "/ { split($0, part, "\""); print part[2] "\t" $1 "\t" sentence; sentence = "" }
' src/planted.rs)
# Lines of two fields: name, and why a hunt on one machine does not find it.
beyond=$(awk -F'"' '
    /BEYOND_LOCAL_HUNTS/ { inside = 1; next }
    inside && /^    \];/ { exit }
    inside && /PlantedFault::/ { name = $1; sub(/.*PlantedFault::/, "", name); sub(/[^A-Za-z].*/, "", name) }
    inside && NF > 1 { print name "\t" $2 }
' src/planted.rs)

for word in ${words[@]+"${words[@]}"}; do
    cut -f 1 <<<"$faults" | grep -qxF -e "$word" || refuse "there is no planted fault '$word'"
done

binary=${ALLOCDB_JEPSEN_BINARY-}
if [ -z "$binary" ]; then
    binary=target/release/allocdb-jepsen
    [ "$build" = no ] || cargo build --quiet --locked --release --all-features
fi
[ -x "$binary" ] || refuse "$binary is no program"

work=$(mktemp -d)
leave() {
    status=$?
    trap - EXIT
    jobs -p | xargs -r kill -TERM 2>/dev/null || true
    wait || true
    rm -rf "$work"
    exit "$status"
}
trap leave EXIT
trap 'exit 130' INT TERM HUP
began=$SECONDS
missed=0

# The middle of the numbers in a file, the lower one of two.
median() { sort -g "$1" | awk '{ all[NR] = $1 } END { print NR ? all[int((NR + 1) / 2)] : "-" }'; }

# Each name in a file with how often it is there, the most frequent first.
counted() { sort "$1" | uniq -c | sort -k1,1nr -k2 | awk '{ printf "%s%s %d", (NR > 1 ? ", " : ""), $2, $1 }'; }

# Hunts one fault with every seed, in a folder of its own; prints its row.
hunt() { # word, name, sentence
    local word=$1 seed root out evidence why found=0 work=$work/of-$1 profile=unknown asked=
    local flags=()
    case $word in
        # Only damaged files show these, and those have to be asked for.
        damage-to-all | loss-unseen | torn-tail-taken)
            flags=(--nemesis disk --nemesis-interval 2)
            asked=", \`--nemesis disk\`"
            ;;
    esac
    mkdir "$work"
    : >"$work/first"; : >"$work/also"; : >"$work/verdicts"; : >"$work/seconds"; : >"$work/operations"
    for seed in $(seq "$seeds"); do
        root=$work/root
        out=$work/out
        # Longer than any hunt takes to heal, settle and compare.
        ALLOCDB_PLANTED_FAULT=$word timeout --kill-after=10 $((limit + 240)) "$binary" hunt-local \
            --output-root "$root" --time-limit "$limit" --seed "$seed" ${flags[@]+"${flags[@]}"} </dev/null >"$out" 2>"$work/errors" &
        hunting=$!
        wait "$hunting" || true
        hunting=
        sed -n 's/^verdict=//p' "$out" >"$work/verdict"
        [ -s "$work/verdict" ] || echo failed >"$work/verdict"
        cat "$work/verdict" >>"$work/verdicts"
        evidence=$(sed -n 's/^artifact_bundle=//p' "$out")/evidence.json
        if [ -f "$evidence" ]; then
            profile=$(sed -n 's/.*"profile": *"\([a-z]*\)".*/\1/p' "$evidence" | head -n 1)
        fi
        if grep -qx invalid "$work/verdict"; then
            found=$((found + 1))
            sed -n 's/^anomaly=\([a-z-]*\).*/\1/p' "$out" | awk '!seen[$0]++' >"$work/names"
            head -n 1 "$work/names" >>"$work/first"
            tail -n +2 "$work/names" >>"$work/also"
            sed -n 's/^operations=//p' "$out" >>"$work/operations"
            # Found while clients worked, if that ended before its time; else by what comes after it.
            tr -d ' \n' <"$evidence" | grep -o '"\(main_\)\?seconds":[0-9.]*' |
                awk -F'[":]+' -v limit="$limit" '{ of[$2] = $3 }
                    END { printf "%.1f\n", (of["main_seconds"] < limit ? of["main_seconds"] : of["seconds"]) }' >>"$work/seconds"
        fi
        rm -rf "$root"
        printf '%-28s seed %s  %s  %s\n' "$word" "$seed" "$(cat "$work/verdict")" "$(paste -sd, "$work/names" 2>/dev/null || true)" >&2
        rm -f "$work/names"
    done
    why=$(awk -F'\t' -v name="$2" '$1 == name { print $2 }' <<<"$beyond")
    if [ -z "$why" ] && [ "$found" -lt "$seeds" ]; then
        touch "$work/missed"
    fi
    printf '| `%s` | %s | %s | %s | %s | %s of %s | %s | %s | %s, %s s%s |\n' "$word" "${3%.}" "$(counted "$work/verdicts")" \
        "$(counted "$work/first")" "$(awk '!seen[$0]++' "$work/also" | sort | paste -sd, | sed 's/,/, /g')" \
        "$found" "$seeds" "$(median "$work/seconds")" "$(median "$work/operations")" "$profile" "$limit" "$asked"
}

# The row of a fault as it stands in the present record.
kept() { grep -F -e "| \`$1\` |" "$record" 2>/dev/null | awk -F'|' 'NF > 9' | head -n 1; }

trap_row() { # file
    local file=$1 name status=0 began_at=$EPOCHREALTIME took
    name=$(basename "$file" .jsonl)
    "$binary" check --history-file "$file" >"$work/out" || status=$?
    took=$(awk -v from="$began_at" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.2f", to - from }')
    sed -n 's/^anomaly=\([a-z-]*\).*/\1/p' "$work/out" >"$work/found"
    if [ "$status" -ne 1 ] || [ "$(cat "$work/found")" != "$name" ]; then
        missed=$((missed + 1))
    fi
    printf '| `%s` | `allocdb-jepsen check --history-file %s` | %s | %s | %s | %s |\n' "$name" "$file" \
        "$(sed -n 's/^verdict=//p' "$work/out")" "$(paste -sd, "$work/found" | sed 's/,/, /g')" "$took" "$(grep -c '"type":"invoke"' "$file")"
}

# The same beside others. Told to end, it ends its hunt first.
hunt_beside() { # row, word, name, sentence
    hunting=
    trap - EXIT
    trap '[ -z "$hunting" ] || kill -TERM "$hunting"; wait; exit 130' INT TERM HUP
    hunt "$2" "$3" "$4" >"$1"
}

row=100
while IFS=$'\t' read -r word name sentence; do
    row=$((row + 1))
    if [ ${#words[@]} -gt 0 ] && ! printf '%s\n' "${words[@]}" | grep -qxF -e "$word"; then
        kept "$word" >"$work/row-$row" || true
        continue
    fi
    while [ "$(jobs -rp | wc -l)" -ge "$lanes" ]; do wait -n; done
    hunt_beside "$work/row-$row" "$word" "$name" "$sentence" &
done <<<"$faults"
while [ -n "$(jobs -rp)" ]; do wait -n; done
cat "$work"/row-* >"$work/rows"
missed=$(find "$work" -path '*/of-*/missed' | wc -l)
for file in tests/traps/*.jsonl; do
    trap_row "$file"
done >"$work/traps"

{
    cat <<END
# Track record

What hunts have found: bugs that were planted, one at a time, and histories written by hand that have one thing wrong each. This file is
written by \`scripts/track-record.sh\`, not by hand. It hunts each fault with three seeds, or as many as it is told to, from 1, for at most a minute of
clients at work, which takes about half an hour in all; with words it hunts only these faults, and the rows of the others stay as they were.
With \`--lanes\` it hunts several faults at once, so that each has less of the machine. Each row says which build and limit it is of.

## Planted faults

A build with the feature \`planted-faults\` has them all and none of them awake; \`src/planted.rs\` lists them. One of them again, and its row
written anew:

\`\`\`
scripts/track-record.sh $(head -n 1 <<<"$faults" | cut -f 1)
\`\`\`

The same as one hunt, to look at:

\`\`\`
ALLOCDB_PLANTED_FAULT=$(head -n 1 <<<"$faults" | cut -f 1) cargo run --release --all-features -- hunt-local --output-root .artifacts --time-limit $limit --seed 1
\`\`\`

A hunt ends at the first anomaly it finds; what it finds after that, while it settles and compares the replicas' files, is under "also".
Seconds are those until the clients were stopped by the first anomaly, or of the whole hunt where it was found only afterwards. Operations
are those of the whole hunt. Both are medians of the hunts that found it.

| planted fault | what a replica with it does | verdicts | first anomaly | also | found | seconds | operations | build, time limit |
|---|---|---|---|---|---|---|---|---|
END
    cat "$work/rows"
    cat <<END

What no hunt on one machine can find, and why:

| planted fault | reason |
|---|---|
END
    while IFS=$'\t' read -r name why; do
        printf '| `%s` | %s |\n' "$(awk -F'\t' -v name="$name" '$2 == name { print $1 }' <<<"$faults")" "$why"
    done <<<"$beyond"
    cat <<END

## Known traps

Each name of an anomaly has a history of few lines that has this and nothing else wrong.

| trap | command | verdict | anomalies | seconds | operations |
|---|---|---|---|---|---|
END
    cat "$work/traps"
} >"$record.new"
mv "$record.new" "$record"
echo "$record: $missed missed, $((SECONDS - began)) seconds" >&2
[ "$missed" -eq 0 ]
