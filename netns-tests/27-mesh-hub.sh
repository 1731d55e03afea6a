#!/bin/bash
# A full mesh with nodes that nobody can call: they meet at the hub, which judges what passes. Without one they are named.
#
#     a ── nat1 ─┐       ┌─ hub      network mesh (1), full mesh, both families
#                ├─ wan ─┤
#     b ── nat2 ─┘       └─ c        c can be called, and is no hub; a LAN behind b
#     │ lan0
#     lanb
. "$(dirname "$0")/lab/lib.sh"

mkhost hub a b c
underlay hub c
nat_box nat1 a
nat_box nat2 b
lan b lan0 lanb 10.20.0.1/24 fd00:20::1/64
fleet() { # ROLE-OF-HUB
  fleet_site
  fleet_node hub 1 "${V4[hub]}"
  fleet_node a 2
  fleet_node b 3
  fleet_node c 4 "${V4[c]}"
  fleet_network mesh 1 a "$1" c '{ node = "b", lans = [
    { subnet = "10.20.0.0/24", interface = "lan0" }, { subnet = "fd00:20::/64", interface = "lan0" }] }' \
    --topology '"full_mesh"' --keepalive_seconds 2
  fleet_rule mesh ping any any icmp
  fleet_rule mesh web node=a node=b tcp 7000
}
fleet hub:hub
bring_up hub a b c

A=2 B=3 C=4
for to in $B $C; do
  wait_for "a → $to, v6" 20 prints reply oping a 1 "$(v6 1 $to)"
  expect "a → $to, v4" reply oping a 1 "$(v4 1 $to)"
done
wait_for "b → a" 10 prints reply oping b 1 "$(v6 1 $A)"
for to in 10.20.0.10 fd00:20::10; do wait_for "a → the LAN behind b, $to" 10 prints reply oping a 1 "$to"; done
check "a has no peer b" eval '! on a wg show wg-sdwan-1 peers | grep -qF "$(<"$LAB/keys/b.pub")"'

# It goes by the hub, and what goes to c doesn't.
received() { state hub '[.networks[0].links[].peers[].rx_bytes] | add'; }
lossless() { oloss "$@" 2>/dev/null; }
before=$(received)
expect "nothing is lost to b" 0 lossless a 1 50 0.02 "$(v6 1 $B)"
check "by the hub" eval '(( $(received) - before > 5000 ))'
before=$(received)
expect "nothing is lost to c" 0 lossless a 1 50 0.02 "$(v6 1 $C)"
check "past it" eval '(( $(received) - before < 4000 ))'

# The hub judges: what only a and b allow dies there.
oserve b 1 'tcp,*,7000' 'tcp,*,7001'
for address in "$(v4 1 $B)" "$(v6 1 $B)"; do
  expect "$address, tcp 7000: accepted" ok oasked a 1 "tcp,$address,7000"
  expect "$address, tcp 7001: dropped" "$NO_TCP" oasked a 1 "tcp,$address,7001"
done
fleet_rule mesh more node=a node=b tcp 7001
republish a b
drops=$(dropped hub mesh)
expect "tcp 7001 by the rules of both ends alone: dropped" "$NO_TCP" oasked a 1 "tcp,$(v6 1 $B),7001"
check "and counted by the hub" eval '(( $(dropped hub mesh) > drops ))'
republish hub
wait_for "by those of the hub, too: accepted" 10 prints ok oasked a 1 "tcp,$(v6 1 $B),7001"

# Nobody carries unless it is a hub.
fleet hub
republish hub a b c
check "without a hub, a names b" eval 'state a ".notices[].text" | grep -F "unreachable: neither a nor b has an endpoint"'
expect "and doesn't reach it" "$NO_PING" oping a 1 "$(v6 1 $B)"
expect "c it does" reply oping a 1 "$(v6 1 $C)"

stop_daemon hub a b c
for host in hub a b c; do
  check "$host: down" sdw "$host" down
  expect "$host: nothing of ours is left" '' left_over "$host"
done
