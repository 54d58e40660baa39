#!/bin/sh
# Starts the replica of this guest, once for each start of the guest. One that crashes stays down until it is restarted.
. /etc/allocdb/guest
[ -n "$REPLICA_ID" ] || exit 0
exec /usr/local/bin/allocdb-local-cluster replica-daemon --layout-file /var/lib/allocdb/cluster-layout.txt \
    --replica-id "$REPLICA_ID" >>"/var/log/allocdb/replica-$REPLICA_ID.log" 2>&1 </dev/null
