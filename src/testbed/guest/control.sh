#!/bin/sh
# Does things to replicas from the control guest. The same script serves guests made from cloud images and micro guests; the
# addresses were filled in when the testbed was prepared. Needs to be root, which `sudo` sees to.
set -eu

home=/var/lib/allocdb-qemu
workspace=/var/lib/allocdb
program=/usr/local/bin/allocdb-local-cluster

# Longest time for a verb that moves no files; a restart may take five seconds by itself.
short=20
long=600

usage() {
    echo "usage: allocdb-qemu-control <status|isolate|heal|crash|restart|reboot|export-replica|import-replica|collect-logs> [replica-id|output-dir]" >&2
    exit 1
}

management_addr() {
    case "$1" in
    1) echo @MANAGEMENT_1@ ;;
    2) echo @MANAGEMENT_2@ ;;
    3) echo @MANAGEMENT_3@ ;;
    *) echo "unknown replica id: $1" >&2 && return 255 ;;
    esac
}

control_addr() {
    case "$1" in
    1) echo @CONTROL_1@ ;;
    2) echo @CONTROL_2@ ;;
    3) echo @CONTROL_3@ ;;
    esac
}

# Where other replicas and clients reach a replica, besides its control port.
cluster_addr() {
    case "$1" in
    1) echo @CLUSTER_1@ ;;
    2) echo @CLUSTER_2@ ;;
    3) echo @CLUSTER_3@ ;;
    esac
}

# on <limit in seconds> <replica id> <command line>: runs it in the replica's guest. Host keys were pinned with the testbed.
on() {
    addr=$(management_addr "$2")
    if command -v ssh >/dev/null 2>&1; then
        timeout "$1" ssh -i "$home/id_ed25519" -o BatchMode=yes -o ConnectTimeout=5 -o LogLevel=ERROR \
            -o StrictHostKeyChecking=yes -o "UserKnownHostsFile=$home/.ssh/known_hosts" "allocdb@$addr" "$3"
    else
        # This client waits for minutes for a guest that is gone, and says 1 then, as programs do that it has run.
        if ! timeout 10 nc -w 5 "$addr" 22 </dev/null >/dev/null 2>&1; then
            echo "the guest of replica $2 does not answer on $addr" >&2
            return 255
        fi
        HOME="$home" timeout "$1" dbclient -i "$home/id_dropbear" "allocdb@$addr" "$3"
    fi
}

replica_verb() {
    on "$short" "$2" "$program $1 --workspace $workspace --replica-id $2" </dev/null
}

# GNU tar says 1 when a file changed while it was read. Who asked checks the copy and takes it again.
export_replica() {
    on "$long" "$1" "sudo sh -c 'cd $workspace && test -d replica-$1 || exit 2
        tar -czf - replica-$1 || { status=\$?; [ \$status -eq 1 ] && tar --version 2>/dev/null | grep -q GNU; }'" </dev/null
}

