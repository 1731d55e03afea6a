#!/bin/bash
# The steps of WireGuard's own selftest (Linux, tools/testing/selftests/wireguard/netns.sh) about the ways between hosts, with
# a fleet and `sdwand` in place of `wg set`: sizes, sources, marks, ICMP errors, WireGuard in WireGuard, loops.
#
#     lanh ──lan0── hub ── wan ──up0── s2      network prod (1): hub ::1, s1 ::2, s2 ::3; s3 ::4 never comes
#                           │ └──up1───┘       network top (4): over prod, when that is in the main table
#                           s1                 network twin (3): hubs hub and s1
#
# Not ours: wg-quick's policy routes (a host may have them beside us: 08), and loops through links that were made in one
# network namespace and moved to another.
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s1 s2
lan hub lan0 lanh 10.30.0.1/24 fd00:30::1/64
everyone=(hub s1 s2)
nodes() {
  local host
  fleet_site
  fleet_node hub 1
  fleet_node s1 2
  fleet_node s2 3
  fleet_node s3 4
  for host in "${everyone[@]}"; do host_config "$host" '[reconcile]' 'interval_seconds = 1'; done
}
# fleet HUB-ENDPOINT [--key VALUE]…: everything is allowed in prod.
fleet() {
  fleet_network prod 1 "{ node = \"hub\", role = \"hub\", endpoints = [\"$1\"], lans = [
    { subnet = \"10.30.0.0/24\", interface = \"lan0\" }, { subnet = \"fd00:30::/64\", interface = \"lan0\" }] }" s1 s2 s3 "${@:2}"
  fleet_rule prod all any any any
}
# from_hub ADDRESS: wan lets UDP out of the hub from this address alone. Who is called elsewhere would go back there with the
# next packet of the hub's from where it was: it roams.
from_hub() {
  local it=ip other=ipv6
  if [[ $1 = *:* ]]; then it=ip6 other=ipv4; fi
  on wan nft -f - <<NFT
table inet only
delete table inet only
table inet only {
  chain forward {
    type filter hook forward priority 0
    iifname "to-hub" meta l4proto udp $it saddr != $1 drop
    iifname "to-hub" meta l4proto udp meta nfproto $other drop
  }
}
NFT
}
takes() { from_hub "$1"; fleet "$@"; republish "${everyone[@]}"; }
mtu() { ip -n "$1" -o link show "wg-sdwan-$2" | sed -n 's/.* mtu \([0-9]*\) .*/\1/p'; }
# at HOST NODE [NETWORK]: where HOST calls that node, or heard it last.
at() { on "$1" wg show "wg-sdwan-${3:-1}" endpoints | awk -v key="$(<"$LAB/keys/$2.pub")" '$1 == key { print $2 }'; }
sent() { on "$1" wg show "wg-sdwan-$2" transfer | awk '{ sent += $3 } END { printf "%.0f\n", sent }'; }
# sized HOST NETWORK ADDR SIZE: what a packet of SIZE bytes gets that nobody may fragment.
sized() {
  local headers=28 device
  [[ $3 != *:* ]] || headers=48
  if in_vrf "$1" "$2"; then device=sdwan-$2; else device=$(own_address "$1" "$2" "$3"); fi
  pinged "$1" "$3" -M "do" -s $(($4 - headers)) -I "$device"
}
# drops EXPRESSION…: wan drops and counts what matches, until `passes`; dropped_by_wan is how many that were.
drops() {
  local line
  {
    printf 'table inet way {\nchain forward {\ntype filter hook forward priority 0\n'
    for line; do echo "$line counter drop"; done
    printf '}\n}\n'
  } | on wan nft -f -
}
dropped_by_wan() { on wan nft -j list table inet way | jq '[.. | .counter? // empty | .packets] | add'; }
passes() { on wan nft delete table inet way; }

nodes
fleet "${V4[hub]}"
bring_up "${everyone[@]}"
for host in s1 s2; do wait_for "$host reaches the hub" 15 prints reply oping "$host" 1 "$(v6 1 1)"; done

# --- Jumbo packets: an underlay of 34,816 bytes, and a fleet that wants to use it.
for host in "${everyone[@]}"; do
  ip -n wan link set "to-$host" mtu 34816
  ip -n "$host" link set up0 mtu 34816
done
drops 'ip frag-off & 0x3fff != 0' 'exthdr frag exists'
expect "a wide underlay widens nothing by itself: both ends must want it" 1420 mtu hub 1
for family in 4 6; do
  case $family in
    4) hub=${V4[hub]} ;;
    6) hub=${V6[hub]} ;;
  esac
  takes "$hub" --mtu 34736
  for host in "${everyone[@]}"; do expect "over v$family, $host: the link takes 34,736 bytes" 34736 mtu "$host" 1; done
  for inner in 4 6; do
    wait_for "v$inner in v$family: 34,736 bytes pass whole" 15 prints reply sized s2 1 "$("v$inner" 1 1)" 34736
    expect "v$inner in v$family: so they do the other way" reply sized hub 1 "$("v$inner" 1 3)" 34736
    wait_for "v$inner in v$family: from spoke to spoke" 15 prints reply sized s1 1 "$("v$inner" 1 3)" 34736
    expect "v$inner in v$family: not one byte more" '@(error|silence|unreachable)*' sized s2 1 "$("v$inner" 1 1)" 34737
    if has_tool iperf3; then check "v$inner in v$family: TCP" streams hub s2 1 "$("v$inner" 1 1)"; fi
  done
