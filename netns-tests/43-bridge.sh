#!/bin/bash
# A bridge between two sites, by their fleets and what `serve` would hand over: LANs and spokes of both reach each other
# through their hubs, as far as both sites say and a rule names the peer.
#
#     lana ── a1 ──┐                                    ┌── b1 ── lanb
#              a2 ─┴─ ha ── wan ── nat ── hb ───────────┴─ b2
#
#     site-a fd12:34ab:cd42::/48: prod (1), ha ::1, a1 ::2, a2 ::3, LAN 10.10.0.0/24 and fd00:10::/64 behind a1
#     site-b fd77:1:2::/48: lab (5), hb ::1, b1 ::2, b2 ::3, LAN 10.20.0.0/24 and fd00:20::/64 behind b1
#     hb is behind NAT: only it can call. Each site imports the other's overlay and LAN.
#     site-c fd88:1:2::/48: far (7), hc ::1. It has a bridge to site b, and tries to reach site a through that.
. "$(dirname "$0")/lab/lib.sh"

mkhost ha a1 a2 hb b1 b2 hc
underlay ha a1 a2 hc
# Site b has an underlay of its own, behind one address.
mkns lanbr
forwarding lanbr
underlay lanbr
n=0
for host in hb b1 b2; do
  n=$((n + 1))
  mklink "$host" up0 lanbr "to-$host"
  addresses lanbr "to-$host" "192.168.$n.1/24"
  addresses "$host" up0 "192.168.$n.2/24"
  ip -n "$host" route add default via "192.168.$n.1"
  V4[$host]=192.168.$n.2
done
nat_ports lanbr 20000 20999
lan a1 lan0 lana 10.10.0.1/24 fd00:10::1/64
lan b1 lan0 lanb 10.20.0.1/24 fd00:20::1/64

federated_site a ha
fleet_node ha 1 "${V4[ha]}"
fleet_node a1 2
fleet_node a2 3
gateway ha 'url = "https://ha.example:8443"'
fleet_network prod 1 hub:ha a2 \
  '{ node = "a1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd00:10::/64", interface = "lan0" }] }'
fleet_rule prod inside any any icmp
bridge prod-b site-b prod lab ha '"fd77:1:2::/48", "10.20.0.0/24", "fd00:20::/64"' '"fd12:34ab:cd42:1::/64", "10.10.0.0/24", "fd00:10::/64"'
federated_site b hb
fleet_node hb 1 "${V4[hb]}"
fleet_node b1 2
fleet_node b2 3
gateway hb 'url = "https://hb.example:8443"'
fleet_network lab 5 hub:hb b2 \
  '{ node = "b1", lans = [{ subnet = "10.20.0.0/24", interface = "lan0" }, { subnet = "fd00:20::/64", interface = "lan0" }] }'
fleet_rule lab inside any any icmp
bridge lab-a site-a lab prod hb '"fd12:34ab:cd42::/48", "10.10.0.0/24", "fd00:10::/64"' '"fd77:1:2:5::/64", "10.20.0.0/24", "fd00:20::/64"'
bridge lab-c site-c lab far hb '"fd88:1:2::/48"' '"fd77:1:2:5::/64", "fd00:20::/64"'
federated_site c hc
fleet_node hc 1 "${V4[hc]}"
gateway hc 'url = "https://hc.example:8443"'
fleet_network far 7 hub:hc
fleet_rule far inside any any icmp
fleet_rule far to-b any federation=site-b any
# It claims what is site a's as if site b had it.
bridge far-b site-b far lab hc '"fd77:1:2::/48", "fd12:34ab:cd42::/48", "fd00:10::/64", "fd00:20::/64"' '"fd88:1:2:7::/64"'

agree_a() { agree ha prod-b site-b prod '"fd77:1:2::/48", "10.20.0.0/24", "fd00:20::/64"' "$(<"$LAB/keys/hb.pub")" '' "$1"; }
agree_b() {
  agree hb lab-a site-a lab '"fd12:34ab:cd42::/48", "10.10.0.0/24", "fd00:10::/64"' "$(<"$LAB/keys/ha.pub")" "\"${V4[ha]}:51820\"" "$1"
}
ALL_A='"fd12:34ab:cd42:1::/64", "10.10.0.0/24", "fd00:10::/64"'
ALL_B='"fd77:1:2:5::/64", "10.20.0.0/24", "fd00:20::/64"'

