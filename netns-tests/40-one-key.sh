#!/bin/bash
# A node has one key in all its networks: who is on the path and turns packets from the port of one to that of another joins
# nothing, for each network's preshared key is its own.
#
#     s1 ── wan ── hub      networks red (1) and blue (2), between the same hosts; wan turns red's port at the hub into blue's
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1
underlay hub s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
for network in red:1 blue:2; do
  fleet_network "${network%:*}" "${network#*:}" hub:hub s1 --keepalive_seconds 1
  fleet_rule "${network%:*}" all any any any
done
on wan nft -f - <<NFT
table ip turn {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr ${V4[hub]} udp dport 51820 counter dnat to ${V4[hub]}:51821
  }
}
NFT
turned() { on wan nft -j list table ip turn | jq -e '[.. | .counter? // empty | .packets] | add > 0'; }
# hands HOST NETWORK PEER: when it last shook hands there; 0 is never.
hands() { on "$1" wg show "wg-sdwan-$2" latest-handshakes | awk -v key="$(<"$LAB/keys/$3.pub")" '$1 == key { print $2 }'; }
sent() { on s1 wg show wg-sdwan-1 transfer | awk '{ print $3 }'; }
bring_up hub s1
wait_for "blue works" 15 prints reply oping s1 2 "$(v6 2 1)"
wait_for "red's calls are turned to blue's port" 10 turned
calls() { (( $(sent) >= 3 * 148 )); }
wait_for "and repeated: none is answered as it should be" 30 calls
expect "s1 shakes no hands in red" 0 hands s1 1 hub
expect "nor does the hub" 0 hands hub 1 s1
expect "no packet of red passes" "$NO_PING" oping s1 1 "$(v6 1 1)"
if has_wireguard; then
  # It is the preshared key that keeps them apart.
  stop_daemon hub s1
  on s1 wg set wg-sdwan-1 peer "$(<"$LAB/keys/hub.pub")" preshared-key /dev/null
  on hub wg set wg-sdwan-2 peer "$(<"$LAB/keys/s1.pub")" preshared-key /dev/null
  joined() { (( $(hands s1 1 hub) > 0 )); }
  wait_for "without it red's link at s1 has a session with blue's at the hub" 20 joined
  start_daemon hub s1
  for host in hub s1; do wait_for "$host: has it back" 20 converged "$host"; done
else
  skip "kernel WireGuard: that they would join without it; an embedded device can't do without its daemon, which heals that"
fi
on wan nft delete table ip turn
on wan conntrack -F >/dev/null 2>&1
for network in 1 2; do wait_for "network $network works once packets come as they were sent" 30 prints reply oping s1 "$network" "$(v6 "$network" 1)"; done
