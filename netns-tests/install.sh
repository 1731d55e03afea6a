#!/bin/bash
# Installs what the demo and the tests need and this machine lacks; does nothing when all is there.
#
#   install.sh demo   the tools that the lab runs, and a C linker for the build
#   install.sh test   also what builds the test kernel, the Rust components, cargo-deny, cargo-deb, and schemathesis
#   install.sh vm     also the virtual machine of vm.sh
#
# For Debian 12 with a Rust toolchain, as root. Packages come without recommendations, and their services aren't started:
# while apt runs, /usr/sbin/policy-rc.d says no; what was there before is put back.
set -euo pipefail
for_what=${1:-test}
SCHEMATHESIS=$(sed -n "s/^schemathesis==//p" "$(dirname "$0")/lab/schemathesis.txt")
export PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
say() { echo "install: $*"; }

# package, and the command or file that shows it is there
lab="
iproute2 ip
nftables nft
wireguard-tools wg
wireguard-go wireguard-go
iperf3 iperf3
iputils-ping ping
conntrack conntrack
tcpdump tcpdump
jq jq
curl curl
openssl openssl
faketime faketime
socat socat
python3-minimal /usr/bin/python3
procps sysctl
kmod modprobe
gcc gcc
libc6-dev /usr/include/stdio.h
"
kernel="
busybox-static /bin/busybox
make make
flex flex
bison bison
bc bc
perl perl
xz-utils xz
ca-certificates /etc/ssl/certs/ca-certificates.crt
git git
systemd systemd-analyze
dpkg-dev dpkg-shlibdeps
lintian lintian
prometheus promtool
python3-venv /usr/lib/python3.11/ensurepip/__init__.py
"
machine="
qemu-system-x86 qemu-system-x86_64
cpio cpio
"
wanted=$lab
[[ $for_what = demo ]] || wanted+=$kernel
[[ $for_what != vm ]] || wanted+=$machine

missing=()
while read -r package sign; do
  [[ -n $package ]] || continue
  case $sign in
    /*) [[ -e $sign ]] || missing+=("$package") ;;
    *) command -v "$sign" >/dev/null || missing+=("$package") ;;
  esac
done <<<"$wanted"

if (( ${#missing[@]} > 0 )); then
  [[ $EUID = 0 ]] || { say "missing: ${missing[*]}; run as root"; exit 1; }
  say "apt: ${missing[*]}"
  policy=/usr/sbin/policy-rc.d kept=
  restore_policy() {
    if [[ -n $kept ]]; then mv -f "$kept" "$policy"; else rm -f "$policy"; fi
  }
  if [[ -e $policy ]]; then kept=$policy.before-sdwand-lab && mv -f "$policy" "$kept"; fi
  trap restore_policy EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  export DEBIAN_FRONTEND=noninteractive
  install() { apt-get install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/tmp/sdwand-lab-apt.log 2>&1 </dev/null; }
  # Old package lists name files that are gone, so a failure is tried again with new ones.
  install || { say "apt: fetching the package lists"; apt-get update -qq </dev/null; install; } ||
    { tail -n 20 /tmp/sdwand-lab-apt.log; exit 1; }
  restore_policy
  trap - EXIT
fi

# A stock kernel has these as modules; absent is fine, the tests look for themselves.
if [[ -d /lib/modules/$(uname -r) ]]; then
  for module in wireguard vrf dummy tun veth nf_tables nft_ct nft_nat nft_masq; do modprobe -q "$module" || true; done
fi

command -v cargo >/dev/null || { say "no cargo: install Rust from https://rustup.rs"; exit 1; }

if [[ $for_what = test ]]; then
  # The test kernel's source is found by apt's lists.
  if ! apt-cache show linux-source-6.12 >/dev/null 2>&1; then
    say "apt: fetching the package lists"
    apt-get update -qq </dev/null || say "apt: no lists, the test kernel must already be built"
  fi
  for component in rustfmt clippy; do
    if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
      say "rustup: $component"
      rustup component add "$component"
    fi
  done
  if ! cargo deny --version >/dev/null 2>&1; then
    say "cargo: cargo-deny, about 2 minutes"
    # A debug build: it runs for a second, and an optimised one would take five times as long to make.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug cargo-deny@0.20.2 </dev/null
  fi
  if ! cargo deb --version >/dev/null 2>&1; then
    say "cargo: cargo-deb, about a minute"
    # It compresses with xz(1): no library for that.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug --no-default-features cargo-deb@3.8.0 </dev/null
  fi
  # What versions find differs: these, in a folder of their own. Without it a test is skipped, and says so.
  venv=$HOME/.cache/sdwand/schemathesis
  if [[ $("$venv/bin/schemathesis" --version 2>/dev/null) != *" $SCHEMATHESIS" ]]; then
    say "pip: schemathesis $SCHEMATHESIS"
    rm -rf "$venv"
    { /usr/bin/python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$(dirname "$0")/lab/schemathesis.txt"; } ||
      { rm -rf "$venv"; say "pip: no schemathesis"; }
  fi
fi
say "all there"
