#!/bin/bash
# The daemon as sdwand.service runs it: with two capabilities, under a watchdog, beside systemd-networkd.
#
#     s1 ── wan ── hub
. "$(dirname "$0")/lab/lib.sh"

units=$(cd "$LAB_LIB/../../systemd" && pwd)
mkhost hub s1
underlay hub s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_network prod 1 hub:hub s1
fleet_rule prod ping any any icmp
bring_up hub
publish s1

# What the unit says of capabilities and folders; its filter of system calls needs systemd itself.
caps=$(sed -n 's/^CapabilityBoundingSet=//p' "$units/sdwand.service" | tr A-Z a-z | sed 's/cap_//g; s/ /,+/g')
expect "the unit asks for two capabilities" net_admin,+net_raw echo "$caps"
told=$LAB/hosts/s1/told
"$PYTHON" "$LAB_LIB/notify.py" "$LAB/hosts/s1/run/notify" "$told" &
until_ok 5 test -S "$LAB/hosts/s1/run/notify"
start_service() {
  nsenter --target "${HOST_PID[s1]}" --net --mount -- env NOTIFY_SOCKET=/run/notify WATCHDOG_USEC=4000000 \
    setpriv --bounding-set="-all,+$caps" --inh-caps=-all --no-new-privs --clear-groups "$SDWAND_BIN" run \
    </dev/null >>"$LAB/hosts/s1/daemon.log" 2>&1 &
  DAEMON[s1]=$!
}
has_told() { grep -q "$1" "$told"; }
start_service
require wait_for "it says that it is ready" 20 has_told READY=1
check "once the overlay is there" converged s1
wait_for "which carries packets" 10 prints reply oping s1 1 "$(v6 1 1)"
wait_for "and how things are" 5 has_told 'STATUS=3 of 3 conditions converged'
expect "it has no other capability" "0000000000003000" sed -n 's/^CapPrm:\t//p' "/proc/${DAEMON[s1]}/status"

# Half of the manager's patience is 2 s; a loop that stands still says nothing.
pings() { grep -c WATCHDOG=1 "$told" || true; }
three() { (( $(pings) >= 3 )); }
wait_for "it says that it is alive" 15 three
gap() { awk '/WATCHDOG=1/ { if (last && $1 - last > most) most = $1 - last; last = $1 } END { print (most < 4000 * slow) ? "in time" : most }' slow="$LAB_SLOW" "$told"; }
expect "before the manager's patience is over" "in time" gap
check "one that stands still" kill -STOP "${DAEMON[s1]}"
before=$(pings)
quiet() { sleep 5; (( $(pings) <= before + 1 )); }
check "says nothing" quiet
kill -CONT "${DAEMON[s1]}"
goes_on() { (( $(pings) > before + 1 )); }
wait_for "and goes on" 10 goes_on

# The unit's reload.
echo 'nonsense = 1' >"$LAB/hosts/s1/etc/fleet.d/99-bad.toml"
kill -HUP "${DAEMON[s1]}"
wait_for "a bad configuration is said" 10 has_told 'STATUS=3 of 3 conditions converged; the configuration is bad'
rm "$LAB/hosts/s1/etc/fleet.d/99-bad.toml"

# --- systemd-networkd, which by default deletes routes and rules of others whenever it configures a link.
networkd=/lib/systemd/systemd-networkd
ours() { on s1 sh -c 'ip rule; ip -6 rule; ip route show table 10001; ip -6 route show table 10001' | sort; }
# It finds the host as it is, and then a link appears that it configures.
run_networkd() {
  local log=$LAB/hosts/s1/networkd.log pid
  : >"$log"
  nsenter --target "${HOST_PID[s1]}" --net --mount -- "$networkd" </dev/null >>"$log" 2>&1 &
  pid=$!
  wait_for "networkd has looked around" 20 grep -q 'Enumeration completed' "$log"
  on s1 ip link add late0 type veth peer name late1
  on s1 ip link set late1 up
  wait_for "and configures a link" 20 grep -q 'late0: Configuring' "$log"
  wait_for "to the end" 20 grep -q '^ADMIN_STATE=configured' "$LAB/hosts/s1/run/systemd/netif/links/$(on s1 cat /sys/class/net/late0/ifindex)"
  kill -TERM "$pid"
  wait "$pid" || true
  on s1 ip link del late0
}
stop_daemon s1
wait_for "it says that it ends" 5 has_told STOPPING=1
if [[ -x $networkd ]]; then
  on s1 mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/networkd.conf.d /run/systemd/network
  on s1 chown -R systemd-network: /run/systemd/netif
  # Where /sys is read-only it doesn't wait for udev, which isn't here.
  on s1 sh -c "mount --bind /sys /sys && mount -o remount,bind,ro /sys"
  printf '%s\n' '[Match]' 'Name=late0' '[Network]' 'LinkLocalAddressing=no' >"$LAB/hosts/s1/run/systemd/network/10-late.network"
  ours >"$LAB/before"
  check "there is something to lose" grep -q 'proto 241' "$LAB/before"
  cp "$units/sdwand.networkd.conf" "$LAB/hosts/s1/run/systemd/networkd.conf.d/10-sdwand.conf"
  run_networkd
  ours >"$LAB/after"
  check "with our drop-in it leaves all as it is" diff "$LAB/before" "$LAB/after"
  rm "$LAB/hosts/s1/run/systemd/networkd.conf.d/10-sdwand.conf"
  run_networkd
  ours >"$LAB/after"
  refute "and without it doesn't" diff -q "$LAB/before" "$LAB/after"
else
  skip "no systemd-networkd"
fi
