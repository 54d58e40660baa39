#!/usr/bin/env bash
# The gate on real virtual machines of this host: makes them, starts them, calls `gate-qemu` and `gate-kubevirt`, and ends the machines
# however those end. The short form takes some minutes: four runs in peace and one with each kind of fault, with a fault window of one
# second, over SSH as on QEMU and, where kubectl is there, through a stand-in for a Kubernetes cluster as on KubeVirt.
#
#   live.sh                                  the short form; leaves nothing behind but what failed
#   live.sh --full --out DIR [--lanes N]     the whole gate as a release needs it, on N testbeds at a time; called again with the
#                                            same DIR it goes on where it stopped, as gates do
#   live.sh --binary FILE ...                a build other than target/release/allocdb-jepsen
#   live.sh --stand-in FILE ...              the example kubernetes_stand_in where it is built already
#
# Needs QEMU, a kernel, busybox, dropbear and e2fsprogs; no rights and no network. `--check` only says whether they are there.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

full=false check=false lanes=1 out='' binary='' stand_in_program=''
usage() {
    echo "usage: live.sh [--check] [--full --out <folder> [--lanes <number>]] [--binary <file>] [--stand-in <file>]" >&2
    exit 1
}
while [ $# -gt 0 ]; do
    case "$1" in
    --full) full=true ;;
    --check) check=true ;;
    --lanes | --out | --binary)
        [ $# -ge 2 ] || usage
        declare "${1#--}=$2"
        shift
        ;;
    --stand-in)
        [ $# -ge 2 ] || usage
        stand_in_program=$2
        shift
        ;;
    *) usage ;;
    esac
    shift
done
[[ "$lanes" =~ ^[1-9][0-9]?$ ]] && [ "$lanes" -le 64 ] || { echo "--lanes: expected 1 to 64, found \`$lanes\`" >&2 && exit 1; }
if $full && [ -z "$out" ]; then usage; fi

missing=()
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
need() { # command package
    command -v "$1" >/dev/null 2>&1 || missing+=("$1 (package $2)")
}
case $(uname -m) in
x86_64) need qemu-system-x86_64 qemu-system-x86 ;;
*) need "qemu-system-$(uname -m)" qemu-system-arm ;;
esac
need busybox busybox-static
need dropbear dropbear-bin
need dropbearconvert dropbear-bin
need mkfs.ext4 e2fsprogs
need ssh openssh-client
compgen -G '/boot/vmlinuz-*' >/dev/null || missing+=("a kernel in /boot (package linux-image-cloud-amd64)")
if [ "${#missing[@]}" -gt 0 ]; then
    printf 'this host lacks %s\n' "$(IFS=,; echo "${missing[*]}" | sed 's/,/, /g')"
    exit 1
fi
if $check; then exit 0; fi

if [ -z "$binary" ]; then
    cargo build --quiet --locked --release --manifest-path "$here/Cargo.toml" --bins
    binary=$here/target/release/allocdb-jepsen
fi
binary=$(realpath "$binary")
temporary=$(mktemp -d)
keep=true
if [ -z "$out" ]; then
    out=$temporary/out
    keep=false
fi
mkdir -p "$out"
out=$(realpath "$out")

# The command under way, so that it ends in its own order when this is told to end.
child=
run_child() {
    local done=0
    "$@" &
    child=$!
    wait "$child" || done=$?
    child=
    return "$done"
}
interrupted() {
    [ -z "$child" ] || { kill -TERM "$child" 2>/dev/null && wait "$child"; }
    exit 130
}

workspaces=()
leave() {
    status=$?
    trap - EXIT
    end_stand_in
    for workspace in "${workspaces[@]}"; do
        "$binary" qemu-testbed stop --workspace "$workspace" >/dev/null || status=1
    done
    if $keep || [ "$status" -eq 0 ]; then
        rm -rf "$temporary"
    else
        echo "what the runs left is in $out" >&2
    fi
    exit "$status"
}
trap leave EXIT
trap interrupted INT TERM HUP

start_testbed() { # workspace lane flags...
    local workspace=$1 lane=$2
    shift 2
    "$binary" qemu-testbed prepare --workspace "$workspace" --lane "$lane" "$@" >"$temporary/prepare-$lane.txt" 2>&1 ||
        { cat "$temporary/prepare-$lane.txt" >&2 && return 1; }
    grep '^accelerator=' "$temporary/prepare-$lane.txt"
    workspaces+=("$workspace")
    run_child "$binary" qemu-testbed start --workspace "$workspace" >/dev/null
}

