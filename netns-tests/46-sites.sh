#!/bin/bash
# Two sovereign sites, whole: from a token to a packet from LAN to LAN, and everything that takes it back.
#
#     lana ── a1 ── ha ── wan ── nat ── hb ── b1 ── lanb
#
#     site-a fd12:34ab:cd42::/48: prod (1), ha ::1, a1 ::2, LAN 10.10.0.0/24 and fd00:10::/64 behind a1
#     site-b fd77:1:2::/48: lab (5), hb ::1, b1 ::2, LAN 10.20.0.0/24 and fd00:20::/64 behind b1, all of it behind NAT
#     ha and hb run `sdwand run` and, as nobody, `sdwand serve`.
. "$(dirname "$0")/lab/lib.sh"
lab_binary

mkhost ha a1 hb b1
underlay ha a1
mkns nat
forwarding nat
underlay nat
n=0
for host in hb b1; do
  n=$((n + 1))
  mklink "$host" up0 nat "to-$host"
  addresses nat "to-$host" "192.168.$n.1/24"
  addresses "$host" up0 "192.168.$n.2/24"
  ip -n "$host" route add default via "192.168.$n.1"
  V4[$host]=192.168.$n.2
done
nat_ports nat 20000 20999
lan a1 lan0 lana 10.10.0.1/24 fd00:10::1/64
lan b1 lan0 lanb 10.20.0.1/24 fd00:20::1/64

federated_site a ha
fleet_node ha 1 "${V4[ha]}"
fleet_node a1 2
gateway ha "url = \"https://${V4[ha]}:8443\""
fleet_network prod 1 hub:ha \
  '{ node = "a1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd00:10::/64", interface = "lan0" }] }'
fleet_rule prod inside any any icmp
federated_site b hb
fleet_node hb 1 "${V4[hb]}"
fleet_node b1 2
gateway hb 'dialable = false'
fleet_network lab 5 hub:hb \
  '{ node = "b1", lans = [{ subnet = "10.20.0.0/24", interface = "lan0" }, { subnet = "fd00:20::/64", interface = "lan0" }] }'
fleet_rule lab inside any any icmp
site a; bring_up ha a1
wait_for "inside site a" 15 prints reply oping a1 1 "$(v6 1 1)"
site b; bring_up hb b1
wait_for "inside site b" 15 prints reply oping b1 5 "$(v6 5 1)"
start_serve ha
start_serve hb
serve lana tcp,*,7000
serve lanb tcp,*,7000

# --- Both operators say what they want before the sites know each other; nothing of it opens anything.
site a
status "a bridge to nobody is refused by command" 1 sdw ha peer bridge site-b --network prod --dry-run
bridge prod-b site-b prod lab ha '"fd77:1:2::/48", "10.20.0.0/24", "fd00:20::/64"' '"fd12:34ab:cd42:1::/64", "10.10.0.0/24", "fd00:10::/64"'
fleet_rule prod to-b lan_of=a1 federation=site-b icmp
republish ha a1
site b
bridge lab-a site-a lab prod hb '"fd12:34ab:cd42::/48", "10.10.0.0/24", "fd00:10::/64"' '"fd77:1:2:5::/64", "10.20.0.0/24", "fd00:20::/64"'
fleet_rule lab from-a federation=site-a lan_of=b1 icmp
republish hb b1
expect "nothing crosses" "$NO_PING" pinged lana 10.20.0.10

# --- The token, handed over; from the acceptance to the first packet.
sdw ha peer propose "https://site-b.example:8443" --name site-b --json | jq -r .acceptance_token >"$LAB/token"
start=$(now_ms)
check "site b accepts" sdw hb peer accept "https://${V4[ha]}:8443" --name site-a --token - <"$LAB/token"
wait_for "and LAN reaches LAN" 15 prints reply pinged lana 10.20.0.10 -W 0.2
took=$(( $(now_ms) - start ))
note "accept with a bridge → first packet across: $took ms"
check "within 3 s" eval '(( took <= 3000 * LAB_SLOW ))'
wait_for "v6 as well" 5 prints reply pinged lana fd00:20::10
bridge_state() { sdw "$1" peer show "$2" --json | jq -r '.bridges[] | select(.state != "revoked") | .state' | sort | tr '\n' ' '; }
wait_for "site a: the bridge is active" 5 prints 'active ' bridge_state ha site-b
wait_for "site b: the bridge is active" 5 prints 'active ' bridge_state hb site-a
refute "no key of it is shown" eval 'sdw ha peer show site-b --json | grep -i -e preshared -e half'
expect "the other way no rule lets it" "$NO_PING" pinged lanb 10.10.0.10
expect "nor does one let tcp" timeout asked lana tcp,10.20.0.10,7000

