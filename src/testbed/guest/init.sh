#!/bin/busybox sh
# First program of a micro guest. The system is in memory and new at every start; what makes it this guest is on the second
# disk, as a tar archive, and what outlives it is on the first.
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /mnt /root /bin /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=755 run /run

fail() {
    echo "allocdb guest: $*"
    # Whoever looks at the console finds it; nothing works, and nothing pretends to.
    while :; do sleep 3600; done
}

while read -r module; do
    insmod "/lib/modules/$module" || fail "the kernel did not take the module $module"
done </etc/allocdb/modules

tries=0
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
    tries=$((tries + 1))
    [ "$tries" -le 200 ] || fail "its disks did not appear"
    usleep 50000
done
tar -xf /dev/vdb -C / || fail "what it is to be cannot be read from /dev/vdb"
. /etc/allocdb/guest

hostname "$GUEST_NAME"
ip link set lo up
# interface <name> <hardware address> <address>
interface() {
    for device in /sys/class/net/*; do
        if [ "$(cat "$device/address")" = "$2" ]; then
            ip link set "${device##*/}" name "$1" && ip addr add "$3/24" dev "$1" && ip link set "$1" up && return
        fi
    done
    fail "it has no network card $2"
}
[ -z "$UPLINK_MAC" ] || interface uplink0 "$UPLINK_MAC" 10.0.2.15
interface mgmt0 "$MANAGEMENT_MAC" "$MANAGEMENT_ADDR"
[ -z "$CLUSTER_MAC" ] || interface cluster0 "$CLUSTER_MAC" "$CLUSTER_ADDR"
for route in $ROUTES; do
    ip route add "${route%,*}" via "${route#*,}"
done

mkdir -p "$STATE_FOLDER"
mount -t ext4 -o noatime /dev/vda "$STATE_FOLDER" || fail "its state disk cannot be mounted; remove the disk's file to begin with an empty one"
mkdir -p /var/log/allocdb /run/allocdb
if [ -n "$REPLICA_ID" ]; then
    # Logs outlive the guest too.
    mkdir -p "$STATE_FOLDER/log"
    rm -rf /var/log/allocdb
    ln -s "$STATE_FOLDER/log" /var/log/allocdb
    cp /etc/allocdb/cluster-layout.txt "$STATE_FOLDER/cluster-layout.txt.new"
    mv "$STATE_FOLDER/cluster-layout.txt.new" "$STATE_FOLDER/cluster-layout.txt"
fi
echo "allocdb guest: $GUEST_NAME is up"
exec /sbin/init