# --- Nothing of it crosses the underlay in the clear, in any phase.
on wan tcpdump -U -n -i any -w "$LAB/wan.pcap" >"$LAB/tcpdump.log" 2>&1 &
capture=$!
wait_for "tcpdump listens" 10 grep -q 'listening on' "$LAB/tcpdump.log"

site a; bring_up ha a1 a2
site b; bring_up hb b1 b2
serve lana tcp,*,7000 udp,*,7000
serve lanb tcp,*,7000 udp,*,7000
expect "without an agreement the gateway carries nothing" '' allowed ha wg-sdwan-1 hb
expect "and says so" '*no agreement with site-b*' sdw ha status
expect "LAN to LAN: no way" "$NO_PING" pinged lana 10.20.0.10

# --- Both agree.
agree_a "$ALL_B"
agree_b "$ALL_A"
wait_for "the gateway of site a knows the other" 5 prints '10.20.0.0/24 fd00:20::/64 fd77:1:2:5::/64 ' allowed ha wg-sdwan-1 hb
wait_for "and that of site b" 5 prints '10.10.0.0/24 fd00:10::/64 fd12:34ab:cd42:1::/64 ' allowed hb wg-sdwan-5 ha
handshaken() { (( $(on "$1" wg show "$2" latest-handshakes | grep -F "$(<"$LAB/keys/$3.pub")" | cut -f 2) > 0 )); }
wait_for "the one behind NAT calls" 15 handshaken ha wg-sdwan-1 hb
for to in 10.20.0.10 fd00:20::10; do
  expect "LAN to LAN, $to: refused, although each site lets any ping any" "$NO_PING" pinged lana "$to"
done

# --- One rule on each site that names the peer.
rule() { # NETWORK NAME FROM TO PROTOCOL [PORTS]
  fleet_rule "$@"
}
site a; rule prod to-b lan_of=a1 federation=site-b icmp; rule prod to-b-web any federation=site-b tcp 7000
republish ha a1 a2
site b; rule lab from-a federation=site-a lan_of=b1 icmp; rule lab from-a-web federation=site-a lan_of=b1 tcp 7000
republish hb b1 b2
for to in 10.20.0.10 fd00:20::10; do
  wait_for "LAN to LAN, $to: ping" 10 prints reply pinged lana "$to"
  expect "LAN to LAN, $to: tcp 7000" ok asked lana "tcp,$to,7000"
  expect "LAN to LAN, $to: udp 7000, which no rule names" timeout asked lana --payload none "udp,$to,7000"
done
for to in 10.10.0.10 fd00:10::10; do expect "the other way, $to: no rule" "$NO_PING" pinged lanb "$to"; done
site a
expect "a spoke of site a reaches the LAN of site b: tcp 7000" ok oasked a2 1 tcp,fd00:20::10,7000
expect "and ping isn't its rule's" "$NO_PING" oping a2 1 fd00:20::10
expect "a2 plans nothing more" 0 eval 'sdw a2 plan >/dev/null; echo $?'

# --- The peer announces more than was agreed: it reaches nothing.
agree_a "$ALL_B, \"10.99.0.0/24\", \"fd12:34ab:cd42:1::/64\", \"::/0\", \"10.20.0.0/16\""
sleep 0.3
wait_for "more than is imported never reaches AllowedIPs" 5 prints '10.20.0.0/24 fd00:20::/64 fd77:1:2:5::/64 ' allowed ha wg-sdwan-1 hb
refute "nor a route" eval 'on ha ip route show table all | grep -F 10.99'
agree_a '"fd77:1:2:5::/64", "10.20.0.0/25"'
wait_for "a peer that announces less has less" 5 prints '10.20.0.0/25 fd77:1:2:5::/64 ' allowed ha wg-sdwan-1 hb
agree_a "$ALL_B"
wait_for "and all of it again" 5 prints '10.20.0.0/24 fd00:20::/64 fd77:1:2:5::/64 ' allowed ha wg-sdwan-1 hb


