#!/bin/bash
# A peer that roams keeps its endpoint: what the last handshake showed is never put back to what the fleet says.
#
#     s1 ──in0── nat ──┐                s1 behind a NAT box whose ports and address change
#                      ├── wan ── hub   the fleet gives s1 an endpoint that was never true
#     s2 ──────────────┘
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s2
nat_box nat s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_network prod 1 hub:hub '{ node = "s1", endpoints = ["198.51.100.7"] }' s2 --keepalive_seconds 1
fleet_rule prod ping any any icmp
for host in hub s1 s2; do host_config "$host" '[reconcile]' 'interval_seconds = 1'; done
bring_up hub s1 s2
wait_for "the spoke behind NAT reaches the hub" 15 prints reply oping s1 1 "$(v6 1 1)"
wait_for "and the other spoke" 10 prints reply oping s1 1 "$(v6 1 3)"

key=$(cat "$LAB/keys/s1.pub")
endpoint() { on hub wg show wg-sdwan-1 endpoints | awk -v key="$key" '$1 == key { print $2 }'; }
first=$(endpoint)
expect "the hub sees the NAT box" "${V4[nat]}:20+([0-9])" endpoint
# Through reconciles of every kind, it stays.
survives() { # DESC
  local before
  before=$(endpoint)
  check "$1: apply" sdw hub apply
  touch "$LAB/hosts/hub/etc/fleet.d/10-nodes.toml"
  local start
  start=$(now_ms)
  until (( $(now_ms) - start > 2500 )); do
    [[ $(endpoint) = "$before" ]] || { fail "$1: the endpoint went from $before to $(endpoint)"; return; }
    sleep 0.1
  done
  pass "$1: the endpoint stays through apply, a touched fleet and two rounds"
  expect "$1: plan sees no drift in it" 0 eval 'sdw hub plan >/dev/null; echo $?'
}
survives "at first"

nat_ports nat 30000 30999
wait_for "the NAT box takes other ports: the hub follows" 10 prints "${V4[nat]}:30+([0-9])" endpoint
survives "another port"
wait_for "the hub still reaches the spoke" 10 prints reply oping hub 1 "$(v6 1 2)"

addresses nat up0 "${V4[nat]%.*}.77/24"
nat_ports nat 40000 40999 "${V4[nat]%.*}.77"
wait_for "and another address" 10 prints "${V4[nat]%.*}.77:40+([0-9])" endpoint
survives "another address"
wait_for "the hub still reaches the spoke" 10 prints reply oping hub 1 "$(v6 1 2)"
wait_for "so does the other spoke" 10 prints reply oping s2 1 "$(v6 1 2)"

# A change of the fleet that doesn't concern its endpoint.
fleet_rule prod web any any tcp 7000
republish hub
survives "after a new rule"
if has_wireguard; then
  kill_daemon hub
  start_daemon hub
  wait_for "hub: converged" 10 converged hub
  survives "after kill -9 and a start"
else
  skip "kernel WireGuard: that the endpoint outlives the daemon"
fi
[[ $first != "$(endpoint)" ]] || fail "nothing roamed"
