#!/bin/bash
# Makes the Debian package, and prints its path.
#
#   package.sh [--out DIR] [--fast] [BINARY]
#
# BINARY is built by profile release where none is given. DIR: target/debian. --fast: compressed less.
# The pages of the manual and the completions are the binary's own word. Needs cargo-deb (install.sh sees to it), dpkg-dev,
# binutils, xz-utils.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out= binary= compress=()
while (( $# > 0 )); do
  case $1 in
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    --fast) compress=(--fast); shift ;;
    --help | -h) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) echo "$0: no option $1" >&2; exit 1 ;;
    *) binary=$(realpath "$1"); shift ;;
  esac
done
export PATH=$PATH:$HOME/.cargo/bin
cd "$root"
target=$(cargo metadata --locked --offline --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
if [[ -z $binary ]]; then
  cargo build --locked --release --bin sdwand >&2
  binary=$target/release/sdwand
fi
mkdir -p "${out:=$target/debian}"
out=$(realpath "$out")

# A target folder of its own, as cargo-deb expects one: so it takes this binary, whatever profile made it.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/release/package/man"
install -m 755 "$binary" "$stage/release/sdwand"
"$binary" man --out "$stage/release/package/man" >/dev/null
gzip -9n "$stage/release/package/man/"*
for shell in bash zsh fish; do "$binary" completions "$shell" >"$stage/release/package/sdwand.$shell"; done
umask 022
CARGO_TARGET_DIR=$stage cargo deb --quiet --no-build --strip --locked --offline "${compress[@]}" --compress-system \
  --deb-version "$(dpkg-parsechangelog --file systemd/debian/changelog --show-field Version)" --output "$out"
