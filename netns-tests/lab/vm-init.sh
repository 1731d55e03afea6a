#!/bin/busybox sh
# The first process of the virtual machine, on its writable view of this machine's files: mounts what a system has, takes
# the kernel's own modules, runs /run/out/command. See vmrun.sh.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t tmpfs -o mode=755 run /run
for word in $($b cat /proc/cmdline); do
  case $word in lab.modules=*) modules=${word#*=} ;; esac
done
$b mkdir -p /dev/pts /dev/shm /run/lock /run/out
$b mount -t devpts -o ptmxmode=666 pts /dev/pts
$b mount -t tmpfs -o mode=1777 shm /dev/shm
$b mount -t cgroup2 cgroup /sys/fs/cgroup
for x in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do $b ln -sfn "/proc/self/${x#*:}" "/dev/${x%%:*}"; done
$b mkdir -p /usr/lib/modules
$b mount --bind "$modules" /usr/lib/modules
$b hostname lab
$b ifconfig lo up
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out /run/out
$b cat >/run/start <<'START'
cd "$(cat /run/out/folder)" || exit
export PATH="$(cat /run/out/path)" HOME=/root LANG=C.UTF-8 TERM=dumb
for module in wireguard vrf dummy tun veth nf_tables; do modprobe -q $module; done
bash /run/out/command </dev/null >/dev/hvc0 2>&1
echo $? >/run/out/status
sync
START
$b setsid /bin/sh /run/start
echo o >/proc/sysrq-trigger
$b sleep 5
exec $b poweroff -f
