#!/bin/bash
# vmrun.sh CMD…: like umlrun.sh, in a virtual machine with Debian's unmodified kernel under QEMU's interpreter: two CPUs, no
# KVM needed, 6 to 60 times slower. A second opinion, for what only a stock or SMP kernel shows.
#
# The kernel package (linux-image-6.12, unpacked, not installed) and an initramfs are made once, in the same cache as the
# UML kernel. MEM (2G), CPUS (2), LIMIT (seconds, 1800), OUT as in umlrun.sh; the kernel's messages are in $OUT/kmsg.
# Needs: qemu-system-x86 cpio kmod xz-utils busybox-static (`install.sh vm`).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sdwand-lab
meta=linux-image-6.12-amd64
folder=$PWD

# ------------------------------------------------------------------------------------------- kernel and initramfs, once
package=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: //p' | head -n 1)
[[ -n $package ]] || { echo "vmrun: apt knows no $meta; run 'apt-get update'" >&2; exit 1; }
release=${package#linux-image-} release=${release%-unsigned}
machine=$cache/vm-$release-$(sha256sum "$here/vmrun.sh" | cut -c -12)
if [[ ! -e $machine/initrd.gz ]]; then
  echo "vmrun: fetching $package" >&2
  mkdir -p "$cache"
  build=$(mktemp -d "$cache/build.XXXXXX")
  trap 'rm -rf "$build"' EXIT
  cd "$build"
  apt-get -qq -o APT::Sandbox::User=root download "$package" >&2
  dpkg-deb -x "$package"_*.deb root
  rm "$package"_*.deb
  depmod -b root "$release"
  cp "root/boot/vmlinuz-$release" vmlinuz
  mkdir -p initrd/{bin,modules,proc,sys,dev,lower,upper,newroot}
  cp /bin/busybox initrd/bin/
  ln -s busybox initrd/bin/sh
  for module in 9p 9pnet_virtio overlay tun; do
    modprobe -d root -S "$release" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" { print $2 }' || true
  done | awk '!seen[$0]++' | while read -r file; do
    name=$(basename "${file%.xz}")
    xzcat "$file" >"initrd/modules/$name"
    echo "$name" >>initrd/modules/order
  done
  cat >initrd/init <<'INIT'
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done </modules/order
for word in $($b cat /proc/cmdline); do case $word in lab.init=*) init=${word#*=} ;; esac; done
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /lower || $b poweroff -f
$b mount -t tmpfs -o size=75% upper /upper; $b mkdir /upper/upper /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work root /newroot
$b mount --move /dev /newroot/dev; $b umount /sys; $b umount /proc
exec $b switch_root /newroot "$init"
INIT
  chmod +x initrd/init
  (cd initrd && find . | cpio -o -H newc --quiet | gzip -1) >initrd.gz
  rm -rf initrd root/boot "$machine"
  cd "$cache"
  mv "$build" "$machine"
  chmod 755 "$machine"
  trap - EXIT
  cd "$folder"
fi

# ------------------------------------------------------------------------------------------------------------- the guest
scratch=
if [[ -z ${OUT:-} ]]; then scratch=$(mktemp -d) OUT=$scratch; fi
trap '[[ -z $scratch ]] || rm -rf "$scratch"' EXIT
rm -f "$OUT/status"
printf '%s\n' "$*" >"$OUT/command"
printf '%s' "$folder" >"$OUT/folder"
printf '%s' "$PATH" >"$OUT/path"
code=0
timeout "${LIMIT:-1800}" qemu-system-x86_64 \
  -accel tcg,thread=multi,tb-size=512 -cpu max,la57=off -smp "${CPUS:-2}" -m "${MEM:-2G}" -M q35 \
  -nodefaults -no-user-config -no-reboot -display none -kernel "$machine/vmlinuz" -initrd "$machine/initrd.gz" \
  -chardev stdio,id=out,signal=off -device virtio-serial-pci -device virtconsole,chardev=out \
  -chardev file,id=messages,path="$OUT/kmsg" -serial chardev:messages \
  -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap -device virtio-9p-pci,fsdev=root,mount_tag=root \
  -fsdev local,id=out,path="$OUT",security_model=none -device virtio-9p-pci,fsdev=out,mount_tag=out \
  -append "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on net.ifnames=0 lab.init=$here/vm-init.sh lab.modules=$machine/root/lib/modules" \
  </dev/null || code=$?
if [[ -s $OUT/status ]]; then exit "$(<"$OUT/status")"; fi
echo "vmrun: the guest did not come to its end (status $code); its kernel's last words:" >&2
tail -n 20 "$OUT/kmsg" >&2
exit 125