# The new files take the old ones' place only when all of them are there, and on the disk. The old ones step aside until then; if the
# guest ends in between, the next import puts them back, or the next start of the replica.
import_replica() {
    on "$long" "$1" "sudo sh -c 'set -e; mkdir -p $workspace; cd $workspace
        pid=\$(cat /run/allocdb/replica-$1.pid 2>/dev/null || true)
        if [ -n \"\$pid\" ] && tr \"\\000\" \"\\n\" 2>/dev/null </proc/\$pid/cmdline | grep -qx replica-daemon; then
            echo replica $1 is already running with pid \$pid, so its files are not replaced >&2; exit 1
        fi
        put_back() { if test -e replica-$1; then rm -rf .replaced-$1; elif test -e .replaced-$1; then mv .replaced-$1 replica-$1; fi; }
        trap \"put_back; rm -rf .import-$1\" EXIT; put_back; rm -rf .import-$1; mkdir .import-$1
        tar -xzf - -C .import-$1; test -d .import-$1/replica-$1; chown -R allocdb:allocdb .import-$1; sync
        if test -e replica-$1; then mv replica-$1 .replaced-$1; fi
        test ! -e replica-$1; mv .import-$1/replica-$1 replica-$1; sync'"
}

# What a guest's shell reads to do something to that guest. Whatever is done ends by itself after so many seconds, so that nothing stays
# of a harness that is gone; what ends it is named after it, and noted in a file of that name.
guest_faults() {
    cat <<'EOF'
set -eu
run=/run/allocdb
workspace=/var/lib/allocdb
filler=$workspace/.filler
fail() { echo "$*" >&2; exit 1; }
need() { command -v "$1" >/dev/null 2>&1 || fail "the guest has no program $1"; }
quietly() { "$@" >/dev/null 2>&1 </dev/null; }

forget() {
    watcher=$(cat "$run/ends-$1" 2>/dev/null) || return 0
    if tr "\000" " " 2>/dev/null <"/proc/$watcher/cmdline" | grep -q "ends-$1"; then kill -- "-$watcher" 2>/dev/null || true; fi
    rm -f "$run/ends-$1"
}
# later <name> <seconds> <command line>
later() {
    forget "$1"
    mkdir -p "$run"
    setsid sh -c "sleep $2; rm -f $run/ends-$1; $3" </dev/null >/dev/null 2>&1 &
    echo $! >"$run/ends-$1"
}

process_of() {
    pid=$(cat "$run/replica-$1.pid" 2>/dev/null) || return 1
    tr "\000" "\n" 2>/dev/null <"/proc/$pid/cmdline" | grep -qx replica-daemon && echo "$pid"
}
stands_still() { grep -q "^State:[[:space:]]*[Tt]" "/proc/$1/status" 2>/dev/null; }
# signal <pid> <signal> <whether it stands still afterwards>
signal() {
    kill "-$2" "$1"
    tries=0
    while { stands_still "$1" && echo yes || echo no; } | grep -vqx "$3"; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || fail "process $1 does not take signal $2"
        sleep 0.02
    done
}

# Shells that have programs built in may have one of that name that does less.
tc=
for folder in /usr/sbin /sbin /usr/bin /bin; do
    if [ -z "$tc" ] && [ -x "$folder/tc" ] && ! readlink -f "$folder/tc" | grep -q busybox; then tc=$folder/tc; fi
done
devices() { ls /sys/class/net; }
unshape() {
    [ -n "$tc" ] || return 0
    for device in $(devices); do
        "$tc" qdisc show dev "$device" 2>/dev/null | grep -q "^qdisc prio 1: root" || continue
        quietly "$tc" filter del dev "$device" parent 1: prio "$(($1 + 2))" || true
        quietly "$tc" qdisc del dev "$device" parent "1:$(($1 + 2))" || true
        "$tc" qdisc show dev "$device" | grep -q "^qdisc netem" || quietly "$tc" qdisc del dev "$device" root || true
    done
}
heal_link() {
    forget "link-$1-$2"
    quietly nft delete table ip "allocdb_link_$1_$2" || true
    unshape "$2"
}
# link <from> <to> <seconds> <address,address> <any|dport|sport> <effect> [<how much>]: done to what this guest sends.
link() {
    from=$1 to=$2 limit=$3 addresses=$4 ports=$5 effect=$6
    case "$effect" in
    drop) verdict="drop" ;;
    half-open) verdict="meta l4proto tcp meta length > 64 drop" ;;
    reset) verdict="meta l4proto tcp meta length > 64 reject with tcp reset" ;;
    delay | rate) verdict= ;;
    *) fail "unknown effect: $effect" ;;
    esac
    if [ -n "$verdict" ]; then
        need nft
        heal_link "$from" "$to"
        # Whoever is answered from there is a client, whatever address it asked from.
        case "$ports" in any) match="ip daddr { $addresses }" ;; sport) match="tcp sport 18000" ;; dport) match="ip daddr { $addresses } tcp dport 18000" ;; esac
        table="ip allocdb_link_$from"_"$to"
        nft "add table $table; add chain $table out { type filter hook output priority 0; }; add rule $table out $match $verdict" </dev/null
        later "link-$from-$to" "$limit" "nft delete table $table"
        return
    fi
    [ -n "$tc" ] || fail "the guest has no program tc"
    heal_link "$from" "$to"
    class=$((to + 2))
    case "$effect" in
    delay) shape="delay $7ms $(($7 / 2))ms" ;;
    rate) shape="rate $7bps" ;;
    esac
    ends=
    for address in $(echo "$addresses" | tr , " "); do
        device=$(ip -o route get "$address" </dev/null | sed -n "s/.* dev \([^ ]*\).*/\1/p")
        [ -n "$device" ] || fail "there is no route to $address"
        "$tc" qdisc show dev "$device" | grep -q "^qdisc prio 1: root" ||
            "$tc" qdisc replace dev "$device" root handle 1: prio bands 5 priomap 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 </dev/null
        "$tc" qdisc replace dev "$device" parent "1:$class" handle "$((class * 16)):" netem $shape </dev/null
        case "$ports" in any) port= ;; *) port="match ip $ports 18000 0xffff" ;; esac
        "$tc" filter add dev "$device" parent 1: protocol ip prio "$class" u32 match ip dst "$address/32" $port flowid "1:$class" </dev/null
        ends="$ends $tc filter del dev $device parent 1: prio $class; $tc qdisc del dev $device parent 1:$class; $tc qdisc show dev $device | grep -q \"^qdisc netem\" || $tc qdisc del dev $device root;"
    done
    later "link-$from-$to" "$limit" "$ends"
}
links() {
    { nft list tables 2>/dev/null </dev/null | sed -n "s/^table ip allocdb_link_\([0-9]\)_\([0-9]\).*/\1-\2/p"
    for device in $(devices); do
        "$tc" qdisc show dev "$device" 2>/dev/null </dev/null | sed -n "s/^qdisc netem .* parent 1:\([0-9]\).*/\1/p" |
            while read -r class; do echo "$1-$((class - 2))"; done
    done; } | sort -u
}

