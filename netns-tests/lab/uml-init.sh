#!/bin/busybox sh
# The first process of the guest: lays a tmpfs over the machine's files, mounts what a system has, runs /run/out/command.
# Only busybox here: starting a dynamic program costs milliseconds under UML.
b=/bin/busybox
$b mount -t proc proc /proc
for word in $($b cat /proc/cmdline); do
  case $word in lab.out=*) out=${word#lab.out=} ;; esac
done
$b mount -t tmpfs -o mode=755 upper /mnt
$b mkdir -p /mnt/upper /mnt/work /mnt/root
$b mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work root /mnt/root
cd /mnt/root
r=/mnt/root
$b mount -t proc proc $r/proc
$b mount -t sysfs sys $r/sys
$b mount -t devtmpfs dev $r/dev
$b mount -t tmpfs -o mode=755 run $r/run
$b mkdir -p $r/dev/pts $r/dev/shm $r/dev/net $r/run/lock $r/run/out
$b mount -t devpts -o ptmxmode=666 pts $r/dev/pts
$b mount -t tmpfs -o mode=1777 shm $r/dev/shm
$b mount -t cgroup2 cgroup $r/sys/fs/cgroup
[ -c $r/dev/net/tun ] || $b mknod $r/dev/net/tun c 10 200
for x in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do $b ln -sfn "/proc/self/${x#*:}" "$r/dev/${x%%:*}"; done
$b mount -t hostfs -o "$out" out $r/run/out
$b hostname lab
$b ifconfig lo up
$b cat >$r/run/start <<'START'
cd "$(cat /run/out/folder)" || exit
export PATH="$(cat /run/out/path)" HOME=/root LANG=C.UTF-8 TERM=dumb
bash /run/out/command </dev/null
echo $? >/run/out/status
sync
START
# The overlay becomes the real root (chroot alone would let `nsenter --mount` fall back to the machine's).
$b mkdir $r/run/old
$b pivot_root . run/old
$b umount -l /run/old
$b setsid /bin/sh /run/start
exec $b poweroff -f
