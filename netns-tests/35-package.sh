#!/bin/bash
# Only in the native lane: what is in the Debian package is the same on any kernel; 37-upgrade.sh installs it on both.
# The package as it is built: what it has, what it asks for, what lintian says.
. "$(dirname "$0")/lab/lib.sh"
lab_binary

for tool in cargo-deb lintian; do
  PATH=$PATH:$HOME/.cargo/bin has_tool "$tool" || skip_rest "no $tool"
done
package=$("$LAB_LIB/../package.sh" --fast --out "$LAB/built" "$SDWAND_BIN")
tree=$LAB/tree
dpkg-deb --extract "$package" "$tree"
dpkg-deb --contents "$package" >"$LAB/contents"
root=$(cd "$LAB_LIB/../.." && pwd)

field() { dpkg-deb --field "$package" "$1"; }
expect "its version is the program's" "$("$SDWAND_BIN" --version | cut -d ' ' -f 2)-+([0-9])" field Version
expect "it asks for what the program runs" '*conntrack, *nftables *' field Depends
expect "and what it is linked with" '*libc6 (>= *' field Depends
refute "all of it is root's" grep -vE ' 0/0 ' "$LAB/contents"

same_file() { same "$2" "$root/$1" "$tree/$2"; } # SOURCE INSTALLED
same_file systemd/sdwand.service usr/lib/systemd/system/sdwand.service
same_file systemd/sdwand-serve.service usr/lib/systemd/system/sdwand-serve.service
same_file systemd/sdwand.sysusers usr/lib/sysusers.d/sdwand.conf
same_file systemd/sdwand.tmpfiles usr/lib/tmpfiles.d/sdwand.conf
same_file systemd/sdwand.networkd.conf usr/lib/systemd/networkd.conf.d/10-sdwand.conf
same_file config/rt_protos.conf etc/iproute2/rt_protos.d/sdwand.conf
for example in "$root"/config/fleet.d/*.toml "$root"/config/sdwand.*; do
  same_file "${example#"$root"/}" "usr/share/doc/sdwand/examples/${example#"$root"/config/}"
done
expect "nothing else is a file to be configured" /etc/iproute2/rt_protos.d/sdwand.conf dpkg-deb --info "$package" conffiles

# Each command that has help has a page, and each page says what that help says.
commands() { # of COMMAND…: the words that `--help` lists
  "$SDWAND_BIN" "$@" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p' | grep -vx help
}
walk() { # COMMAND…: the names of the pages that there must be
  local below
  echo "sdwand${*:+ $*}" | tr ' ' -
  for below in $(commands "$@"); do walk "$@" "$below"; done
}
walk >"$LAB/wanted"
pages() { (cd "$tree/usr/share/man/man8" && printf '%s\n' *.8.gz | sed 's/\.8\.gz$//'); }
check "there are many commands" eval '(( $(wc -l <"$LAB/wanted") > 30 ))'
same "each has its page" <(sort "$LAB/wanted") <(pages | sort)
plain_page() { zcat "$tree/usr/share/man/$1.gz" | sed 's/\\-/-/g; s/\\\*(Aq/'"'"'/g; s/\\\\/\\/g'; }
plain_page man8/sdwand-check.8 >"$LAB/page"
check "with the examples of its help, as they are" grep -qF "  sdwand check && git commit -am 'Open 5432 to web'" "$LAB/page"
"$SDWAND_BIN" config defaults | grep -v '^$' >"$LAB/defaults"
{ plain_page man5/sdwand.toml.5; plain_page man5/sdwand-fleet.5; } >"$LAB/page"
missing_keys() { grep -vxFf "$LAB/page" "$LAB/defaults" || true; }
expect "and every key of both documents is in section 5" '' missing_keys

complete() { bash -c "source '$tree/usr/share/bash-completion/completions/sdwand' && complete -p sdwand"; }
expect "bash completes it" '*-F _sdwand *' complete
check "zsh is told whom to complete" grep -qx '#compdef sdwand' "$tree/usr/share/zsh/vendor-completions/_sdwand"
check "fish as well" grep -q 'complete -c sdwand' "$tree/usr/share/fish/vendor_completions.d/sdwand.fish"

for script in postinst prerm postrm; do
  check "$script is sound" sh -n <(dpkg-deb --info "$package" "$script")
done
# Of a first package lintian wants the number of a bug at Debian.
check "lintian has nothing to say" lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs "$package"