# --- What an operator sees.
expect "status: the bridge carries" 'carrying null' state ha '.networks[0].bridges[0] | "\(.state) \(.waits_for)"'
expect "status on a spoke: the gateway does" 'elsewhere ha' state a1 '.networks[0].bridges[0] | "\(.state) \(.gateway)"'
verdict() { sdw "$@" --json | jq -r '.verdict'; }
expect "explain, on the gateway: the LANs, tcp 7000" allow verdict ha explain 10.10.0.10 10.20.0.10 tcp/7000
expect "explain, on the gateway: udp 7000" deny verdict ha explain 10.10.0.10 10.20.0.10 udp/7000
expect "explain, on a spoke: tcp 7000" allow verdict a1 explain 10.10.0.10 10.20.0.10 tcp/7000
expect "explain, what comes from there" deny verdict ha explain 10.20.0.10 10.10.0.10 tcp/7000

# --- A third site has a bridge to site b, and reaches what site b lets it, never site a.
agree hb lab-c site-c lab '"fd88:1:2::/48"' "$(<"$LAB/keys/hc.pub")" "\"${V4[hc]}:51826\"" '"fd88:1:2:7::/64"'
agree hc far-b site-b far '"fd77:1:2::/48", "fd12:34ab:cd42::/48", "fd00:10::/64", "fd00:20::/64"' "$(<"$LAB/keys/hb.pub")" '' \
  '"fd77:1:2:5::/64", "fd12:34ab:cd42:1::/64", "fd00:10::/64", "fd00:20::/64"'
site c; bring_up hc
site b; rule lab from-c federation=site-c lan_of=b1 icmp; rule lab from-c-all federation=site-c any any
republish hb b1 b2
site c
wait_for "site c reaches the LAN of site b" 20 prints reply oping hc 7 fd00:20::10
for to in fd00:10::10 "$(site a; v6 1 1)" "$(site a; v6 1 2)"; do
  expect "site c reaches nobody of site a: $to" "$NO_PING" oping hc 7 "$to"
done
expect "and its packets ended at site b's gateway" 1 eval '(( $(site b; dropped hb lab) > 0 )) && echo 1'

# --- The daemons of both gateways end, are killed, and start again: no packet is lost.
if has_wireguard; then
  loss lana 100 0.02 10.20.0.10 >"$LAB/loss" & pinging=$!
  sleep 0.3
  kill_daemon ha
  stop_daemon hb
  start_daemon ha hb
  wait "$pinging"
  expect "both gateways restarted: no packet is lost" 0 cat "$LAB/loss"
  wait_for "ha is as it was" 10 converged ha
  wait_for "hb is as it was" 10 converged hb
else
  skip "kernel WireGuard: devices that outlive the daemon"
fi

# --- What serve says is believed for grace_hours, and nothing that it didn't write.
agreements=$LAB/hosts/ha/run/state/sdwand-agreements/agreements.json
broken() { printf '%s' "$1" >"$agreements.new"; chmod "$2" "$agreements.new"; mv "$agreements.new" "$agreements"; }
good=$(<"$agreements")
broken '{"format":1' 0640
wait_for "a file that nobody can read is named" 10 prints "*agreements.json can't be used*" sdw ha status
expect "and what was agreed goes on" reply pinged lana 10.20.0.10
broken "$good" 0666
wait_for "nor is one that others may write to believed" 10 prints '*others than its owner may write*' sdw ha status
broken "$(jq ".written -= 24 * 3600 + 60" <<<"$good")" 0640
wait_for "what serve hasn't confirmed for grace_hours ends" 10 prints '*grace_hours*' sdw ha status
wait_for "and nothing crosses" 5 prints "$NO_PING" pinged lana 10.20.0.10
broken "$good" 0640
wait_for "until it is confirmed again" 20 prints reply pinged lana 10.20.0.10