# The first lane from the given one on whose port nobody has: other testbeds may run on this host.
free_lane() { # number
    local number
    for ((number = $1; number < 64; number++)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$((2220 + number))") 2>/dev/null || { echo "$number" && return; }
    done
    echo "all ports from $((2220 + $1)) to 2283 are taken" >&2
    return 1
}

value() { # key file
    sed -n "s/^$1=//p" "$2" 2>/dev/null | head -n 1
}

stand_in=
end_stand_in() {
    [ -n "$stand_in" ] || return 0
    # It ends with its input, and says with its status whether it was asked for anything unexpected.
    eval "exec ${stand_in_input}>&-"
    local ended=0
    wait "$stand_in" || ended=$?
    if [ "$ended" -gt 128 ]; then
        echo "a signal ended the stand-in for Kubernetes" >&2
    elif [ "$ended" -ne 0 ]; then
        echo "the stand-in for Kubernetes was asked for what nobody expected" >&2
    fi
    [ "$ended" -eq 0 ] || status=1
    stand_in=
}

begin_stand_in() { # workspace for the layout, workspace of the testbed, its lane
    local net=172.31.$((2 * $3 + 1))
    if [ -z "$stand_in_program" ]; then
        # With the features of the tests, so that only one of both builds the library.
        cargo build --quiet --locked --all-features --manifest-path "$here/Cargo.toml" --example kubernetes_stand_in
        stand_in_program=$here/target/debug/examples/kubernetes_stand_in
    fi
    mkfifo "$temporary/to-stand-in"
    "$stand_in_program" "$((2220 + $3))" "$net.11" "$net.12" "$net.13" \
        <"$temporary/to-stand-in" >"$temporary/stand-in.txt" &
    stand_in=$!
    exec {stand_in_input}>"$temporary/to-stand-in"
    local tries=0
    until [ -n "$(value kubeconfig "$temporary/stand-in.txt")" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 100 ] && kill -0 "$stand_in" 2>/dev/null || { echo "the stand-in for Kubernetes did not start" >&2 && return 1; }
        sleep 0.1
    done
    # kubectl keeps its caches away from the home of whoever calls this.
    mkdir -p "$temporary/home"
    export HOME=$temporary/home
    "$binary" capture-kubevirt-layout --workspace "$1" --namespace jepsen \
        --kubeconfig "$(value kubeconfig "$temporary/stand-in.txt")" --ssh-private-key "$2/qemu/ssh/id_ed25519" >/dev/null
}

short() {
    local runs=(
        reservation_contention-control ambiguous_write_retry-control failover_read_fences-control
        expiration_and_recovery-control reservation_contention-crash-restart failover_read_fences-partition-heal
        expiration_and_recovery-mixed-failover
    )
    local gate=(--profile short --window 1) began=$SECONDS lane run
    for run in "${runs[@]}"; do gate+=(--job "$run"); done
    lane=$(free_lane 0)
    start_testbed "$temporary/ws" "$lane" --join-networks
    echo "four machines are ready after $((SECONDS - began))s"
    run_child "$binary" gate-qemu "${gate[@]}" --output-root "$out/qemu" --lane "qemu,$temporary/ws,$out/qemu/lane"
    if command -v kubectl >/dev/null 2>&1; then
        begin_stand_in "$temporary/kubevirt-ws" "$temporary/ws" "$lane"
        run_child "$binary" gate-kubevirt "${gate[@]}" --output-root "$out/kubevirt" \
            --lane "kubevirt,$temporary/kubevirt-ws,$out/kubevirt/lane"
    else
        echo "no kubectl on PATH: the runs as on KubeVirt were skipped"
    fi
}

everything() {
    unset ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE
    local number=-1 gate=()
    while [ "${#workspaces[@]}" -lt "$lanes" ]; do
        number=$(free_lane "$((number + 1))")
        start_testbed "$out/lane-$number/ws" "$number"
        gate+=(--lane "$number,$out/lane-$number/ws,$out/lane-$number/out")
    done
    run_child "$binary" gate-qemu --output-root "$out" "${gate[@]}"
}

if $full; then everything; else short; fi
echo "the gate passed in ${SECONDS}s"
