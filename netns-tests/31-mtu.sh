#!/bin/bash
# Links are as large as the ways to the peers take, and what is too large anywhere is told to who sent it.
#
#     lh ──lan0── s1 ──1400── wan ── hub      network v6: the hub by its v6 endpoint; v4: by its v4 one
#                       s2 ────┘               network given: mtu = 1300 in the fleet; s2 is in v6 alone
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s1 s2
lan s1 lan0 lh 10.10.0.1/24 fd0a::1/64
ip -n s1 link set up0 mtu 1400
ip -n wan link set to-s1 mtu 1400
fleet_site
fleet_node hub 1
fleet_node s1 2
fleet_node s2 3
at() { echo "{ node = \"hub\", role = \"hub\", endpoints = [\"$1\"] }"; }
spoke='{ node = "s1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd0a::/64", interface = "lan0" }] }'
fleet_network v6 1 "$(at "${V6[hub]}")" "$spoke" s2 --keepalive_seconds 1
fleet_network v4 2 "$(at "${V4[hub]}")" s1 --keepalive_seconds 1
fleet_network given 3 "$(at "${V6[hub]}")" s1 --keepalive_seconds 1 --mtu 1300
for network in v6 v4 given; do fleet_rule "$network" ping any any icmp; done
fleet_rule v6 echo any any tcp 7000
for host in hub s1; do host_config "$host" '[reconcile]' 'interval_seconds = 1'; done
bring_up hub s1 s2
mtu() { ip -n "$1" -o link show "wg-sdwan-$2" | sed -n 's/.* mtu \([0-9]*\) .*/\1/p'; }
wait_for "over IPv6: 1400 less 80, in steps of 16" 10 prints 1312 mtu s1 1
wait_for "over IPv4: 1400 less 60, in steps of 16" 10 prints 1328 mtu s1 2
expect "what the fleet gives stays" 1300 mtu s1 3
expect "the hub's own way is wider" 1420 mtu hub 1
expect "nothing is left to do" 0 eval 'sdw s1 plan >/dev/null; echo $?'
wait_for "the hub is reached" 15 prints reply oping s1 1 "$(v6 1 1)"
wait_for "over IPv4" 15 prints reply oping s1 2 "$(v4 2 1)"

# device HOST NETWORK ADDR: what ping binds to in the network.
device() { if in_vrf "$1" "$2"; then echo "sdwan-$2"; else own_address "$1" "$2" "$3"; fi; }

# --- The largest packets pass whole, both ways, in both families; larger ones are refused, by name.
# fits HOST NETWORK ADDR SIZE: a packet of SIZE bytes that nobody may fragment is answered.
fits() {
  local headers=28
  [[ $3 != *:* ]] || headers=48
  [[ $(pinged "$1" "$3" -M "do" -s $(($4 - headers)) -I "$(device "$1" "$2" "$3")") = reply ]]
}
check "1312 bytes, v6 in v6" fits s1 1 "$(v6 1 1)" 1312
check "1312 bytes, v4 in v6" fits s1 1 "$(v4 1 1)" 1312
check "1328 bytes, v4 in v4" fits s1 2 "$(v4 2 1)" 1328
refute "1313 bytes are refused" fits s1 1 "$(v4 1 1)" 1313
on s1 tcpdump -n -U -i up0 -w "$LAB/up0.pcap" \
  "src ${V6[s1]} and ip6 proto 44 or src ${V4[s1]} and ip[6:2] & 0x3fff != 0" >"$LAB/tcpdump" 2>&1 &
dump=$!
listens() { grep -q 'listening on' "$LAB/tcpdump"; }
wait_for "tcpdump listens" 10 listens

explained() { # HOST SRC DST SIZE: the verdict, and what is in the way
  { sdw "$1" explain "$2" "$3" icmp --network v6 --size "$4" --json || true; } | jq -r '"\(.verdict) \(.blocker.check) \(.mtu)"'
}
wait_for "explain: so much passes" 10 prints 'allow null 1312' explained s1 s1 hub 1312
expect "explain: more doesn't" 'unreachable mtu 1312' explained s1 s1 hub 1313

