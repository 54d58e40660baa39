#!/bin/sh
# What an orderly end of a guest does: the replica is asked to end, and what it wrote reaches the disk.
. /etc/allocdb/guest
if [ -n "$REPLICA_ID" ] && pid=$(cat "/run/allocdb/replica-$REPLICA_ID.pid" 2>/dev/null); then
    kill "$pid"
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 50 ]; do
        tries=$((tries + 1))
        usleep 100000
    done
fi
sync
umount "$STATE_FOLDER" 2>/dev/null || mount -o remount,ro "$STATE_FOLDER"