# --- A host that is no gateway any more carries nothing, and says why; nor does one whose agreements somebody took away.
toml=$LAB/hosts/ha/etc/sdwand.toml
cp "$toml" "$LAB/gateway.toml"
sed '/^\[federation\]/,/^$/d' "$LAB/gateway.toml" >"$toml.new"
refute "nothing of [federation] is left" grep -E 'federation|heartbeat' "$toml.new"
mv "$toml.new" "$toml"
wait_for "without [federation] the other's gateway is no peer" 10 prints '' allowed ha wg-sdwan-1 hb
expect "nothing crosses" "$NO_PING" pinged lana 10.20.0.10
cp "$LAB/gateway.toml" "$toml"
is_peer() { [[ -n $(allowed ha wg-sdwan-1 hb) ]]; }
wait_for "with it, it is" 10 is_peer
mv "${agreements%/*}" "$LAB/away"
start=$(now_ms)
wait_for "without the agreements' folder there is no peer, either" 5 prints '' allowed ha wg-sdwan-1 hb
took=$(( $(now_ms) - start ))
note "the folder was gone, and the peer $took ms later"
check "within a second" eval '(( took <= 1000 * LAB_SLOW ))'
mv "$LAB/away" "${agreements%/*}"
wait_for "with the folder there is" 5 is_peer
LAB_PSK=$(wg genpsk)
agree_b "$ALL_A" # by the new key it finds out that its session is over
agree_a "$ALL_B"
wait_for "and agreed anew, it carries again" 10 prints reply pinged lana 10.20.0.10

# --- Taken back in the middle of a stream.
flow lana "$LAB/stream" tcp,10.20.0.10,7000
echoes() { cat "$LAB/stream" 2>/dev/null || echo 0; }
wait_for "a stream runs" 5 eval '(( $(echoes) > 5 ))'
known() { on ha conntrack -L 2>/dev/null | grep 'ESTABLISHED.*dport=7000'; }
routed() { on ha ip route show table all | grep -F '10.20.0.0/24 dev wg'; }
check "conntrack knows it" known
check "and there is a route" routed
start=$(now_ms)
retract ha
is_cut() { [[ -z $(allowed ha wg-sdwan-1 hb) ]] && not known; }
wait_for "the stream is cut" 5 is_cut
took=$(( $(now_ms) - start ))
note "the peer is gone and the connection forgotten after $took ms"
check "within a second" eval '(( took <= 1000 * LAB_SLOW ))'
count=$(echoes)
expect "the other's gateway is no peer any more" '' allowed ha wg-sdwan-1 hb
refute "there is no route there any more" routed
expect "nothing is left to do" 0 eval 'sdw ha plan >/dev/null; echo $?'
expect "explain says why" '*prod-b carries nothing: no agreement with site-b*' sdw ha explain 10.10.0.10 10.20.0.10 tcp/7000
expect "status, too" 'waiting' state ha '.networks[0].bridges[0].state'
check "no echo came since" eval '(( $(echoes) == count ))'
sleep 0.3 # tcpdump reads in batches
kill "$capture"
wait "$capture" || true
captured() { tcpdump -n -r "$LAB/wan.pcap" "$@" 2>/dev/null; }
check "the capture saw WireGuard between the gateways" eval '(( $(captured udp port 51820 | wc -l) > 20 ))'
captured "net 10.10.0.0/24 or net 10.20.0.0/24 or net fd00::/16 or net fd12:34ab:cd42::/48 or net fd77:1:2::/48" >"$LAB/leaks" || true
expect "and nothing of any LAN or overlay" '' head -n 5 "$LAB/leaks"

# --- Down takes all of it, whatever the bridge.
LAB_PSK=$(wg genpsk)
agree_b "$ALL_A" # it calls at once, although it still had a session
agree_a "$ALL_B"
wait_for "and agreed anew, it carries again" 10 prints reply pinged lana 10.20.0.10
for host in ha hb; do
  check "$host: down" sdw "$host" down
  expect "$host: nothing of ours is left" '' left_over "$host"
done