heal_links() {
    for found in $(links "$1"); do heal_link "${found%-*}" "${found#*-}"; done
    for noted in "$run/ends-link-$1"-*; do forget "${noted#"$run/ends-"}"; done
}

put_clock_back() {
    offset=$(cat "$run/clock-offset" 2>/dev/null) || return 0
    forget clock
    date -s "@$(($(date +%s) - offset))" >/dev/null
    rm -f "$run/clock-offset"
}
has_own_disk() { [ "$(stat -c %d "$workspace/.")" != "$(stat -c %d /)" ]; }

verb=$1 id=$2
shift 2
case "$verb" in
pause)
    pid=$(process_of "$id") || fail "replica $id is already stopped"
    signal "$pid" STOP yes
    later "pause-$id" "$1" "kill -CONT $pid"
    echo "replica=$id process=paused pid=$pid"
    ;;
resume)
    forget "pause-$id"
    if pid=$(process_of "$id"); then signal "$pid" CONT no; fi
    echo "replica=$id process=running"
    ;;
link)
    link "$id" "$@"
    echo "link=$id-$1 effect=$5"
    ;;
heal-link)
    heal_link "$id" "$1"
    echo "link=$id-$1 effect=none"
    ;;
heal-links) heal_links "$id" ;;
undo)
    heal_links "$id"
    if pid=$(process_of "$id"); then signal "$pid" CONT no; fi
    forget "pause-$id"
    put_clock_back
    forget disk
    rm -f "$filler"
    ;;
step-clock)
    put_clock_back
    date -s "@$(($(date +%s) + $1))" >/dev/null
    echo "$1" >"$run/clock-offset"
    later clock "$2" "date -s @\$((\$(date +%s) - ($1))); rm -f $run/clock-offset"
    echo "replica=$id clock_offset=$1"
    ;;
heal-clock)
    put_clock_back
    echo "replica=$id clock_offset=0"
    ;;
fill-disk)
    has_own_disk || fail "the state of replica $id is not on a disk of its own"
    rm -f "$filler"
    # The last of it takes room for where the rest is.
    fallocate -l "$(df -k "$workspace" | awk "END { print int(\$(NF - 2) * 0.97) }")k" "$filler"
    dd if=/dev/zero bs=64k >>"$filler" 2>/dev/null || true
    later disk "$1" "rm -f $filler"
    echo "replica=$id disk=full"
    ;;
