#!/bin/bash
# Boots systemd as the first process of a lab host: machine.sh starts it in a mount namespace of its own.
#   machine-init.sh FOLDER LAB CGROUP
set -euo pipefail
folder=$1 lab=$2 cgroup=$3
if [[ ${4:-} != inside ]]; then
  echo $$ >"$cgroup/cgroup.procs"
  exec unshare --cgroup --pid --fork --kill-child --mount --uts --ipc --net bash "$0" "$folder" "$lab" "$cgroup" inside
fi

layers=$folder/layers root=$folder/root
mkdir -p "$layers" "$root"
mount -t tmpfs layers "$layers"
mkdir "$layers/upper" "$layers/work"
mount -t overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" overlay "$root"
cd "$root"
mount -t proc proc proc
# But for net, whose values are the host's own, these are this machine's.
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs sys sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -o remount,bind,ro sys # a container's: no udev
mount -t tmpfs -o mode=755 dev dev
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  # shellcheck disable=SC2086 # name, major, minor
  set -- $node
  mknod -m 666 "dev/$1" c "$2" "$3"
done
mkdir dev/net dev/pts dev/shm
mknod -m 666 dev/net/tun c 10 200
mount -t devpts -o newinstance,ptmxmode=666 pts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
: >dev/console

# Nothing of this machine's own: neither what it mounts and starts, nor what it has of sdwand.
: >etc/fstab
# man-db would index every page of the machine whenever a package comes or goes.
rm -rf var/lib/man-db/auto-update etc/rc?.d etc/systemd/system etc/systemd/network etc/sdwand var/lib/sdwand var/lib/sdwand-serve usr/sbin/policy-rc.d
# What is installed there is its own matter, whatever apt does on this machine meanwhile.
rm -rf var/lib/dpkg/updates
mkdir var/lib/dpkg/updates
cp var/lib/dpkg/status var/lib/dpkg/status.own
mv var/lib/dpkg/status.own var/lib/dpkg/status
mkdir -p etc/systemd/system etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitBurst=0\n' >etc/systemd/journald.conf.d/lab.conf
for unit in console-getty.service systemd-modules-load.service systemd-sysctl.service; do ln -s /dev/null "etc/systemd/system/$unit"; done
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id

mount -t tmpfs -o mode=755 run run
mkdir -p run/lab run/lock
mount --bind "$lab" run/lab # the host sees the test's files, at the same path
ip link set lo up
hostname "${folder##*/}"
mkdir -p run/old
pivot_root . run/old
umount -l /run/old
rmdir /run/old
: >"/run/lab/${folder#"$lab"/}/booting"
exec env -i container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C \
  /lib/systemd/systemd --system --unit=multi-user.target --show-status=no
