#!/bin/bash
# The Debian package on a host that systemd runs: installed, upgraded under a tunnel that carries packets, removed, purged.
#
#     m ── wan ── hub        systemd and dpkg on m
. "$(dirname "$0")/lab/lib.sh"
lab_binary

reason=$(can_boot) || skip_rest "systemd can't be a host's first process here: $reason"
PATH=$PATH:$HOME/.cargo/bin has_tool cargo-deb || skip_rest "no cargo-deb"
package=$("$LAB_LIB/../package.sh" --fast --out "$LAB/built" "$SDWAND_BIN")
# The same under a lower version.
dpkg-deb --raw-extract "$package" "$LAB/older"
sed -i 's/^Version: .*/Version: 0.0.1-1/' "$LAB/older/DEBIAN/control"
dpkg-deb --root-owner-group -Znone --build "$LAB/older" "$LAB/older.deb" >/dev/null
rm -r "$LAB/older"

mkhost hub
mkmachine m
underlay hub m
dpkg_says() { on m env DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io "$@"; }
is() { on m systemctl "is-$1" "$2.service" || true; } # active|enabled UNIT
show() { on m systemctl show --value --property "$2" "$1.service"; }
# Where files of a package, of systemd and of ours can be; what dpkg, the users' database and all WireGuard tools have is theirs.
files() {
  on m bash -c 'for folder in /etc /usr/bin /usr/lib/{systemd,sysusers.d,tmpfiles.d} /usr/share/{doc,man,bash-completion,zsh,fish} /var/lib /run; do
      [[ ! -d $folder ]] || find "$folder" \( -path /run/lab -o -path /run/systemd -o -path "/run/log/*" -o -path /var/lib/dpkg -o \
        -path /var/lib/systemd/timers \) -prune -o -print
    done' | grep -vE '^/etc/((passwd|group|shadow|gshadow)-|\.pwd\.lock)$|^/run/wireguard$' | sort
}
files >"$LAB/files-before"

# --- Installed.
check "it installs" dpkg_says --install "$LAB/older.deb"
check "all of it is there as it was packed" on m dpkg --verify sdwand
expect "the users are there" 'sdwand:*:/var/lib/sdwand-serve:/usr/sbin/nologin' on m getent passwd sdwand
expect "the group of readers is there" 'sdwand-read:x:*:sdwand' on m getent group sdwand-read
expect "folders are there, with their owners" $'750 root sdwand\n750 root sdwand\n700 root root' \
  on m stat -c '%a %U %G' /etc/sdwand /etc/sdwand/fleet.d /var/lib/sdwand
for unit in sdwand sdwand-serve; do
  expect "$unit isn't enabled by that" disabled is enabled "$unit"
  expect "and doesn't run" inactive is active "$unit"
done
# It looks for the pages that the units name, too.
pages=yes
on m sh -c 'command -v man' >/dev/null || pages=no
check "systemd has nothing to say against the units" on m systemd-analyze verify --man=$pages sdwand.service sdwand-serve.service

fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node m 2
fleet_network prod 1 hub:hub m
fleet_rule prod ping any any icmp
bring_up hub
publish m
check "it is enabled" on m systemctl enable --now sdwand
check "and the overlay is there" converged m
wait_for "with its packets" 10 prints reply oping m 1 "$(v6 1 1)"
expect "iproute2 knows its routes by name" '*proto sdwand*' on m ip -6 route show table 10001

# --- Upgraded, under a tunnel that carries 50 packets a second.
before=$(show sdwand MainPID)
bind=$(in_vrf m 1 && echo sdwan-1 || v6 1 2)
on m ping -n -i 0.02 -W 2 -I "$bind" "$(v6 1 1)" >"$LAB/pings" 2>&1 &
pings=$!
check "it is upgraded" dpkg_says --install "$package"
wait_for "the daemon runs" 20 prints active is active sdwand
refute "as another process" eval '[[ $before = $(show sdwand MainPID) ]]'
check "the overlay is as it was" converged m
wait_for "with its packets" 10 prints reply oping m 1 "$(v6 1 1)"
answered_often() { (( $(grep -c 'bytes from' "$LAB/pings") > 20 )); }
if has_wireguard; then require until_ok 10 answered_often; fi
on m pkill -INT -x ping
wait "$pings" || true
read -r lost sent < <(unanswered "$LAB/pings")
note "$lost of $sent pings lost"
if has_wireguard; then check "no packet was lost" eval '(( sent > 20 && lost == 0 ))'; fi
expect "it is enabled as it was" enabled is enabled sdwand
expect "the gateway still isn't" disabled is enabled sdwand-serve
expect "and doesn't run" inactive is active sdwand-serve
expect "the version is the new one" "$(dpkg-deb --field "$package" Version)" on m dpkg-query --show --showformat '${Version}' sdwand

# --- Removed: no daemon, no overlay; what was configured stays.
check "it is removed" dpkg_says --remove sdwand
expect "nothing of the overlay is left" '' left_over m
refute "nor a daemon" on m pgrep -x sdwand
refute "nor a program" on m test -e /usr/bin/sdwand
check "the key is there" on m test -s /etc/sdwand/node.key
check "and what is remembered" on m test -d /var/lib/sdwand
check "installed again" dpkg_says --install "$package"
expect "it is enabled as before" enabled is enabled sdwand
check "and starts" on m systemctl start sdwand
wait_for "with the overlay as before" 10 prints reply oping m 1 "$(v6 1 1)"

# --- Where no systemd runs, as in an image that is built on this host, the network isn't the package's to touch.
elsewhere() { on m unshare --mount --propagation private sh -c 'mount -t tmpfs none /run/systemd && exec dpkg --force-unsafe-io --remove sdwand'; }
before=$(show sdwand MainPID)
check "it is removed where no systemd runs" elsewhere
expect "and the overlay stays" reply oping m 1 "$(v6 1 1)"
expect "and the daemon" "$before" show sdwand MainPID
check "installed again" dpkg_says --install "$package"
refute "the daemon is another process" eval '[[ $before = $(show sdwand MainPID) ]]'
check "with the overlay as it was" converged m

# --- What can't be removed doesn't keep the package, but is said.
nft=$(on m sh -c 'command -v nft')
on m mount --bind /bin/false "$nft"
status "it is removed where nft fails" 0 dpkg_says --remove sdwand
check "and says what to do" grep -q "sdwand: what is named above is still on this host.*'sdwand down'" "$LAB/said"
on m umount "$nft"
check "for that is still there" on m nft list table inet sdwand
check "installed again" dpkg_says --install "$package"
check "down does what was left undone" sdw m down
expect "to the last" '' left_over m
check "and it is started again" on m systemctl start sdwand
wait_for "with the overlay as before" 10 prints reply oping m 1 "$(v6 1 1)"

# --- A package that is removed where the configuration is bad, or was never there, goes as well.
echo nonsense >"$LAB/hosts/m/etc/sdwand.toml"
on m install -d -o sdwand -g sdwand /var/lib/sdwand-serve
on m touch /var/lib/sdwand-serve/ledger.db
check "it is purged" dpkg_says --purge sdwand
expect "nothing of the overlay is left" '' left_over m
files >"$LAB/files-after"
same "and no file" "$LAB/files-before" "$LAB/files-after"
check "installed where nothing is configured" dpkg_says --install "$package"
check "it is purged" dpkg_says --purge sdwand
files >"$LAB/files-after"
same "and leaves nothing" "$LAB/files-before" "$LAB/files-after"