# --- TCP never sends more than fits (MSS), before anyone was told.
oserve hub 1 "tcp,$(v4 1 1),7000" "tcp,$(v6 1 1),7000"
on s1 tcpdump -n -l -i wg-sdwan-1 'tcp port 7000' >"$LAB/syn.leaves" 2>"$LAB/syn.leaves.log" &
dumps=($!)
on lh tcpdump -n -l -i eth0 'tcp port 7000' >"$LAB/syn.comes" 2>"$LAB/syn.comes.log" &
dumps+=($!)
both_listen() { grep -q 'listening on' "$LAB/syn.leaves.log" && grep -q 'listening on' "$LAB/syn.comes.log"; }
require wait_for "tcpdump listens to TCP" 10 both_listen
# asks FILE FAMILY FLAGS: the segments that the first packet with these flags asks for.
asks() { sed -n "s/.* $2 .*Flags \[$3\].*options \[mss \([0-9]*\).*/\1/p" "$LAB/$1" | head -n 1; }
for family in IP:4:1272:1460 IP6:6:1252:1440; do
  IFS=: read -r name number segments full <<<"$family"
  expect "v$number: TCP from the LAN" ok asked lh "tcp,$("v$number" 1 1),7000"
  wait_for "v$number: asks for segments that fit" 5 prints "$segments" asks syn.leaves "$name" S
  wait_for "v$number: and is asked for them, though the hub's own way is wider" 5 prints "$segments" asks syn.comes "$name" S.
  expect "v$number: where the LAN host knew of no more than its own link" "$full" asks syn.comes "$name" S
done
kill "${dumps[@]}"
wait "${dumps[@]}" 2>/dev/null || true

# --- A LAN behind the link hears what fits (PTB).
told() { # HOST ADDR SIZE PATTERN [ping options]: an unfragmentable packet is answered with the size that fits
  { on "$1" ping -n -c 2 -i 0.3 -W 1 -M "do" -s "$3" "${@:5}" "$2" 2>&1 || true; } | grep -E "$4"
}
check "v4: the LAN host is told 1312" told lh "$(v4 1 1)" 1372 'mtu ?= ?1312'
check "v6: the LAN host is told 1312" told lh "$(v6 1 1)" 1352 'mtu ?= ?1312'
ip -n s1 link set lan0 mtu 1280
# Without VRFs an IPv4 error about a packet in transit finds no way: see the README.
if in_vrf s1 1; then
  check "v4: from inside a LAN, through the overlay" told hub 10.10.0.10 1272 'mtu ?= ?1280' -I sdwan-1
else
  skip "without VRFs nobody is told of IPv4 packets in transit that are too large"
fi
check "v6: from inside a LAN, through the overlay" told hub fd0a::10 1252 'mtu ?= ?1280' -I "$(device hub 1 fd0a::10)"
ip -n s1 link set lan0 mtu 1500
kill "$dump"
wait "$dump" 2>/dev/null || true
expect "no outer packet was fragmented" 0 eval "tcpdump -n -r '$LAB/up0.pcap' 2>/dev/null | wc -l"

# --- A restart finds out how narrow the way is before it changes anything.
if has_wireguard; then
  on s1 ip monitor link address route rule >"$LAB/monitor" 2>&1 &
  monitor=$!
  hears() { # a change of nobody's proves that it listens
    on s1 sh -c 'ip route add 192.0.2.99/32 dev lo; ip route del 192.0.2.99/32 dev lo'
    [[ -s $LAB/monitor ]]
  }
  require until_ok 5 hears
  kill_daemon s1
  start_daemon s1
  wait_for "after a restart nothing is left to do" 10 converged s1
  kill "$monitor"
  wait "$monitor" 2>/dev/null || true
  expect "and nothing was changed" '' eval "grep -v '192.0.2.99' '$LAB/monitor' || true"
else
  skip "an embedded device is made anew with its daemon"
fi

# --- The way changes.
ip -n s1 link set up0 mtu 1500
ip -n wan link set to-s1 mtu 1500
wait_for "a wider way: a larger link" 10 prints 1420 mtu s1 1
ip -n s1 -6 route replace default via "${V6[s1]%::2}::1" mtu 1380
wait_for "a route's own MTU counts, at the next round" 10 prints 1296 mtu s1 1
expect "that of the other family doesn't" 1420 mtu s1 2
expect "nothing is left to do" 0 eval 'sdw s1 plan >/dev/null; echo $?'

