#!/bin/bash
# Keeps one lab host alive: started in new network and mount namespaces, it mounts the host's own view of the file
# system and sleeps. `nsenter` into its namespaces is "on that host".
#   holder.sh FOLDER LAB
set -euo pipefail
folder=$1 lab=$2
mount --bind "$folder/etc" /etc/sdwand
mount --bind "$folder/lib" /var/lib/sdwand
mkdir -p "$folder/run/lab" "$folder/run/wireguard" "$folder/run/lock"
mount --bind "$lab" "$folder/run/lab" # the host sees the test's files, at the same path
mount --rbind "$folder/run" /run
mount -t sysfs sysfs /sys
ip link set lo up
: >"$folder/ready"
exec sleep infinity
