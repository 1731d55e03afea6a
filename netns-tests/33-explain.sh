#!/bin/bash
# `sdwand explain`: random fleets, every pair of addresses: what it says of the fleet is what ping, TCP and UDP observe.
#
#     l1 ── n1 ──┐        n1 … n5: hubs, spokes, nodes of a mesh; n1 to n3 have a LAN with one host in it
#     l2 ── n2 ── wan ── n4
#     l3 ── n3 ──┘└── n5
#
# SDWAND_EXPLAIN_FLEETS (default 8) fleets are drawn from SDWAND_EXPLAIN_SEED (default 4): 100 take eight minutes.
. "$(dirname "$0")/lab/lib.sh"

has_wireguard && has_vrf || skip_rest "needs kernel WireGuard and VRFs: fleets change too fast for daemons"

hosts=
mkhost n1 n2 n3 n4 n5
underlay n1 n2 n3 n4 n5
for n in 1 2 3; do lan "n$n" lan0 "l$n" "10.$n.0.1/24" "fd00:$n::1/64"; done
fleet_site
for n in 1 2 3 4 5; do
  name=n$n
  fleet_node "$name" "$n" "${V4[$name]}"
  lan=
  if (( n <= 3 )); then
    lan=", \"lan\": {\"ns\": \"l$n\", \"v4\": \"10.$n.0.10\", \"v6\": \"fd00:$n::10\", \"v4_net\": \"10.$n.0.0/24\", \"v6_net\": \"fd00:$n::/64\"}"
  fi
  hosts+="${hosts:+, }\"$name\": {\"pid\": ${HOST_PID[$name]}, \"etc\": \"$LAB/hosts/$name/etc\", \"key\": \"$(<"$LAB/keys/$name.pub")\", \"endpoint\": \"${V4[$name]}\"$lan}"
done

fleets=${SDWAND_EXPLAIN_FLEETS:-8} seed=${SDWAND_EXPLAIN_SEED:-4}
note "$fleets fleets of seed $seed"
lab_binary
status "explain says what packets do" 0 "$PYTHON" "$LAB_LIB/pairs.py" compare --seed "$seed" --fleets "$fleets" --hosts "{$hosts}"
while read -r line; do note "$line"; done < <(grep -E '^(fleet [0-9]+:|comparisons=)' "$LAB/said" | tail -n 12)
