#!/bin/bash
# What is someone else's stays byte for byte: before, while sdwand runs, after `down`.
#
#     s1 ── wan ── hub        s1 has links, routes, rules and nft tables of others, some with names close to ours
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1
underlay hub s1
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_network prod 1 hub:hub s1
fleet_rule prod all any any any

ip -n s1 link add br0 type bridge forward_delay 0
ip -n s1 link set br0 up
addresses s1 br0 172.17.0.1/16 fd00:17::1/64
ip -n s1 link add v0 type veth peer name v1
ip -n s1 link set v0 master br0
ip -n s1 link set v0 up
ip -n s1 link set v1 up
ip -n s1 link add sdwan-7 type veth peer name wg-sdwan-7 # names of our scheme, but not marked as ours
ip -n s1 link add wg-sdwan-x type veth peer name sdwan-x alias sdwand
addresses s1 wg-sdwan-7 192.0.2.1/24
ip -n s1 link set sdwan-7 up
ip -n s1 link set wg-sdwan-7 up
ip -n s1 tuntap add tun7 mode tun
if has_vrf; then ip -n s1 link add blue type vrf table 500; ip -n s1 link set blue up; fi
if has_wireguard; then
  mkwg s1 wg0
  wg genkey >"$LAB/wg0.key"
  on s1 wg set wg0 private-key "$LAB/wg0.key" listen-port 51999 peer "$(wg genkey | wg pubkey)" allowed-ips 10.200.0.0/16
  ip -n s1 link set wg0 up
fi
ip -n s1 route add 10.1.0.0/16 via "${V4[s1]%.*}.1"
ip -n s1 route add 10.2.0.0/16 dev br0 table 500 proto static
ip -n s1 route add 10.3.0.0/16 dev br0 table 10001 proto static # our table, their route
ip -n s1 route add unreachable 10.4.0.0/16 proto bird metric 7
ip -n s1 -6 route add fd00:99::/64 dev br0 table 10001 proto static
ip -n s1 rule add from 10.9.0.0/16 table 500 priority 2000
ip -n s1 rule add fwmark 0x77 table 10001 priority 1500
ip -n s1 -6 rule add to fd00:99::/64 table 500 priority 2001
on s1 nft -f - <<'NFT'
table inet filter {
  set trusted { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 198.18.0.0/16 } }
  chain input {
    type filter hook input priority filter; policy accept;
    ip saddr @trusted accept
  }
  chain forward { type filter hook forward priority filter; policy accept; }
}
table ip sdwand {
  chain theirs {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 172.17.0.0/16 oifname "up0" masquerade
  }
}
table ip6 sdwand-x {
  chain c {
    ip6 daddr fd00::/8 accept
  }
}
NFT

# All that is not marked as ours, per object type. The kernel's own rule for VRFs (1000) comes with the first of them.
foreign() {
  local ours
  ours=$(ip -n s1 -j link | jq -c '[.[] | select((.ifname | test("^(wg-)?sdwan-[0-9]+(-[0-9])?$")) and .ifalias == "sdwand") | .ifname]')
  echo '--- links'
  ip -n s1 -d -j link | jq -S --argjson ours "$ours" '.[] | select(.ifname as $name | $ours | index($name) | not) | walk(if type == "object" then with_entries(select(.key | endswith("_timer") | not)) else . end)'
  echo '--- addresses'
  ip -n s1 -j addr | jq -S --argjson ours "$ours" '.[] | select(.ifname as $name | $ours | index($name) | not) | {ifname, addr_info}'
  for family in -4 -6; do
    echo "--- routes $family"
    ip -n s1 $family route show table all | grep -vE 'proto (241|sdwand)|dev (wg-)?sdwan-1 '
    echo "--- rules $family"
    ip -n s1 $family rule | grep -vE 'proto (241|sdwand)|l3mdev-table'
  done
  echo '--- nft'
  on s1 nft list tables | grep -vx 'table inet sdwand' | while read -r _ family table; do on s1 nft list table "$family" "$table"; done
  echo '--- wireguard'
  if has_wireguard; then on s1 wg showconf wg0; fi
  echo '--- sysctl'
  on s1 sysctl -a 2>/dev/null | grep -E '^net\.(ipv4|ipv6)\.(conf\.(all|default|br0|v0|up0|lo)\.|ip_forward|[a-z]+_l3mdev)' | grep -vE 'stable_secret'
}
foreign >"$LAB/before"
check "there is something to keep" eval '(( $(wc -l <"$LAB/before") > 200 ))'

bring_up hub s1
wait_for "the overlay works" 10 prints reply oping s1 1 "$(v6 1 1)"
foreign >"$LAB/during"
# Forwarding is the host's own switch, which a node that forwards has to turn on; a spoke without LANs doesn't.
same "while sdwand runs, nothing of others has changed" "$LAB/before" "$LAB/during"

# A change of the fleet, and drift, don't touch it either.
fleet_network guest 2 hub:hub s1
fleet_rule guest all any any any
republish hub s1
on s1 nft delete table inet sdwand
wait_for "healed" 5 on s1 nft list table inet sdwand
foreign | grep -vE 'dev (wg-)?sdwan-2 ' >"$LAB/changed"
same "nor after a change and a repair" "$LAB/before" "$LAB/changed"

stop_daemon s1
check "down" sdw s1 down
foreign >"$LAB/after"
same "nor after down" "$LAB/before" "$LAB/after"
check "down again has nothing to do" sdw s1 down
foreign >"$LAB/after"
same "and does nothing" "$LAB/before" "$LAB/after"
