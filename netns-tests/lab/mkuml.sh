#!/bin/bash
# Builds the User-Mode-Linux kernel that the netns tests run under: a full kernel with WireGuard and VRFs, as an ordinary
# program. Once: about 9 minutes of CPU, 1.5 GB of disk while it builds, 9 MB after. Prints the kernel's path.
#
#   mkuml.sh          build if need be
#   mkuml.sh --path   only print the path
#
# The kernel is Debian's linux-source-6.12 with `uml.config`, kept in ${XDG_CACHE_HOME:-~/.cache}/sdwand-lab/ under a
# name made from the source's version and the config; with nothing changed there is nothing to do.
# Needs: apt lists, gcc make flex bison bc perl xz-utils (install.sh sees to them).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=linux-source-6.12
config=$here/uml.config
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sdwand-lab

version=$(apt-cache policy "$source" 2>/dev/null | sed -n 's/^  Candidate: //p')
digest=$(grep -v '^# ---' "$config" | sha256sum | cut -c -12)
if [[ -z $version || $version = '(none)' ]]; then
  # No package lists: any kernel of this config will do.
  kernel=$(find "$cache" -maxdepth 2 -path "*-$digest/linux" 2>/dev/null | sort -V | tail -n 1)
  [[ -n $kernel ]] || { echo "mkuml: apt knows no $source; run 'apt-get update'" >&2; exit 1; }
else
  kernel=$cache/uml-$version-$digest/linux
fi
if [[ ${1:-} = --path || -x $kernel ]]; then echo "$kernel"; exit 0; fi

mkdir -p "$(dirname "$kernel")"
exec 9>"$cache/lock"
flock 9 # another one may be building it
if [[ -x $kernel ]]; then echo "$kernel"; exit 0; fi
build=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$build"' EXIT
cd "$build"
seconds=0
say() { echo "mkuml: $*" >&2; }

say "fetching $source $version"
apt-get -qq -o APT::Sandbox::User=root download "$source=$version" >&2
dpkg-deb --fsys-tarfile "$source"_*.deb | tar -xO "./usr/src/$source.tar.xz" | xz -dc -T0 | tar -x
rm -f "$source"_*.deb
cd "$source"
export ARCH=um
make -s defconfig >/dev/null 2>&1
./scripts/kconfig/merge_config.sh -m .config "$config" >/dev/null
make -s olddefconfig >&2
while read -r line; do
  case $line in
    CONFIG_*=*) grep -qxF "$line" .config || { say "this source has no $line"; exit 1; } ;;
  esac
done <"$config"
say "compiling, about 9 minutes of CPU on $(nproc) cores"
make -s -j"$(nproc)" linux >"$build/log" 2>&1 &
job=$!
while kill -0 $job 2>/dev/null; do
  sleep 1
  (( ++seconds % 30 )) || say "$seconds s, $(find . -name '*.o' | wc -l) objects"
done
wait $job || { tail -n 20 "$build/log" >&2; exit 1; }
strip -s -o "$kernel.new" linux
mv "$kernel.new" "$kernel"
say "built $(du -h "$kernel" | cut -f1) $kernel"
echo "$kernel"
