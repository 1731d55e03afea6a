#!/bin/bash
# Spokes behind NAT, hubs that move, and endpoints that don't answer: each comes back by itself.
#
#     s1 ──in0── nat ──┐             s1: IPv4 only, behind a box that forgets UDP flows after 2 s
#                      ├── wan ──┬── hub     network dual: the hub is known by a dead v6 and a live v4 address
#     s2 ──────────────┘         └── mover   network dns: the hub is known by name
. "$(dirname "$0")/lab/lib.sh"

mkhost hub mover s1 s2
underlay hub mover s2
nat_box nat s1
set_sysctl mover net.ipv4.conf.all.promote_secondaries=1
set_sysctl nat net.netfilter.nf_conntrack_udp_timeout=2 net.netfilter.nf_conntrack_udp_timeout_stream=2
ip -n wan -6 route add blackhole 2001:db8:dead::/48
second=${V4[mover]%.*}.9
named() { echo "$1 mover.lab" >"$LAB/hosts/s2/run/hosts.new"; cat "$LAB/hosts/s2/run/hosts.new" >"$LAB/hosts/s2/run/hosts"; }
named "${V4[mover]%.*}.66" # nobody's
on s2 mount --bind /run/hosts /etc/hosts

fleet_site
fleet_node hub 1
fleet_node s1 2
fleet_node s2 3
fleet_node mover 4
at() { echo "{ node = \"$1\", role = \"hub\", endpoints = [$2] }"; }
fleet_network prod 1 "$(at hub "\"${V4[hub]}\"")" s1 --keepalive_seconds 1
fleet_network dns 2 "$(at mover '"mover.lab"')" s2 --keepalive_seconds 1
fleet_network dual 3 "$(at hub "\"2001:db8:dead::1\", \"${V4[hub]}\"")" s1 s2 --keepalive_seconds 1
for network in prod dns dual; do fleet_rule "$network" ping any any icmp; done
start=$(now_ms)
bring_up hub mover s1 s2
# took DESC SECONDS CMD…: as `wait_for`, and says how long it took since `start`.
took() { wait_for "$@" && note "$1: after $(( $(now_ms) - start )) ms"; }

# --- A dead first endpoint.
took "no route leads to the v6 endpoint: v4 at once" 10 prints reply oping s1 3 "$(v6 3 1)"
took "the v6 endpoint is dead: v4 after an attempt of 15 s" 40 prints reply oping s2 3 "$(v6 3 1)"
endpoint() { on s2 wg show "wg-sdwan-$1" endpoints | cut -f 2; }
expect "it is called at its second endpoint" "${V4[hub]}:51822" endpoint 3
expect "and stays there: the plan is empty" 0 eval 'sdw s2 plan >/dev/null; echo $?'

# --- A name that led nowhere, and is corrected.
start=$(now_ms)
named "${V4[mover]}"
took "a name that is corrected is found" 30 prints reply oping s2 2 "$(v6 2 4)"
expect "at its address" "${V4[mover]}:51821" endpoint 2
# A hub that moves away: the handshake must grow old first. The wait goes on beside the other checks.
moved=$(now_ms)
addresses mover up0 "$second/24"
ip -n mover addr del "${V4[mover]}/24" dev up0
ip -n mover route replace default via "${V4[mover]%.*}.1"
named "$second"

# --- NAT: what the box forgets is kept open, what it changes is followed.
wait_for "the spoke behind NAT reaches the hub" 15 prints reply oping s1 1 "$(v6 1 1)"
sleep 6 # nothing but keepalives, for three times what the box remembers
expect "after 6 s without traffic the hub reaches the spoke" reply oping hub 1 "$(v6 1 2)"
expect "over IPv4, too" reply oping hub 1 "$(v4 1 2)"
key=$(cat "$LAB/keys/s1.pub")
seen() { on hub wg show wg-sdwan-1 endpoints | awk -v key="$key" '$1 == key { print $2 }'; }
start=$(now_ms)
nat_ports nat 30000 30999
took "flows flushed, and another source port: the hub follows" 10 prints "${V4[nat]}:30+([0-9])" seen
took "and reaches the spoke" 10 prints reply oping hub 1 "$(v6 1 2)"
on nat ip link set up0 down
lost() { [[ $(oping hub 1 "$(v6 1 2)") = silence ]]; }
wait_for "cut off" 10 lost
on nat ip link set up0 up
on nat ip route replace default via "${V4[nat]%.*}.1"
nat_ports nat 40000 40999
start=$(now_ms)
took "and back on other ports: the hub reaches the spoke" 10 prints reply oping hub 1 "$(v6 1 2)"

# --- The hub that moved away. A handshake counts for 180 s (REJECT_AFTER_TIME); then the name is looked up.
start=$moved
took "a hub that moves to another address is found by its name" 240 prints reply oping s2 2 "$(v6 2 4)"
expect "there" "$second:51821" endpoint 2
check "within 180 s of the last handshake, 15 s for the look-up and two attempts of 5 s" \
  eval '(( $(now_ms) - moved < 215000 ))'
