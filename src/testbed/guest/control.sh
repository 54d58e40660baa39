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
isolate | heal | crash | restart | reboot | export-replica | import-replica)
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
*) usage ;;
esac