# --- One rule, at each end.
site a; fleet_rule prod to-b-web lan_of=a1 federation=site-b tcp 7000; republish ha a1
expect "one end's rule isn't enough" timeout asked lana tcp,10.20.0.10,7000
site b; fleet_rule lab from-a-web federation=site-a lan_of=b1 tcp 7000; republish hb b1
wait_for "both ends' is" 5 prints ok asked lana tcp,10.20.0.10,7000

# --- Without serve, traffic goes on; and serve that comes back changes nothing.
flow lana "$LAB/stream" tcp,10.20.0.10,7000
echoes() { cat "$LAB/stream" 2>/dev/null || echo 0; }
runs() { local before; before=$(echoes); sleep 0.3; (( $(echoes) > before )); }
wait_for "a stream runs" 5 runs
stop_serve ha KILL
stop_serve hb KILL
check "serve is killed on both: it runs on" runs
expect "LAN to LAN as before" reply pinged lana 10.20.0.10
start_serve ha
start_serve hb
check "and when it is back" runs
wait_for "the bridge is as it was" 10 prints 'active ' bridge_state ha site-b

# --- Suspended and resumed.
check "suspend" sdw ha peer suspend site-b
wait_for "suspended, nothing crosses" 3 prints "$NO_PING" pinged lana 10.20.0.10
check "resume" sdw ha peer resume site-b
wait_for "resumed, it does, also where the other end can't be called" 20 prints reply pinged lana 10.20.0.10

# --- Site a exports less: site b has less, and nobody there did anything.
carried() { state "$1" '.networks[0].bridges[0].carried | join(" ")'; }
site a
bridge prod-b site-b prod lab ha '"fd77:1:2::/48", "10.20.0.0/24", "fd00:20::/64"' '"fd12:34ab:cd42:1::/64", "10.10.0.0/24"'
republish ha a1
wait_for "site b carries what is left" 10 prints '10.10.0.0/24 fd12:34ab:cd42:1::/64' carried hb

# --- Revoked in the middle of a stream.
keyed() { on ha wg show wg-sdwan-1 allowed-ips | grep -F "$(<"$LAB/keys/hb.pub")"; }
routed() { on ha ip route show table all | grep -F '10.20.0.0/24 dev wg'; }
known() { on ha conntrack -L 2>/dev/null | grep 'ESTABLISHED.*10.20.0.10'; }
flow lana "$LAB/stream2" tcp,10.20.0.10,7000
echoes() { cat "$LAB/stream2" 2>/dev/null || echo 0; }
wait_for "a stream runs" 10 runs
on lanb tcpdump -n -U -l --immediate-mode -tt -i eth0 'src host 10.10.0.10' >"$LAB/seen" 2>"$LAB/tcpdump.log" &
capture=$!
wait_for "tcpdump listens" 10 grep -q 'listening on' "$LAB/tcpdump.log"
for what in keyed routed known; do check "site a: $what" "$what"; done
start=$(now_ms)
check "revoke" sdw ha peer revoke site-b
until_ok 5 not runs
sleep 0.5 # tcpdump reads in batches
kill "$capture"; wait "$capture" || true
last=$(tail -n 1 "$LAB/seen" | awk '{ printf "%.0f", $1 * 1000 }')
took=$(( ${last:-start} > start ? last - start : 0 ))
note "revoke → last packet: $took ms"
check "within a second" eval '(( took <= 1000 * LAB_SLOW ))'
check "the stream is dead" not runs
for what in keyed routed known; do refute "site a: $what no more" "$what"; done
wait_for "site b, which can't be called, learns of it by its next beat" 10 is hb degraded
expect "nothing is left to do" 0 eval 'sdw ha plan >/dev/null; echo $?'
check "audit: its chain is whole" sdw ha audit verify
said() { sdw ha audit export 2>/dev/null | jq -r '.kind? // empty' | grep '^federation.bridge' | sort -u | tr '\n' ' '; }
expect "and tells of the bridge" \
  'federation.bridge.active federation.bridge.changed federation.bridge.proposed federation.bridge.revoked federation.bridge.suspended ' said