done
expect "nothing was fragmented outside" 0 dropped_by_wan
passes
for host in "${everyone[@]}"; do
  ip -n "$host" link set up0 mtu 1500
  ip -n wan link set "to-$host" mtu 1500
done

# --- Sizes that are no multiple of what WireGuard pads to.
takes "${V4[hub]}" --mtu 1300
wait_for "with 1,300 bytes the hub is reached" 15 prints reply oping s2 1 "$(v4 1 1)"
drops 'ip protocol udp meta length 1360'
if has_wireguard; then
  wait_for "1,297 bytes are padded to 1,300: 1,360 outside" 10 prints silence sized s2 1 "$(v4 1 1)" 1297
  ip -n s2 route add "$(v4 1 1)" dev wg-sdwan-1 src "$(v4 1 3)" mtu 1299 metric 5 table 10001
  ip -n hub route add "$(v4 1 3)" via inet6 fe80::3 dev wg-sdwan-1 src "$(v4 1 1)" mtu 1299 metric 5 table 10001
  expect "with routes of 1,299 bytes to 1,299, and pass" reply sized s2 1 "$(v4 1 1)" 1297
  ip -n s2 route del "$(v4 1 1)" metric 5 table 10001
  ip -n hub route del "$(v4 1 3)" metric 5 table 10001
else
  skip "kernel WireGuard: padding to a route's MTU; an embedded device pads to its own"
fi
passes
# What sdwand makes of such a way: what is padded never exceeds it, with either.
takes "${V4[hub]}"
ip -n s2 route add "${V4[hub]}" via "${V4[s2]%.*}.1" mtu 1359
ip -n hub route add "${V4[s2]}" via "${V4[hub]%.*}.1" mtu 1359
wait_for "a way of 1,359 bytes: a link of 1,296" 10 prints 1296 mtu s2 1
narrow() { ip -n hub route show table all "$(v4 1 3)" | sed -n 's/.* mtu \([0-9]*\).*/\1/p'; }
wait_for "and a route, at the hub" 10 prints 1296 narrow
drops "ip saddr ${V4[s2]} meta length > 1359" "ip daddr ${V4[s2]} meta length > 1359"
for size in 1281 1289 1295 1296; do expect "$size bytes pass" reply sized s2 1 "$(v4 1 1)" "$size"; done
expect "1,297 don't leave" '@(error|unreachable|silence)*' sized s2 1 "$(v4 1 1)" 1297
expect "and nothing was too large outside" 0 dropped_by_wan
passes
ip -n s2 route del "${V4[hub]}" via "${V4[s2]%.*}.1"
ip -n hub route del "${V4[s2]}" via "${V4[hub]%.*}.1"