heal-disk)
    forget disk
    rm -f "$filler"
    echo "replica=$id disk=ok"
    ;;
left)
    if pid=$(process_of "$id") && stands_still "$pid"; then echo process=paused; fi
    links "$id" | sed "s/^/link=/"
    if grep -q "^replica.$id.network=isolated" "$workspace/cluster-faults.txt" 2>/dev/null; then echo network=isolated; fi
    if [ -e "$run/clock-offset" ]; then echo "clock_offset=$(cat "$run/clock-offset")"; fi
    if [ -e "$filler" ]; then echo disk=full; fi
    ;;
can)
    echo pause=yes
    if ! command -v nft >/dev/null 2>&1; then echo "link=the guest has no program nft"
    elif ! quietly nft "add table ip allocdb_trial; delete table ip allocdb_trial"; then echo "link=the kernel of the guest has no nf_tables"
    else echo link=yes; fi
    if [ -z "$tc" ]; then echo "shape=the guest has no program tc"
    elif ! { quietly "$tc" qdisc add dev lo root netem delay 0ms && quietly "$tc" qdisc del dev lo root; }; then echo "shape=the kernel of the guest has no sch_netem"
    else echo shape=yes; fi
    if quietly date -s "@$(date +%s)"; then echo clock=yes; else echo "clock=the clock of the guest cannot be set"; fi
    if has_own_disk; then echo fill=yes; else echo "full_disk=the state is not on a disk of its own"; fi
    ;;
*) fail "unknown fault: $verb" ;;
esac
EOF
}

# at <node> <verb> <words>: node 0 is the control guest itself, whose requests are those of clients.
at() {
    node=$1 what=$2
    shift 2
    if [ "$node" = 0 ]; then
        guest_faults | sh -s "$what" "$node" "$@"
    else
        guest_faults | on "$short" "$node" "sudo sh -s $what $node $*"
    fi
}

# Words become part of command lines, so they have to be what they should be.
number() {
    case "$1" in
    '' | - | *[!0-9-]* | ?*-*) echo "allocdb-qemu-control: expected a number, found: $1" >&2 && return 1 ;;
    esac
    echo "$1"
}

node() {
    case "$1" in
    0 | 1 | 2 | 3) echo "$1" ;;
    *) echo "unknown node: $1; expected 1, 2, 3, or 0 for clients" >&2 && return 255 ;;
    esac
}

# link <from> <to> <limit> <effect and how much>: of what one node sends to another. Clients use the client port alone.
link() {
    from=$(node "$1") || return
    to=$(node "$2") || return
    [ "$from" != "$to" ] || { echo "a link has two ends" >&2 && return 1; }
    limit=$(number "$3") || return
    shift 3
    case "$from-$to" in
    0-*) addresses=$(cluster_addr "$to") ports=dport ;;
    *-0) addresses=@CONTROL_GUEST@ ports=sport ;;
    *) addresses=$(management_addr "$to"),$(cluster_addr "$to") ports=any ;;
    esac
    at "$from" link "$to" "$limit" "$addresses" "$ports" "$@"
}

# What a replica's guest has to say, as a tar archive without the folder, whose mode is nobody else's business. Whatever is
# missing there stays empty. A log that was put away comes first; the one that is written is opened before it, so that what is
# put away meanwhile is there twice rather than not at all.
gather='sudo sh -c '"'"'cd $(mktemp -d) || exit 1
    cat @LOG@.1 - <@LOG@ >replica.log || cat @LOG@.1 @LOG@ >replica.log; cp @WORKSPACE@/cluster-faults.txt @WORKSPACE@/cluster-timeline.log .
    journalctl -u allocdb-replica.service --no-pager >journal.log || cp replica.log journal.log
    dmesg >kernel.log
    tar -cf - *; rm -rf "$PWD"'"'"' 2>/dev/null'

