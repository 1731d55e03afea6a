#!/bin/bash
# A full mesh, a network in the main table, and rules that reject.
#
#     a ── wan ── b        network mesh (1), full mesh, both families: every pair talks directly
#           │              network flat (2), isolation = "none": hub b, spokes a and c, in the main table
#           c
. "$(dirname "$0")/lab/lib.sh"

mkhost a b c
underlay a b c
fleet_site
n=0
for host in a b c; do fleet_node "$host" $((++n)) "${V4[$host]}"; done
fleet_network mesh 1 a b c --topology '"full_mesh"'
fleet_rule mesh ping any any icmp
fleet_rule mesh web node=a node=c tcp 7000
fleet_rule mesh no node=a node=c tcp 7001 reject
fleet_network flat 2 a hub:b c --isolation '"none"'
fleet_rule flat ping any any icmp
fleet_rule flat web node=a node=c tcp 7000
for host in a b c; do ip -n "$host" route show table main >"$LAB/$host.main"; done
bring_up a b c
status "the files of two links are not one" 1 sdw a compile --node a --plane wireguard
check "each has its own" eval 'sdw a compile --node a --plane wireguard --link wg-sdwan-2 | grep -F "network flat (id 2)" >/dev/null'

declare -A ID=([a]=1 [b]=2 [c]=3)
for from in a b c; do
  for to in a b c; do
    [[ $from != "$to" ]] || continue
    wait_for "mesh: $from → $to, v4" 15 prints reply oping "$from" 1 "$(v4 1 "${ID[$to]}")"
    expect "mesh: $from → $to, v6" reply oping "$from" 1 "$(v6 1 "${ID[$to]}")"
  done
done
received() { sdw b status --json | jq -r '[.networks[] | select(.name == "mesh") | .links[].peers[].rx_bytes] | add'; }
before=$(received)
check "mesh: a → c goes past b" eval '(( $(oloss a 1 50 0.02 "$(v6 1 3)") == 0 )) && (( $(received) - before < 2000 ))'
oserve c 1 'tcp,*,7000' 'tcp,*,7001' 'tcp,*,7002'
for address in "$(v4 1 3)" "$(v6 1 3)"; do
  expect "mesh: $address, tcp 7000: accepted" ok oasked a 1 "tcp,$address,7000"
  expect "mesh: $address, tcp 7001: rejected, at once" '@(refused|reset|denied|unreachable)' oasked a 1 "tcp,$address,7001"
  expect "mesh: $address, tcp 7002: dropped" "$NO_TCP" oasked a 1 "tcp,$address,7002"
done
check "mesh: the rule that rejects counts" eval '(( $(counter a no) > 0 ))'

# In the main table nothing is bound to anything.
serve c "tcp,$(v6 2 3),7000" "tcp,$(v6 2 3),7001" "tcp,$(v4 2 3),7000"
for address in "$(v4 2 3)" "$(v6 2 3)"; do
  wait_for "flat: $address over the hub, ping" 15 prints reply pinged a "$address"
  expect "flat: $address, tcp 7000: accepted" ok asked a "tcp,$address,7000"
done
expect "flat: tcp 7001, no rule" "$NO_TCP" asked a "tcp,$(v6 2 3),7001"
expect "mesh and flat don't meet" "$NO_PING" oping a 1 "$(v6 2 3)"

stop_daemon a b c
for host in a b c; do
  check "$host: down" sdw "$host" down
  expect "$host: nothing of ours is left" '' left_over "$host"
  ip -n "$host" route show table main >"$LAB/$host.now"
  same "$host: its main table is as it was" "$LAB/$host.main" "$LAB/$host.now"
done