# --- Sources: not stuck to an address that is gone.
set_sysctl s2 net.ipv4.conf.all.promote_secondaries=1
moves() { # FAMILY OLD NEW LENGTH: s2's address changes; the next packet passes, and the hub knows.
  addresses s2 up0 "$3/$4"
  ip -n s2 addr del "$2/$4" dev up0
  case $1 in
    4) ip -n s2 route replace default via "${V4[s2]%.*}.1" ;;
    6) ip -n s2 -6 route replace default via "${V6[s2]%::2}::1" ;;
  esac
  expect "v$1: s2's address is another one: the next packet passes" reply oping s2 1 "$("v$1" 1 1)"
  expect "v$1: and the hub answers there" "?(\[)$3?(\]):51820" at hub s2
  expect "v$1: and calls there" reply oping hub 1 "$("v$1" 1 3)"
}
moves 4 "${V4[s2]}" "${V4[s2]%.*}.10" 24
takes "${V6[hub]}"
wait_for "over v6" 15 prints reply oping s2 1 "$(v6 1 1)"
moves 6 "${V6[s2]}" "${V6[s2]%::2}::10" 64

# Who is called at one of several addresses answers from that one.
addresses hub up0 "${V4[hub]%.*}.9/24" "${V6[hub]%::2}::9/64"
addresses hub lo 198.19.0.1/32 2001:db8:1::1/128
ip -n wan route add 198.19.0.1 via "${V4[hub]}"
ip -n wan -6 route add 2001:db8:1::1 via "${V6[hub]}"
if has_wireguard; then
  for address in "${V4[hub]%.*}.9" "${V6[hub]%::2}::9" 198.19.0.1 2001:db8:1::1; do
    takes "$address"
    wait_for "called at $address, the hub answers from there" 15 prints reply oping s2 1 "$(v6 1 1)"
    expect "$address is where it is" "?(\[)$address?(\]):51820" at s2 hub
  done
else
  skip "kernel WireGuard: an embedded device answers from the address that the route back has"
fi
takes "${V4[hub]}"
wait_for "called at its first address again, the hub answers" 15 prints reply oping s2 1 "$(v6 1 1)"

# A better way takes over at once.
mklink s2 up1 wan to-s2-too
addresses wan to-s2-too 198.19.1.1/24
addresses s2 up1 198.19.1.2/24
set_sysctl s2 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.up0.rp_filter=0 net.ipv4.conf.up1.rp_filter=0
ip -n s2 route add "${V4[hub]}" via 198.19.1.1
expect "with a better way the next packet passes" reply oping s2 1 "$(v4 1 1)"
expect "over that" 198.19.1.2:51820 at hub s2
ip -n s2 route del "${V4[hub]}"
expect "without it, too" reply oping s2 1 "$(v4 1 1)"
expect "over the other" "${V4[s2]%.*}.10:51820" at hub s2

# --- A mark that an operator sets on the way out, and for which the packet is routed again.
on s2 nft -f - <<'NFT'
table inet marks {
  chain output { type route hook output priority mangle; meta mark set 1; }
}
NFT
for family in 4 6; do expect "v$family: marked packets pass" reply oping s2 1 "$("v$family" 1 1)"; done
on s2 nft delete table inet marks

# --- Who sends to a peer that can't be called is told, on the way back.
if has_wireguard && has_vrf; then
  for family in 4 6; do expect "v$family: from the LAN to s3, which never came" unreachable pinged lanh "$("v$family" 1 4)"; done
else
  skip "kernel WireGuard and VRFs: ICMP errors about packets in transit"
fi

# --- WireGuard in WireGuard: top is called over prod.
nodes
fleet "${V4[hub]}" --isolation '"none"'
top() { # HUB-ENDPOINT
  fleet_network top 4 "{ node = \"hub\", role = \"hub\", endpoints = [\"$1\"] }" s2
  fleet_rule top ping any any icmp
}
top "$(v6 1 1)"
republish "${everyone[@]}"
for family in 4 6; do wait_for "v$family in WireGuard in WireGuard" 15 prints reply oping s2 4 "$("v$family" 4 1)"; done
expect "the hub is called at its address in the other network" "\[$(v6 1 1)\]:51823" at s2 hub 4
wait_for "the inner link takes what fits into the outer: 1,420 less 80, in steps of 16" 10 prints 1328 mtu s2 4
expect "1,328 bytes pass whole" reply sized s2 4 "$(v4 4 1)" 1328
expect "with nothing left to do" 0 eval 'sdw s2 plan >/dev/null; echo $?'
before=$(sent s2 1)
oloss s2 4 10 0.02 "$(v6 4 1)" >"$LAB/loss" 2>/dev/null
expect "no packet is lost" 0 cat "$LAB/loss"
check "they went through the outer one" eval '(( $(sent s2 1) - before >= 10 * 200 ))'

