#!/bin/bash
# Links are as large as the ways to the peers take, and what is too large anywhere is told to who sent it.
#
#     lh ──lan0── s1 ──1400── wan ── hub      network v6: the hub by its v6 endpoint; v4: by its v4 one
#                                             network given: mtu = 1412 in the fleet
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1
underlay hub s1
lan s1 lan0 lh 10.10.0.1/24 fd0a::1/64
ip -n s1 link set up0 mtu 1400
ip -n wan link set to-s1 mtu 1400
fleet_site
fleet_node hub 1
fleet_node s1 2
at() { echo "{ node = \"hub\", role = \"hub\", endpoints = [\"$1\"] }"; }
spoke='{ node = "s1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd0a::/64", interface = "lan0" }] }'
fleet_network v6 1 "$(at "${V6[hub]}")" "$spoke" --keepalive_seconds 1
fleet_network v4 2 "$(at "${V4[hub]}")" s1 --keepalive_seconds 1
fleet_network given 3 "$(at "${V6[hub]}")" s1 --keepalive_seconds 1 --mtu 1412
for network in v6 v4 given; do fleet_rule "$network" ping any any icmp; done
fleet_rule v6 echo any any tcp 7000
bring_up hub s1
mtu() { ip -n "$1" -o link show "wg-sdwan-$2" | sed -n 's/.* mtu \([0-9]*\) .*/\1/p'; }
wait_for "over IPv6: 1400 less 80" 10 prints 1320 mtu s1 1
wait_for "over IPv4: 1400 less 60" 10 prints 1340 mtu s1 2
expect "what the fleet gives stays" 1412 mtu s1 3
expect "the hub's own way is wider" 1420 mtu hub 1
expect "nothing is left to do" 0 eval 'sdw s1 plan >/dev/null; echo $?'
wait_for "the hub is reached" 15 prints reply oping s1 1 "$(v6 1 1)"
wait_for "over IPv4" 15 prints reply oping s1 2 "$(v4 2 1)"

# --- The largest packets pass whole, both ways, in both families; larger ones are refused, by name.
# fits HOST NETWORK ADDR SIZE: a packet of SIZE bytes that nobody may fragment is answered.
fits() {
  local headers=28
  [[ $3 != *:* ]] || headers=48
  [[ $(oping "$1" "$2" "$3" -M do -s $(($4 - headers))) = reply ]]
}
check "1320 bytes, v6 in v6" fits s1 1 "$(v6 1 1)" 1320
check "1320 bytes, v4 in v6" fits s1 1 "$(v4 1 1)" 1320
check "1340 bytes, v4 in v4" fits s1 2 "$(v4 2 1)" 1340
refute "1321 bytes are refused" fits s1 1 "$(v6 1 1)" 1321
on s1 tcpdump -n -U -i up0 -w "$LAB/up0.pcap" 'ip6 proto 44 or (ip[6:2] & 0x3fff != 0)' >"$LAB/tcpdump" 2>&1 &
dump=$!
listens() { grep -q 'listening on' "$LAB/tcpdump"; }
wait_for "tcpdump listens" 10 listens

# --- A LAN behind the link hears what fits (PTB), and TCP never sends more (MSS).
told() { # HOST ADDR SIZE PATTERN: an unfragmentable packet is answered with the size that fits
  on "$1" ping -n -c 2 -i 0.3 -W 1 -M "do" -s "$3" "$2" 2>&1 | grep -E "$4" >/dev/null
}
check "v4: the LAN host is told 1320" told lh "$(v4 1 1)" 1372 'mtu ?= ?1320'
check "v6: the LAN host is told 1320" told lh "$(v6 1 1)" 1352 'mtu ?= ?1320'
ip -n s1 link set lan0 mtu 1280
in_lan() { if in_vrf hub 1; then echo sdwan-1; else own_address hub 1 "$1"; fi; }
check "v4: from inside a LAN, through the overlay" eval "on hub ping -n -c 2 -i 0.3 -W 1 -M 'do' -s 1272 -I $(in_lan 10.10.0.10) 10.10.0.10 2>&1 | grep -E 'mtu ?= ?1280'"
check "v6: from inside a LAN, through the overlay" eval "on hub ping -n -c 2 -i 0.3 -W 1 -M 'do' -s 1252 -I $(in_lan fd0a::10) fd0a::10 2>&1 | grep -E 'mtu ?= ?1280'"
ip -n s1 link set lan0 mtu 1500
kill "$dump"
wait "$dump" 2>/dev/null || true
expect "no outer packet was fragmented" 0 eval "tcpdump -n -r '$LAB/up0.pcap' 2>/dev/null | wc -l"

# --- The way changes.
ip -n s1 link set up0 mtu 1500
ip -n wan link set to-s1 mtu 1500
wait_for "a wider way: a larger link" 10 prints 1420 mtu s1 1
ip -n s1 -6 route replace default via "${V6[s1]%::2}::1" mtu 1380
wait_for "a route's own MTU counts, at the next round" 40 prints 1300 mtu s1 1
expect "that of the other family doesn't" 1420 mtu s1 2
expect "nothing is left to do" 0 eval 'sdw s1 plan >/dev/null; echo $?'
