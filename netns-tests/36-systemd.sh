#!/bin/bash
# Both units under systemd as the first process of a host: with their filters of system calls, folders and users.
#
#     m ── wan ── hub        systemd runs on m
. "$(dirname "$0")/lab/lib.sh"
lab_binary

units=$(cd "$LAB_LIB/../../systemd" && pwd)
reason=$(can_boot) || skip_rest "systemd can't be a host's first process here: $reason"
mkhost hub
mkmachine m
underlay hub m

# --- As the README installs it.
cp "$SDWAND_BIN" "$LAB/sdwand"
cp -r "$units" "$LAB/units"
on m bash -euc "
  install -m 755 $LAB/sdwand /usr/bin/
  install -m 644 $LAB/units/*.service /usr/lib/systemd/system/
  install -m 644 $LAB/units/sdwand.sysusers /usr/lib/sysusers.d/sdwand.conf
  install -m 644 $LAB/units/sdwand.tmpfiles /usr/lib/tmpfiles.d/sdwand.conf
  install -m 644 -D $LAB/units/sdwand.networkd.conf /usr/lib/systemd/networkd.conf.d/10-sdwand.conf
  systemd-sysusers && systemd-tmpfiles --create"
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node m 2
fleet_network prod 1 hub:hub m
fleet_rule prod ping any any icmp
bring_up hub
publish m

check "systemd has nothing to say against the units" on m systemd-analyze verify --man=no sdwand.service sdwand-serve.service
# What the filter refuses is an error that might be handled quietly: here it kills, so that it can't be missed.
stricter() { # UNIT LINE…
  on m mkdir -p "/run/systemd/system/$1.d"
  printf '%s\n' '[Service]' SystemCallErrorNumber=kill "${@:2}" >"$LAB/hosts/m/run/systemd/system/$1.d/lab.conf"
}
stricter sdwand.service WatchdogSec=4 TimeoutAbortSec=1
stricter sdwand-serve.service WatchdogSec=4 TimeoutAbortSec=1
on m systemctl daemon-reload

show() { on m systemctl show --value --property "$2" "$1.service"; } # UNIT PROPERTY
main_pid() { show "$1" MainPID; }
said() { on m journalctl --no-pager --quiet --unit "$@"; }
self() { on m cat "/proc/$(main_pid "$1")/status" | sed -n "s/^$2:\t//p"; }

# 2147483646 is systemd's number for "kill".
expect "here, what the filters refuse kills" 2147483646 show sdwand SystemCallErrorNumber

# --- The data plane.
check "it is started, and that takes until it is ready" on m systemctl start sdwand
check "then the overlay is there" converged m
wait_for "which carries packets" 10 prints reply oping m 1 "$(v6 1 1)"
expect "how things are is in its status" '3 of 3 conditions converged*' show sdwand StatusText
expect "wg(8) sees its links" '*latest handshake*' on m wg show all
expect "it has two capabilities" 0000000000003000 self sdwand CapEff
expect "its system calls are filtered" 2 self sdwand Seccomp
writes() { on m nsenter --target "$(main_pid sdwand)" --mount -- touch "$1"; }
for path in /run/new /etc/sdwand/new /usr/new; do refute "it can't write $path" writes "$path"; done
expect "it can't become more" 1 self sdwand NoNewPrivs
expect "its folders are root's" $'700 root\n755 root' on m stat -c '%a %U' /var/lib/sdwand /run/sdwand

# A fragment behind a link: nobody but the reload tells of a change.
mv "$LAB/hosts/m/etc/fleet.d/20-prod.toml" "$LAB/hosts/m/lib/prod.toml"
on m ln -s /var/lib/sdwand/prod.toml /etc/sdwand/fleet.d/20-prod.toml
wait_for "a fragment behind a link is the same" 10 converged m
fleet_rule prod web any any tcp 80
cp "$FLEET/20-prod.toml" "$LAB/hosts/m/lib/prod.toml"
check "reload" on m systemctl reload sdwand
has_rule() { sdw m status --json | jq -e --arg name "$1" '.networks[].rules[] | select(.name == $name)'; }
wait_for "reads the configuration again" 10 has_rule web
publish hub
wait_for "hub: took the new fleet" 10 converged hub

# What the journal makes of events.
on m nft delete table inet sdwand
said_as() { # PRIORITY ID: the journal has that event at this priority or a worse one
  said sdwand --priority "$1" --output cat | jq -eRn --arg id "$2" '[inputs | (fromjson | .event)?] | any(. == $id)'
}
wait_for "drift that is healed is a warning in the journal" 10 said_as warning drift.healed
refute "and no more than that" said_as err drift.healed
check "the start is none" said_as info daemon.started
refute "at all" said_as warning daemon.started

# --- Restarts. Kernel WireGuard is there all the time; an embedded device is made anew.
answered_often() { (( $(grep -c 'bytes from' "$1") > 20 )); }
pings() { # FILE: starts; 50 a second
  local bind
  bind=$(in_vrf m 1 && echo sdwan-1 || v6 1 2)
  on m ping -n -i 0.02 -W 2 -I "$bind" "$(v6 1 1)" >"$1" 2>&1 &
  PINGS=$!
}
pinged_well() { # DESC FILE: stops, once there are enough to tell
  if has_wireguard; then require until_ok 10 answered_often "$2"; fi
  on m pkill -INT -x ping
  wait "$PINGS" || true
  local sent lost
  read -r lost sent < <(unanswered "$2")
  note "$1: $lost of $sent pings lost"
  if has_wireguard; then check "$1: no packet is lost" eval "(( sent > 20 && lost == 0 ))"; fi
}
pings "$LAB/restart"
before=$(main_pid sdwand)
check "it is restarted" on m systemctl restart sdwand
refute "as another process" eval "[[ $before = \$(main_pid sdwand) ]]"
check "and the overlay is as it was" converged m
wait_for "with its packets" 10 prints reply oping m 1 "$(v6 1 1)"
pinged_well "restart" "$LAB/restart"

restarts() { (( $(show sdwand NRestarts) >= $1 )); }
ready() { [[ $(show "$1" ActiveState) = active ]]; }
pings "$LAB/watchdog"
on m kill -STOP "$(main_pid sdwand)"
wait_for "one that stands still is killed and started again" 30 restarts 1
wait_for "until it is ready" 20 ready sdwand
check "because of its watchdog" eval "said sdwand | grep -i 'watchdog timeout'"
wait_for "and the overlay carries packets" 10 prints reply oping m 1 "$(v6 1 1)"
pinged_well "watchdog" "$LAB/watchdog"

# --- systemd-networkd, with the drop-in.
ours() { on m sh -c 'ip rule; ip -6 rule; ip route show table 10001; ip -6 route show table 10001' | sort; }
if [[ -x /lib/systemd/systemd-networkd ]]; then
  on m ip link add late0 type veth peer name late1
  on m ip link set late1 up
  on m mkdir -p /run/systemd/network
  printf '%s\n' '[Match]' 'Name=late0' '[Network]' 'LinkLocalAddressing=no' >"$LAB/hosts/m/run/systemd/network/10-late.network"
  check "the daemon is stopped: nobody heals" on m systemctl stop sdwand
  ours >"$LAB/before"
  check "there is something to lose" grep -q 'proto 241\|proto sdwand' "$LAB/before"
  configured() { on m networkctl --no-legend list late0 | grep -q configured; }
  for _ in 1 2; do
    check "systemd-networkd is restarted" on m systemctl restart systemd-networkd
    wait_for "and has configured a link" 20 configured
  done
  ours >"$LAB/after"
  same "routes and rules are left as they are" "$LAB/before" "$LAB/after"
  on m systemctl stop systemd-networkd.socket systemd-networkd
  check "the daemon is started again" on m systemctl start sdwand
  check "with nothing left to do" converged m
else
  skip "no systemd-networkd"
fi

# --- The gateway.
cat >>"$LAB/hosts/m/etc/sdwand.toml" <<TOML
[federation]
listen = "[::]:8443"
url = "https://${V4[m]}:8443"
heartbeat_seconds = 1
stale_after_seconds = 4
TOML
sed -i 's/^prefix = .*/&\ngateways = ["m"]/' "$FLEET/00-site.toml"
publish hub m
on m systemd-tmpfiles --create
check "the gateway is started" on m systemctl start sdwand-serve
expect "as a user of its own" sdwand on m stat -c %U "/proc/$(main_pid sdwand-serve)"
expect "without a capability" 0000000000000000 self sdwand-serve CapEff
expect "its system calls are filtered" 2 self sdwand-serve Seccomp
expect "what it remembers is its own" '700 sdwand' on m stat -c '%a %U' /var/lib/sdwand-serve
expect "what is agreed with others its group reads" '750 sdwand sdwand' on m stat -c '%a %U %G' /var/lib/sdwand-agreements
expect "and nobody else" '640 sdwand sdwand' on m stat -c '%a %U %G' /var/lib/sdwand-agreements/agreements.json
expect "operators reach it" '[]' sdw m peer list --json
check "it makes a proposal, with its ledger and its CA" sdw m peer propose "https://${V4[hub]}:8443" --name site-b
check "reload" on m systemctl reload sdwand-serve
on m kill -STOP "$(main_pid sdwand-serve)"
gateway_restarts() { (( $(show sdwand-serve NRestarts) >= 1 )); }
wait_for "one that stands still is killed and started again" 30 gateway_restarts
wait_for "until it is ready" 20 ready sdwand-serve
expect "with what it remembers" site-b eval "sdw m peer list --json | jq -r '.[].alias'"
check "the gateway is stopped" on m systemctl stop sdwand-serve
expect "as it should be" success show sdwand-serve Result

# --- The end.
check "the daemon is stopped" on m systemctl stop sdwand
expect "as it should be" success show sdwand Result
if has_wireguard; then expect "the overlay stays" reply oping m 1 "$(v6 1 1)"; fi
check "and is removed by down" sdw m down
expect "to the last" '' left_over m
# Of five starts two ended by their watchdog, and none by the filter.
refute "no system call was refused" eval "on m journalctl --no-pager | grep -E 'SIGSYS|status=31/SYS'"