# A network that may be called through itself is told of, by name. Nothing of this fleet is applied.
fleet "$(v6 1 1)" --isolation '"none"'
printf '%s\n' 'format = 1' 'node = "s2"' 'private_key_file = "/etc/sdwand/node.key"' '[fleet]' "dir = \"$FLEET\"" \
  >"$LAB/hosts/s2/etc/inside.toml"
status "a hub that is called at its own address in the network" 0 sdw s2 --config /etc/sdwand/inside.toml check
check "is named" grep -F "endpoint $(v6 1 1) of node \"hub\" is in network \"prod\" itself" "$LAB/said"
fleet "${V4[hub]}" --isolation '"none"'
if has_wireguard; then
  # By hand it can be done: each turn makes a packet larger, until it is too large. The selftest's bound is 70,000 bytes for one
  # of the two devices that its loop goes through; here one is both.
  loop() { # the bytes that ten pings become
    local before
    before=$(sent s2 1)
    oloss s2 1 10 0.02 "$(v4 1 1)" >/dev/null 2>&1 || true
    echo $(($(sent s2 1) - before))
  }
  stop_daemon s2
  on s2 wg set wg-sdwan-1 peer "$(<"$LAB/keys/hub.pub")" endpoint "$(v4 1 1):51820"
  bytes=$(loop)
  note "ten pings into a loop: $bytes bytes"
  check "a loop is bounded" eval '(( bytes > 0 && bytes < 140000 ))'
  on s2 wg set wg-sdwan-1 peer "$(<"$LAB/keys/hub.pub")" endpoint "${V4[hub]}:51820"
  start_daemon s2
  wait_for "without it the hub is reached" 15 prints reply oping s2 1 "$(v6 1 1)"
fi
publish s2

# --- A loop of routes: each of two hubs takes the other for the way.
rm "$FLEET/20-top.toml"
fleet "${V4[hub]}"
hub() { echo "{ node = \"$1\", role = \"hub\", endpoints = [\"${V4[$1]}\"] }"; }
fleet_network twin 3 "$(hub hub)" "$(hub s1)" '{ node = "s3", lans = [{ subnet = "10.40.0.0/24", interface = "lan0" }] }'
fleet_rule twin all any any any
republish "${everyone[@]}"
wait_for "the hubs reach each other" 15 prints reply oping hub 3 "$(v6 3 2)"
ip -n hub route add 10.40.0.0/24 via inet6 fe80::2 dev wg-sdwan-3 metric 20 table 10003
ip -n s1 route add 10.40.0.0/24 via inet6 fe80::1 dev wg-sdwan-3 metric 20 table 10003
carries() { [[ $(on "$1" wg show wg-sdwan-3 allowed-ips | awk -v key="$(<"$LAB/keys/$2.pub")" '$1 == key') = *10.40.0.0/24* ]]; }
wait_for "the hub follows its route" 10 carries hub s1
wait_for "s1 follows its" 10 carries s1 hub
before=$(sent hub 3)
expect "a packet into the loop gets no answer" "$NO_PING" oping hub 3 10.40.0.10
bytes=$(($(sent hub 3) - before))
note "a ping into a loop of routes: $bytes bytes"
check "it went there, and what comes back isn't s1's to send: the end" eval '(( bytes >= 128 && bytes < 70000 ))'
expect "the hubs still reach each other" reply oping hub 3 "$(v6 3 2)"

stop_daemon "${everyone[@]}"
for host in "${everyone[@]}"; do
  check "$host: down" sdw "$host" down
done
for host in hub s1; do ip -n "$host" route flush table 10003; done
for host in "${everyone[@]}"; do expect "$host: nothing of ours is left" '' left_over "$host"; done
