#!/bin/bash
# `sdwand explain`: of random fleets, and every pair of addresses in them, it says what ping, TCP and UDP observe; and of
# this host, what is really there.
#
#     l1 ── n1 ──┐   ┌── n4       n1 … n5: hubs, spokes, nodes of a mesh; n1 to n3 have a LAN with one host in it
#     l2 ── n2 ── wan ── n5       c1, c2: hosts of the underlay alone, who ask for the ports that hubs map
#     l3 ── n3 ──┘   └── c1, c2
#
# SDWAND_EXPLAIN_FLEETS (default 8) fleets are drawn from SDWAND_EXPLAIN_SEED (default 4): 100 take eight minutes.
. "$(dirname "$0")/lab/lib.sh"

hosts=
mkhost n1 n2 n3 n4 n5
mkns c1 c2
underlay n1 n2 n3 n4 n5 c1 c2
forwarding n1 n2 n3 n4 n5 # what the underlay forwards is the operator's affair, and port mappings need it
for n in 1 2 3; do lan "n$n" lan0 "l$n" "10.$n.0.1/24" "fd00:$n::1/64"; done
fleet_site
for n in 1 2 3 4 5; do
  name=n$n
  fleet_node "$name" "$n" "${V4[$name]}"
  lan=
  if (( n <= 3 )); then
    lan=", \"lan\": {\"ns\": \"l$n\", \"v4\": \"10.$n.0.10\", \"v6\": \"fd00:$n::10\", \"v4_net\": \"10.$n.0.0/24\", \"v6_net\": \"fd00:$n::/64\"}"
  fi
  hosts+="${hosts:+, }\"$name\": {\"pid\": ${HOST_PID[$name]}, \"etc\": \"$LAB/hosts/$name/etc\", \"key\": \"$(<"$LAB/keys/$name.pub")\", \"v4\": \"${V4[$name]}\", \"v6\": \"${V6[$name]}\"$lan}"
done
clients=
for n in c1 c2; do clients+="${clients:+, }\"$n\": {\"v4\": \"${V4[$n]}\", \"v6\": \"${V6[$n]}\"}"; done
lab_binary

if has_wireguard && has_vrf; then
  fleets=${SDWAND_EXPLAIN_FLEETS:-8} seed=${SDWAND_EXPLAIN_SEED:-4}
  note "$fleets fleets of seed $seed"
  status "explain says what packets do" 0 "$PYTHON" "$LAB_LIB/pairs.py" compare --seed "$seed" --fleets "$fleets" \
    --hosts "{$hosts}" --clients "{$clients}"
  while read -r line; do note "$line"; done < <(grep -E '^(fleet [0-9]+:|comparisons=)' "$LAB/said" | tail -n 12)
  for n in 1 2 3 4 5; do check "n$n: down" sdw "n$n" down; done
else
  skip "random fleets need kernel WireGuard and VRFs: they change too fast for daemons"
fi

# This host, as it is. n1 is the hub.
fleet_site
fleet_node n1 1 "${V4[n1]}"
fleet_node n2 2
fleet_node n3 3
fleet_network prod 200 hub:n1 n2 n3
fleet_rule prod ping any any icmp
fleet_rule prod web node=n2 node=n3 tcp 7000
bring_up n1 n2 n3
wait_for "n2 → n3, ping" 15 prints reply oping n2 200 "$(v4 200 3)"
# verdict HOST QUESTION…: verdict, rule, and where it is blocked by what
verdict() {
  local host=$1
  shift
  sdw "$host" explain "$@" --json | jq -r '"\(.verdict) \(.rule) \(.blocker.node // "-") \(.blocker.check // "-")"'
}
differs() { sdw n1 explain "$(v4 200 2)" "$(v4 200 3)" --json | jq -r '[.disagreements[].check] | unique | join(" ")'; }
for host in n1 n2 n3; do
  expect "$host: ping, by its rule" 'allow ping - -' verdict "$host" n2 n3
  expect "$host: tcp 7000, by its rule" 'allow web - -' verdict "$host" "$(v4 200 2)" "$(v4 200 3)" tcp/7000
  expect "$host: tcp 7001, no rule" 'deny null n2 firewall' verdict "$host" n2 n3 tcp/7001
done
check "n1: its own hop is looked at, the others are the fleet's" eval \
  '[[ $(sdw n1 explain n2 n3 --json | jq -c "[.hops[] | [.node, .live]]") = "[[\"n2\",false],[\"n1\",true],[\"n3\",false]]" ]]'
expect "n1: and is as the fleet says" '' differs
status "allowed: 0" 0 sdw n1 explain n2 n3
status "blocked: 2" 2 sdw n1 explain n2 n3 tcp/7001
status "no such node: 1" 1 sdw n1 explain n2 n9

# As docker leaves it.
on n1 nft -f - <<'NFT'
table ip filter {
  chain DOCKER-USER { counter return; }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    counter jump DOCKER-USER
    oifname "docker0" ct state related,established counter accept
    iifname "docker0" oifname != "docker0" counter accept
  }
}
NFT
expect "docker's chain: packets are dropped" silence oping n2 200 "$(v4 200 3)"
expect "explain names it" 'deny null n1 foreign_chains' verdict n1 "$(v4 200 2)" "$(v4 200 3)"
expect "so does doctor" '*ip filter FORWARD*' eval 'sdw n1 doctor --json | jq -r ".checks[] | select(.check == \"foreign_chains\") | .text"'
expect "with the way through it" '*iptables -I DOCKER-USER -i *' eval 'sdw n1 explain "$(v4 200 2)" "$(v4 200 3)" --json | jq -r .blocker.fix'
expect "IPv6 isn't its business" 'allow ping - -' verdict n1 n2 n3
on n1 nft insert rule ip filter DOCKER-USER oifname '"wg-sdwan-*"' accept # what the fix does for a hub
expect "through it: packets pass" reply oping n2 200 "$(v4 200 3)"
expect "and explain says so" 'allow ping - -' verdict n1 "$(v4 200 2)" "$(v4 200 3)"
on n1 nft delete table ip filter

has_wireguard && has_vrf || skip_rest "what others do to a host without its daemon needs kernel WireGuard and VRFs"
stop_daemon n1
on n1 ip route del "$(v4 200 3)/32" table 10200
expect "a route that is gone" 'unreachable null n1 route' verdict n1 "$(v4 200 2)" "$(v4 200 3)"
expect "is where host and fleet disagree" route differs
check "apply brings it back" sdw n1 apply
on n1 wg set wg-sdwan-200 peer "$(<"$LAB/keys/n3.pub")" remove
expect "a peer that is gone" 'unreachable null n1 allowed_ips' verdict n1 "$(v4 200 2)" "$(v4 200 3)"
expect "is where they disagree" allowed_ips differs
check "apply brings it back" sdw n1 apply
wait_for "n3 shakes hands again" 40 prints 'allow ping - -' verdict n1 "$(v4 200 2)" "$(v4 200 3)"
expect "n1 refuses what no rule names" 'deny null n1 firewall' verdict n1 n1 n3 tcp/7001
on n1 nft delete table inet sdwand
expect "without our table it lets that pass, and the next refuses" 'deny null n3 firewall' verdict n1 n1 n3 tcp/7001
expect "and they disagree" firewall differs
