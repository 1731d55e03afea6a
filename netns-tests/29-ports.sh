#!/bin/bash
# Port mappings: from the hub's underlay to a spoke, both families, and nothing beside them.
#
#     client ── wan ── hub ── s1      network prod (1): hub ::1, s1 ::2, s2 ::3
#     other  ──┘          └── s2      a LAN behind s2 has the client's own addresses
#
#     web  tcp 443  → s1:8443       dns udp 53 → s1:5353
#     few  tcp 4430 → s1:8443, 200 connections     slow tcp 4431 → s1:8443, 5 a second
#     only tcp 4432 → s1:8443, from the client alone
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
mkns client other
underlay hub s1 s2 client other
forwarding hub # what the underlay forwards is the operator's affair: see below
fleet_site
fleet_node hub 1 "${V4[hub]}" "${V6[hub]}"
fleet_node s1 2
fleet_node s2 3
mapping() { # NAME PORT PROTOCOL TARGET-PORT [KEY = VALUE]…
  printf '\n[[networks.port_mappings]]\nname = "%s"\nhub = "hub"\nlisten_port = %s\nprotocol = "%s"\nto = { node = "s1" }\ntarget_port = %s\n' "$1" "$2" "$3" "$4"
  shift 4
  (( $# == 0 )) || printf '%s\n' "$@"
}
# The network's own table has a route to where the clients are: answers must not take it. (Without VRF, the end of these
# prefixes in the main table would be in the way of the underlay's default route: see README.)
covering='{ node = "s2" }'
if has_vrf; then
  covering="{ node = \"s2\", lans = [{ subnet = \"198.18.4.0/24\", interface = \"lan0\" }, { subnet = \"2001:db8:0:4::/64\", interface = \"lan0\" }] }"
  lan s2 lan0 behind 198.18.4.1/24 2001:db8:0:4::1/64
fi
fleet() { # NAME of each mapping to have
  local name
  fleet_network prod 1 hub:hub s1 "$covering"
  for name; do
    case $name in
      web) mapping web 443 tcp 8443 ;;
      dns) mapping dns 53 udp 5353 ;;
      few) mapping few 4430 tcp 8443 'max_connections = 200' ;;
      slow) mapping slow 4431 tcp 8443 'rate_limit_per_second = 5' ;;
      only) mapping only 4432 tcp 8443 "source_cidrs = [\"${V4[client]}/32\", \"${V6[client]}/128\"]" ;;
      v4-only) mapping v4-only 4433 tcp 8443 'source_cidrs = ["0.0.0.0/0"]' ;;
      off) mapping off 4434 tcp 8443 'enabled = false' ;;
      elsewhere) mapping web 443 tcp 8444 ;;
      narrow) mapping web 443 tcp 8443 "source_cidrs = [\"${V4[other]}/32\", \"${V6[other]}/128\"]" ;;
    esac
  done >>"$FLEET/20-prod.toml"
}
hub_of() { case $1 in 4) echo "${V4[hub]}" ;; 6) echo "${V6[hub]}" ;; esac; }
mapped() { state hub ".networks[] | select(.name == \"prod\") | .port_mappings[] | select(.name == \"$1\") | .$2"; }
said() { cat "$LAB/$1" 2>/dev/null || echo 0; }
everyone=(hub s1 s2)

fleet web dns few slow only v4-only off
bring_up "${everyone[@]}"
for family in 4 6; do
  target=$("v$family" 1 2)
  oserve s1 1 "tcp,$target,8443" "tcp,$target,8444" "udp,$target,5353"
done
wait_for "v4: tcp, from the underlay" 10 prints ok asked client "tcp,${V4[hub]},443"
for family in 4 6; do
  to=$(hub_of $family) target=$("v$family" 1 2)
  expect "v$family: tcp" ok asked client "tcp,$to,443"
  expect "v$family: udp" ok asked client "udp,$to,53"
  expect "v$family: another port of the hub isn't mapped" refused asked client "tcp,$to,8443"
  expect "v$family: a disabled mapping isn't there" refused asked client "tcp,$to,4434"
  expect "v$family: the allowed source" ok asked client "tcp,$to,4432"
  expect "v$family: another source is refused" timeout asked other "tcp,$to,4432"
  # Straight at the overlay, from a neighbour that routes it to the hub.
  case $family in
    4) ip -n wan route add "$(v4_prefix 1)" via "$to" ;;
    6) ip -n wan -6 route add "$(v6 1 "")/64" via "$to" ;;
  esac
  expect "v$family: the target itself stays out of reach of the underlay" "$NO_TCP" asked client "tcp,$target,8443"
  expect "v$family: so does the hub's overlay address" "$NO_TCP" asked client "tcp,$("v$family" 1 1),443"
  expect "v$family: and from the overlay the client can't be reached" "$NO_TCP" oasked s1 1 "tcp,$([[ $family = 4 ]] && echo "${V4[client]}" || echo "${V6[client]}"),443"
  expect "v$family: from the hub's overlay address no other port of the target is open" "$NO_TCP" oasked hub 1 "tcp,$target,8444"
