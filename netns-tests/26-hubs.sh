#!/bin/bash
# Several hubs: a spoke's routes go over the first that is alive, and come back; each hub keeps its own addresses.
#
#     s1 ─┐       ┌─ h1        network prod (1), both families, a LAN behind s2
#         ├─ wan ─┤
#     s2 ─┘       └─ h2
#     │ lan0
#     lanb
. "$(dirname "$0")/lab/lib.sh"

mkhost h1 h2 s1 s2
underlay h1 h2 s1 s2
lan s2 lan0 lanb 10.20.0.1/24 fd00:20::1/64
fleet_site
fleet_node h1 1 "${V4[h1]}"
fleet_node h2 2 "${V4[h2]}"
fleet_node s1 3
fleet_node s2 4
fleet_network prod 1 hub:h1 hub:h2 s1 '{ node = "s2", lans = [
  { subnet = "10.20.0.0/24", interface = "lan0" }, { subnet = "fd00:20::/64", interface = "lan0" }] }'
fleet_rule prod ping any any icmp
fleet_rule prod echo any any udp 7000
bring_up h1 h2 s1 s2
FAR4=10.20.0.10 FAR6=fd00:20::10

# over HOST HUB: the host's routes go over that hub, by its status and by its kernel.
over() {
  local link=wg-sdwan-1
  [[ $2 = h1 ]] || link=wg-sdwan-1-2
  [[ $(state "$1" '.networks[0].active_hub') = "$2" ]] &&
    [[ $(ip -n "$1" -6 route show table 10001 "$SITE_PREFIX:1::/64") = *"dev $link "* ]]
}
# heard HOST: how its hubs are, `h1 h2`.
heard() { state "$1" '[.networks[0].links[].hub] | join(" ")'; }
# pinging FILE ADDR: pings from s1 every 50 ms until `pinged_out`.
pinging() {
  local from=()
  if in_vrf s1 1; then from=(-I sdwan-1); else from=(-I "$(own_address s1 1 "$2")"); fi
  (exec nsenter --target "${HOST_PID[s1]}" --net --mount -- ping -n -D -i 0.05 "${from[@]}" "$2") >"$1" 2>&1 &
  PINGER=$!
}
pinged_out() { kill -INT "$PINGER"; wait "$PINGER" || true; }
# outage FILE: the longest time without a reply, in ms.
outage() { sed -n 's/^\[\([0-9.]*\)\].* bytes from.*/\1/p' "$1" | awk 'last && $1 - last > most { most = $1 - last } { last = $1 } END { printf "%d\n", most * 1000 }'; }
lossless() { oloss "$@" 2>/dev/null; }
lost() { sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\1 \2/p' "$1" | { read -r sent got; echo $((sent - got)); }; }
replies() { grep -c 'bytes from' "$1" || true; }
more_replies() { (( $(replies "$1") > $2 )); }

for host in s1 s2; do
  wait_for "$host: over the first hub" 15 over "$host" h1
  wait_for "$host: both hubs are heard" 15 prints 'live live' heard "$host"
done
wait_for "the LAN behind the other spoke, v4" 15 prints reply oping s1 1 "$FAR4"
wait_for "v6" 15 prints reply oping s1 1 "$FAR6"
for hub in 1 2; do expect "hub $hub's own address" reply oping s1 1 "$(v6 1 $hub)"; done

# --- Nothing happens: hubs are asked every second, and nothing is written.
on s1 ip monitor link address route rule >"$LAB/quiet" 2>&1 &
watcher=$!
heard_write() {
  on s1 sh -c 'ip route add 192.0.2.99/32 dev lo; ip route del 192.0.2.99/32 dev lo'
  [[ -s $LAB/quiet ]]
}
until_ok 5 heard_write
asked=$(state s1 '[.networks[0].links[].peers[].rx_bytes] | add')
goes_on() { (( $(state s1 '[.networks[0].links[].peers[].rx_bytes] | add') > asked + 1000 )); }
wait_for "idle hubs answer questions" 30 goes_on
kill $watcher
expect "and nothing is written" '' grep -v '192\.0\.2\.99' "$LAB/quiet"

# --- The first hub dies under load.
pinging "$LAB/dies" "$FAR6"
require wait_for "pings run" 10 more_replies "$LAB/dies" 20
ip -n wan link set to-h1 down
for host in s1 s2; do wait_for "$host: over the second hub" 20 over "$host" h2; done
seen=$(replies "$LAB/dies")
wait_for "packets flow again" 10 more_replies "$LAB/dies" $((seen + 20))
pinged_out
took=$(outage "$LAB/dies")
note "a hub dies: $took ms without a reply, $(lost "$LAB/dies") pings of 20 a second lost"
check "within 8 s" test "$took" -lt $((8000 * LAB_SLOW))
expect "s1 says why" 'silent live' heard s1
check "and it is an event" jq -eRn '[inputs | fromjson? | select(.event == "uplink.moved")] | last |
  .network == "prod" and .reason == "hub h2 takes over from h1, which is silent"' "$LAB/hosts/s1/daemon.log"
expect "none is lost any more, v4" 0 lossless s1 1 50 0.02 "$FAR4"
expect "v6" 0 lossless s1 1 50 0.02 "$FAR6"
expect "hub 2's own address" reply oping s1 1 "$(v6 1 2)"
check "hub 1's stays on its link" eval '[[ $(ip -n s1 -6 route show table 10001 "$(v6 1 1)") = *"dev wg-sdwan-1 "* ]]'
status "there is nothing to do" 0 sdw s1 plan

# --- A restart keeps what carries.
if has_wireguard; then
  ip -n s1 monitor route >"$LAB/restart" 2>&1 &
  watcher=$!
  kill_daemon s1
  start_daemon s1
  wait_for "s1, started anew: hub 1 is silent" 15 prints 'silent live' heard s1
  check "over the second hub" over s1 h2
  kill $watcher
  expect "without a route touched" '' cat "$LAB/restart"
  stop_daemon s1
  check "apply without a daemon" sdw s1 apply
  check "leaves it there" over s1 h2
  start_daemon s1
else
  skip "kernel WireGuard: that routes outlive the daemon"
fi

# --- It comes back.
pinging "$LAB/back" "$FAR6"
ip -n wan link set to-h1 up
start=$(now_ms)
for host in s1 s2; do wait_for "$host: back over the first hub" 90 over "$host" h1; done
note "back after $(( $(now_ms) - start )) ms"
seen=$(replies "$LAB/back")
wait_for "packets flow on" 10 more_replies "$LAB/back" $((seen + 20))
pinged_out
took=$(outage "$LAB/back")
note "a hub comes back: $took ms without a reply at most, $(lost "$LAB/back") pings lost"
check "within a second" test "$took" -lt $((1000 * LAB_SLOW))

# --- The second hub dies: nobody notices.
ip -n wan link set to-h2 down
wait_for "s1: hub 2 is silent" 20 prints 'live silent' heard s1
check "s1 stays on the first" over s1 h1
expect "nothing is lost" 0 lossless s1 1 50 0.02 "$FAR6"
ip -n wan link set to-h2 up
wait_for "hub 2 is heard again" 60 prints 'live live' heard s1

# --- One spoke loses one hub: what it sends over the other is accepted.
serve lanb "udp,$FAR6,7000"
on wan nft -f - <<NFT
table ip cut {
  chain forward {
    type filter hook forward priority 0; policy accept;
    ip saddr ${V4[s1]} ip daddr ${V4[h1]} drop
    ip saddr ${V4[h1]} ip daddr ${V4[s1]} drop
  }
}
NFT
wait_for "s1 alone: over the second hub" 20 over s1 h2
check "s2 stays on the first" over s2 h1
oasked s1 1 "udp,$FAR6,7000" --payload by-the-other-hub >"$LAB/asked" 2>&1 || true
check "what comes to s2 over hub 2 is accepted" arrived lanb by-the-other-hub
note "and the answer over hub 1, which s1 has lost: $(cat "$LAB/asked")"
on wan nft delete table ip cut
wait_for "s1: back over the first hub" 90 over s1 h1
wait_for "both ways" 10 prints reply oping s1 1 "$FAR6"

stop_daemon h1 h2 s1 s2
for host in h1 h2 s1 s2; do
  check "$host: down" sdw "$host" down
  expect "$host: nothing of ours is left" '' left_over "$host"
done