# --- One narrow way doesn't narrow the others: it is on the routes to that peer.
ip -n s1 -6 route replace default via "${V6[s1]%::2}::1"
ip -n hub -6 route add "${V6[s1]}/128" via "${V6[hub]%::2}::1" mtu 1400
table() { if in_vrf hub 1; then echo 10001; else echo all; fi; }
route_mtu() { ip -n hub -6 route show table "$(table)" "$1" | sed -n 's/.* mtu \([0-9]*\).*/\1/p'; }
wait_for "the hub's routes to s1 take what the way there takes" 10 prints 1312 route_mtu "$(v6 1 2)"
expect "and those to s2 what the link takes" '' route_mtu "$(v6 1 3)"
expect "which is as it was" 1420 mtu hub 1
expect "explain knows the route's" 'unreachable mtu 1312' explained hub hub s1 1420
wait_for "and the link's" 10 prints 'allow null 1420' explained hub hub s2 1420
expect "nothing is left to do" 0 eval 'sdw hub plan >/dev/null; echo $?'
wait_for "s2 reaches s1 through the hub" 15 prints reply oping s2 1 "$(v6 1 2)"
check "who sends to s1 through the hub is told 1312" told s2 "$(v6 1 2)" 1372 'mtu ?= ?1312' -I "$(device s2 1 "$(v6 1 2)")"
ip -n hub -6 route del "${V6[s1]}/128" via "${V6[hub]%::2}::1"
wait_for "a way that is wider again takes more" 10 prints '' route_mtu "$(v6 1 2)"

# --- A black hole: what is too large vanishes on the way, and nobody is told.
holes() { state "$1" '[.notices[] | select(.text | contains("vanish")) | .text] | join("; ")'; }
expect "s1 knows of none" '' holes s1
doctor() { { sdw s1 doctor --json || true; } | jq -r '.checks[] | select(.check == "mtu") | "\(.verdict) \(.text) \(.fix)"'; }
expect "nor does doctor" 'ok *' doctor
on wan nft -f - <<'NFT'
table inet hole {
  chain forward { type filter hook forward priority filter; meta length > 1420 counter drop; }
}
NFT
wait_for "it is named, with what passes" 90 prints '*packets of 1420 bytes vanish on the way to hub at *those of 13[23]? arrive*give network v6 mtu = 13[23]?*' holes s1
expect "doctor says the same" 'warning *packets of 1420 bytes vanish*give network v6 mtu = 13[23]?*' doctor
passes=$(holes s1 | sed -n 's/.*those of \([0-9]*\) arrive.*/\1/p')
check "so much really passes" fits s1 1 "$(v6 1 1)" "$passes"
expect "and explain says so" "allow null $passes" explained s1 s1 hub "$passes"
refute "what is larger, and no link refuses, does not" fits s1 1 "$(v6 1 1)" $((passes + 16))
expect "and explain says so" "unreachable mtu $passes" explained s1 s1 hub $((passes + 16))
fix() { { sdw s1 explain s1 hub icmp --network v6 --size 1420 --json || true; } | jq -r '"\(.blocker.node) \(.blocker.fix)"'; }
expect "with the fix that status names" "s1 give network v6 mtu = $passes on every host, *" fix
expect "of an echo reply as well" 'unreachable mtu s1 true' eval \
  '{ sdw s1 explain hub s1 icmp --network v6 --size 1420 --json || true; } | jq -r "\"\(.verdict) \(.blocker.check) \(.blocker.node) \(.blocker.of_answer)\""'
refute "which doesn't come" fits hub 1 "$(v6 1 2)" 1420
noted() { sdw s1 explain s1 hub icmp --network v6 --json | jq -r '.verdict + " " + (.hops[0].checks[] | select(.check == "mtu") | .passes + " " + .text)'; }
expect "without a size it is noted" 'allow note packets of 1420 bytes vanish on the way to hub at *' noted
on wan nft delete table inet hole
wait_for "once packets of full size arrive it is gone" 60 prints '' holes s1
wait_for "explain knows that they do" 60 prints 'allow null 1420' explained s1 s1 hub 1420
if has_wireguard; then
  kill -STOP "${DAEMON[s1]}"
  expect "a daemon that doesn't answer isn't waited for, and it says that this isn't known" 'unknown null 1420' explained s1 s1 hub 1420
  kill -CONT "${DAEMON[s1]}"
  stop_daemon s1
  expect "nor without one" 'unknown null 1420' explained s1 s1 hub 1420
  expect "not of what any way takes" 'allow null 1420' explained s1 s1 hub 128
  expect "and notes it without a size" 'allow note whether large packets reach hub isn*t known: no daemon *' noted
else
  skip "an embedded device goes with its daemon"
fi