done
expect "a family without an entry in source_cidrs: v4 may" ok asked client "tcp,${V4[hub]},4433"
expect "a family without an entry in source_cidrs: v6 may not" timeout asked client "tcp,${V6[hub]},4433"
check "the target sees the hub's overlay address" eval "arrived s1 'udp from $(v6 1 1)' && arrived s1 'udp from $(v4 1 1)'"
check "refused sources are counted" eval '(( $(mapped only refused_source) > 0 ))'
check "what was let in is counted" eval '(( $(mapped web connections) >= 3 ))'

# Guards, under a thousand connections.
for family in 4 6; do
  to=$(hub_of $family)
  before=$(mapped few refused_connections)
  expect "v$family: of 1,000 connections at once 200 are let in" 200 on client "$PYTHON" "$LAB_LIB/crowd.py" 1000 5 "$to" 4430
  check "v$family: the others are counted" eval '(( $(mapped few refused_connections) >= before + 800 ))'
  wait_for "v$family: when they are gone, others may" 30 prints ok asked client "tcp,$to,4430"
  before=$(mapped slow refused_rate)
  expect "v$family: of 100 connections in half a second 5 to 10 are let in" '@([5-9]|10)' on client "$PYTHON" "$LAB_LIB/crowd.py" 100 0.5 "$to" 4431
  check "v$family: the others are counted" eval '(( $(mapped slow refused_rate) > before + 80 ))'
done

# A no-op is silent; one changed mapping leaves the others, their guards and their flows alone.
check "nothing is left to do" converged "${everyone[@]}"
for family in 4 6; do
  to=$(hub_of $family)
  fleet web dns few
  republish "${everyone[@]}"
  flow client "$LAB/kept$family" "tcp,$to,4430"
  flow client "$LAB/cut$family" "tcp,$to,443"
  wait_for "v$family: two flows run" 10 eval "(( \$(said kept$family) > 5 && \$(said cut$family) > 5 ))"
  fleet narrow dns few
  republish "${everyone[@]}"
  cut=$(said "cut$family") kept=$(said "kept$family")
  wait_for "v$family: the flow of another mapping goes on" 10 eval "(( \$(said kept$family) > kept + 10 ))"
  expect "v$family: whose source may no longer connect stands still" "@($cut|$((cut + 1)))" said "cut$family"
  expect "v$family: and can't come back" timeout asked client "tcp,$to,443"
  expect "v$family: who may now, can" ok asked other "tcp,$to,443"

  fleet web dns few
  republish "${everyone[@]}"
  flow client "$LAB/gone$family" "tcp,$to,443"
  wait_for "v$family: a flow runs" 10 eval "(( \$(said gone$family) > 5 ))"
  fleet elsewhere dns few
  republish "${everyone[@]}"
  gone=$(said "gone$family") kept=$(said "kept$family")
  wait_for "v$family: the flow of another mapping goes on" 10 eval "(( \$(said kept$family) > kept + 10 ))"
  expect "v$family: with another target the flow to the old one stands still" "@($gone|$((gone + 1)))" said "gone$family"
  expect "v$family: the new target answers" ok asked client "tcp,$to,443"
done

# The last mapping goes: its flow too, and every trace of it.
flow client "$LAB/last" "tcp,${V4[hub]},4430"
wait_for "a flow runs" 10 eval '(( $(said last) > 5 ))'
fleet
republish "${everyone[@]}"
last=$(said last)
expect "the port is closed" refused asked client "tcp,${V4[hub]},4430"
expect "its flow stands still" "@($last|$((last + 1)))" said last
refute "no mark is left in the rules" eval 'on hub sh -c "ip rule; ip -6 rule" | grep fwmark'
refute "no chain is left in the table" eval 'on hub nft list table inet sdwand | grep "chain port"'

# Where the underlay doesn't forward, that is said with the fix, and nothing else is held up.
fleet web
set_sysctl hub net.ipv4.ip_forward=0
publish "${everyone[@]}"
wait_for "a hub whose underlay doesn't forward says so" 10 prints '*sysctl -w net.ipv4.ip_forward=1*' sdw hub plan
set_sysctl hub net.ipv4.ip_forward=1
wait_for "and carries when it does" 10 prints ok asked client "tcp,${V4[hub]},443"
stop_daemon "${everyone[@]}"
check "hub: down" sdw hub down
expect "nothing of sdwand is left on the hub" "" left_over hub
