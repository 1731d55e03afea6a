#!/bin/bash
# LANs behind spokes, both families: LAN to LAN over the hub, and the interface given back as it was.
#
#     far ── lana ──eth0── lan0 s1 ──┐
#                                    ├── wan ── hub      network prod (1): hub ::1, s1 ::2, s2 ::3
#            lanb ──eth0── lan0 s2 ──┘
#
#     lana 10.10.0.10, fd00:10::10 · lanb 10.20.0.10, fd00:20::10 · far 10.11.0.1, reached via 10.10.0.10
#     rules: s1's LANs → s2's LANs: icmp, tcp 7000
. "$(dirname "$0")/lab/lib.sh"

mkhost hub s1 s2
underlay hub s1 s2
lan s1 lan0 lana 10.10.0.1/24 fd00:10::1/64
lan s2 lan0 lanb 10.20.0.1/24 fd00:20::1/64
addresses s1 lan0 10.10.0.2/24 # a second address, to be kept too
mkns far
mklink lana far0 far eth0
addresses lana far0 10.11.0.254/24
addresses far eth0 10.11.0.1/24
ip -n far route add default via 10.11.0.254
forwarding lana s1 s2 # a site's router forwards before sdwand comes; what stays of the switch is not the port's

fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node s1 2
fleet_node s2 3
fleet_network prod 1 hub:hub \
  '{ node = "s1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd00:10::/64", interface = "lan0" }, { subnet = "10.11.0.0/24", via = "10.10.0.10" }] }' \
  '{ node = "s2", lans = [{ subnet = "10.20.0.0/24", interface = "lan0" }, { subnet = "fd00:20::/64", interface = "lan0" }] }'
fleet_rule prod ping lan_of=s1 lan_of=s2 icmp
fleet_rule prod web lan_of=s1 lan_of=s2 tcp 7000

interface() { # HOST: what `down` must give back
  ip -n "$1" -d link show lan0 | sed 's/ promiscuity.*//'
  ip -n "$1" addr show lan0
  ip -n "$1" route show table all dev lan0 | sort
  ip -n "$1" -6 route show table all dev lan0 | grep -v multicast | sort
  on "$1" sysctl -a 2>/dev/null | grep -E '^net\.ipv[46]\.conf\.lan0\.' | grep -v stable_secret
}
for host in s1 s2; do interface "$host" >"$LAB/$host.before"; done

bring_up hub s1 s2
if has_vrf; then
  check "s1: the LAN's port is in the VRF" eval '[[ $(ip -n s1 link show lan0) = *"master sdwan-1"* ]]'
  check "s1: and has its addresses" eval '[[ $(ip -n s1 addr show lan0) = *10.10.0.2/24*fd00:10::1/64* ]]'
fi
serve lana "tcp,*,7000" "udp,*,7000"
serve lanb "tcp,*,7000" "udp,*,7000" "tcp,*,7001"

wait_for "v4: LAN to LAN, ping" 10 prints reply pinged lana 10.20.0.10
wait_for "v6: LAN to LAN, ping" 10 prints reply pinged lana fd00:20::10
wait_for "v4: from a network behind a router of the LAN" 10 prints reply pinged far 10.20.0.10
for to in 10.20.0.10 fd00:20::10; do
  expect "$to: tcp 7000, allowed" ok asked lana "tcp,$to,7000"
  expect "$to: tcp 7001, no rule" timeout asked lana "tcp,$to,7001"
  expect "$to: udp 7000, no rule" timeout asked lana --payload none "udp,$to,7000"
done
expect "v4: and back, ping, no rule" silence pinged lanb 10.10.0.10
expect "v6: and back, ping, no rule" silence pinged lanb fd00:10::10
expect "v4: and back, tcp, no rule" timeout asked lanb "tcp,10.10.0.10,7000"
expect "v6: and back, tcp, no rule" timeout asked lanb "tcp,fd00:10::10,7000"
expect "v4: a LAN's host → the hub's overlay address, no rule" silence pinged lana "$(v4 1 1)"
expect "v6: a LAN's host → the hub's overlay address, no rule" silence pinged lana "$(v6 1 1)"
# A source that is not the LAN's doesn't enter.
asked lana --timeout 0.3 --source 10.99.0.9 --transparent --payload spoof "udp,10.20.0.10,7000" >/dev/null || true
refute "a spoofed source from the LAN doesn't arrive" arrived lanb spoof

# The router's own address in its LAN is the network's, too. Who listens there binds to the network.
oserve s2 1 "tcp,*,7000"
for to in 10.20.0.1 fd00:20::1; do
  expect "$to, the router's own: ping" reply pinged lana "$to"
  expect "$to, the router's own: tcp 7000" ok asked lana "tcp,$to,7000"
  expect "$to, the router's own: tcp 7001, no rule" "$NO_TCP" asked lana "tcp,$to,7001"
done

# Packets as large as the link of the overlay carries.
expect "v4: 1372 bytes of ping, whole" reply pinged lana 10.20.0.10 -s 1372
expect "v6: 1352 bytes of ping, whole" reply pinged lana fd00:20::10 -s 1352

# Whatever the default, link-local addresses take what a link needs and nothing else: no rule could close them.
fleet_network prod 1 hub:hub \
  '{ node = "s1", lans = [{ subnet = "fd00:10::/64", interface = "lan0" }] }' s2 --default_action '"accept"'
fleet_rule prod closed any any any - drop 1
republish hub s1 s2
near=$(ip -n s1 -j -6 addr show dev lan0 scope link | jq -r '.[].addr_info[].local // empty' | head -n 1)
expect "link-local, from the LAN: ping" silence pinged lana "$near%eth0" -I fd00:10::10
expect "neighbours are found all the same" '*lladdr*' ip -n lana -6 neigh show "$near" dev eth0

stop_daemon hub s1 s2
for host in s1 s2; do
  check "$host: down" sdw "$host" down
  interface "$host" >"$LAB/$host.after"
  same "$host: the LAN's port is as it was" "$LAB/$host.before" "$LAB/$host.after"
done