collect_logs() {
    dir=${1:-}
    [ -n "$dir" ] || dir=$home/log-bundles/$(date +%Y%m%d-%H%M%S)
    mkdir -p "$dir" || exit 1
    for id in 1 2 3; do
        into=$dir/replica-$id
        mkdir -p "$into" || continue
        for file in journal.log replica.log kernel.log cluster-faults.txt cluster-timeline.log; do : >"$into/$file"; done
        line=$(echo "$gather" | sed "s|@LOG@|/var/log/allocdb/replica-$id.log|g; s|@WORKSPACE@|$workspace|g")
        { on 60 "$id" "$line" </dev/null | tar -xmf - -C "$into"; } || true
        "$program" control-status --addr "$(control_addr "$id")" >"$into/status.txt" || true
    done
    echo "$dir"
}

[ $# -ge 1 ] || usage
verb=$1
shift
case "$verb" in
isolate | heal | crash | restart | reboot | export-replica | import-replica | cluster-layout | pause | resume | step-clock | heal-clock | \
    disk-fault | heal-disk | power-cycle | is-healed | faults)
    [ $# -ge 1 ] || { echo "allocdb-qemu-control: $verb: missing replica id" >&2 && exit 1; }
    ;;
esac
case "$verb" in
status)
    for id in 1 2 3; do
        echo "== replica $id =="
        "$program" control-status --addr "$(control_addr "$id")" || true
    done
    ;;
isolate | heal | crash | restart) replica_verb "$verb" "$1" ;;
reboot) on "$short" "$1" "sudo /sbin/reboot" </dev/null || true ;;
export-replica) export_replica "$1" ;;
import-replica) import_replica "$1" ;;
collect-logs) collect_logs "${1:-}" ;;
cluster-layout) on "$short" "$1" "cat $workspace/cluster-layout.txt" </dev/null ;;
pause) limit=$(number "${2:-600}") && at "$1" pause "$limit" ;;
resume | heal-clock | heal-disk) at "$1" "$verb" ;;
cut-link)
    [ $# -ge 2 ] || { echo "usage: allocdb-qemu-control cut-link <from> <to> [drop|reset|half-open] [limit-secs]" >&2 && exit 1; }
    case "${3:-drop}" in
    drop | reset | half-open) link "$1" "$2" "${4:-600}" "${3:-drop}" ;;
    *) echo "allocdb-qemu-control: expected drop, reset or half-open, found: $3" >&2 && exit 1 ;;
    esac
    ;;
shape-link)
    [ $# -ge 4 ] || { echo "usage: allocdb-qemu-control shape-link <from> <to> <delay|rate> <millis|bytes-per-sec> [limit-secs]" >&2 && exit 1; }
    amount=$(number "$4")
    case "$3" in
    delay | rate) link "$1" "$2" "${5:-600}" "$3" "$amount" ;;
    *) echo "allocdb-qemu-control: expected delay or rate, found: $3" >&2 && exit 1 ;;
    esac
    ;;
heal-links)
    if [ $# -ge 2 ]; then
        from=$(node "$1") && to=$(node "$2") && at "$from" heal-link "$to"
    else
        for id in ${1:-0 1 2 3}; do at "$id" heal-links; done
    fi
    ;;
step-clock)
    [ $# -ge 2 ] || { echo "usage: allocdb-qemu-control step-clock <replica-id> <seconds> [limit-secs]" >&2 && exit 1; }
    step=$(number "$2") && limit=$(number "${3:-600}") && at "$1" step-clock "$step" "$limit"
    ;;
disk-fault)
    [ "${2:-}" = full ] || { echo "usage: allocdb-qemu-control disk-fault <replica-id> full [limit-secs]" >&2 && exit 1; }
    limit=$(number "${3:-600}") && at "$1" fill-disk "$limit"
    ;;
power-cycle) on "$short" "$1" "sudo sh -c 'reboot -f'" </dev/null || true ;;
undo-faults) for id in ${1:-0 1 2 3}; do at "$id" undo; done ;;
is-healed)
    id=$(node "${1:-}") && left=$(at "$id" left)
    if [ -z "$left" ]; then echo "node=$id healed"; else echo "$left" | sed "s/^/node=$id /"; fi
    ;;
faults) id=$(node "${1:-}") && at "$id" can ;;
*) usage ;;
esac
