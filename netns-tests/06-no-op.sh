#!/bin/bash
# A no-op is zero writes; start, stop, kill and a second daemon disturb nothing.
#
#     s1 ── wan ── hub        s2: a host with nothing but s1's state folder
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_network prod 1 hub:hub s1
fleet_network guest 2 hub:hub s1
fleet_rule prod ping any any icmp
fleet_rule guest all any any any
host_config s1 '[reconcile]' 'interval_seconds = 1'
bring_up hub s1
wait_for "the overlay works" 10 prints reply oping s1 1 "$(v6 1 1)"

# Whatever is written shows up in one of these.
watch_start() {
  on s1 nft monitor >"$LAB/monitor.nft" 2>&1 &
  WATCH=($!)
  on s1 ip monitor link address route rule >"$LAB/monitor.ip" 2>&1 &
  WATCH+=($!)
  until_ok 5 monitors_hear
}
monitors_hear() { # a change of nobody's proves that both listen
  on s1 sh -c 'nft add table ip heard; nft delete table ip heard; ip route add 192.0.2.99/32 dev lo; ip route del 192.0.2.99/32 dev lo'
  [[ -s $LAB/monitor.nft && -s $LAB/monitor.ip ]]
}
watch_quiet() { # what was written since, but for the change of nobody's and lives of neighbours
  kill "${WATCH[@]}"
  wait "${WATCH[@]}" 2>/dev/null || true
  grep -vE 'table ip heard|^# new generation' "$LAB/monitor.nft" || true
  grep -vE '192\.0\.2\.99' "$LAB/monitor.ip" || true
}
require watch_start
for _ in 1 2 3; do check "apply with nothing to do" sdw s1 apply; done
touch "$LAB/hosts/s1/etc/fleet.d/"*.toml
publish s1
rounds=$(now_ms)
until (( $(now_ms) - rounds > 4000 )); do status "a plan is empty" 0 sdw s1 plan; sleep 0.5; done
watch_quiet >"$LAB/writes"
expect "after three applies, a touched fleet and four periodic rounds: no write" '' cat "$LAB/writes"

# A change of many rules is told in thousands of events, and is one change: once it is made, the daemon rests.
used() { awk '{ print $14 + $15 }' "/proc/${DAEMON[s1]}/stat"; } # hundredths of a second
for n in $(seq 300); do fleet_rule prod "many-$n" node=s1 node=hub tcp "$((2000 + n))"; done
republish hub s1
before=$(used)
span=$(now_ms)
until (( $(now_ms) - span > 3000 )); do sleep 0.5; done # rest can only be seen over a time
check "after 300 new rules: at most a fifth of the CPU in 3 s with rounds of one" eval '(( $(used) - before <= 60 ))'
note "hundredths of a second used: $(($(used) - before))"

# A second daemon.
status "a second daemon in the same network namespace refuses" 1 timeout 10 nsenter --target "${HOST_PID[s1]}" --net --mount -- "$SDWAND_BIN" run
check "and says why" grep -qiE 'already|another|running|held|lock' "$LAB/said"
cp "$LAB/hosts/s1/etc/node.key" "$LAB/hosts/s2/etc/node.key"
chmod 600 "$LAB/hosts/s2/etc/node.key"
cp "$LAB/hosts/s1/etc/fleet.d/"* "$LAB/hosts/s2/etc/fleet.d/"
{ sed '/^\[/,$d' "$LAB/hosts/s1/etc/sdwand.toml"; echo "state_dir = \"$LAB/hosts/s1/lib\""; } >"$LAB/hosts/s2/etc/sdwand.toml"
status "a second daemon on the same state folder refuses" 1 timeout 10 nsenter --target "${HOST_PID[s2]}" --net --mount -- "$SDWAND_BIN" run
check "and says why" grep -qiE 'already|another|running|held|lock' "$LAB/said"
expect "the first doesn't mind" reply oping s1 1 "$(v6 1 1)"

if ! has_wireguard; then
  skip "kernel WireGuard: that a restart loses no packet"
  exit 0
fi
# Restarts under traffic.
lossless() { # DESC CMD…
  local desc=$1
  shift
  oloss s1 1 150 0.02 "$(v6 1 1)" >"$LAB/loss" 2>"$LAB/ping.log" &
  local pinger=$!
  sleep 0.3
  "$@"
  wait $pinger || true
  expect "$desc: no packet lost" 0 cat "$LAB/loss"
}
restart() { stop_daemon s1; start_daemon s1; }
crash() { kill_daemon s1; start_daemon s1; }
watch_start
lossless "stop and start" restart
lossless "kill -9 and start" crash
lossless "kill -9 and start, of the hub" eval 'kill_daemon hub; start_daemon hub'
wait_for "s1: converged" 10 converged s1
watch_quiet >"$LAB/writes"
expect "restarts write nothing" '' cat "$LAB/writes"
stop_daemon s1 hub
lossless "with no daemon at all" true
