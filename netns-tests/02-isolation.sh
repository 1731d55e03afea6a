#!/bin/bash
# Networks never see each other, and a tenant sees nothing of the hub but its overlay addresses.
#
#     a ──┐                      network red (1): hub ::1, a ::2, b ::3     everything allowed inside
#     b ──┤                      network blue (2): hub ::1, c ::4           everything allowed inside
#     c ──┼── wan ── hub
#         └── inet               inet: a host on the underlay that the hub could reach
#
# a is a tenant who does what it likes: a stock WireGuard host that sends any packet for any destination, from any
# source, into its tunnel. b and c run sdwand.
. "$(dirname "$0")/lab/lib.sh"
has_stock_wireguard || skip_rest "no stock WireGuard: neither the kernel's nor wireguard-go"

mkhost hub a b c
underlay hub a b c
mkns inet
underlay inet
addresses hub lo 203.0.113.1/32 2001:db8:ffff::1/128 # an address that only the hub's own services have
fleet_site
fleet_node hub 1 "${V4[hub]}"
fleet_node a 2
fleet_node b 3
fleet_node c 4
fleet_network red 1 hub:hub a b
fleet_network blue 2 hub:hub c
fleet_rule red all any any any
fleet_rule blue all any any any
forwarding hub # the worst case: the hub routes between everything
bring_up hub b c
stock_peer hub a 1 wg0

# Servers everywhere.
serve hub "tcp,*,7000" "udp,*,7000"                # the hub's own services, bound to nothing
serve inet "tcp,*,7000" "udp,*,7000"
for family in 4 6; do
  oserve hub 1 "tcp,$("v$family" 1 1),7001" "udp,$("v$family" 1 1),7001"
  oserve hub 2 "tcp,$("v$family" 2 1),7001" "udp,$("v$family" 2 1),7001"
  oserve b 1 "tcp,$("v$family" 1 3),7001" "udp,$("v$family" 1 3),7001"
  oserve c 2 "tcp,$("v$family" 2 4),7001" "udp,$("v$family" 2 4),7001"
done

# Inside, all is open: so what is refused below is refused for the right reason.
for family in 4 6; do
  hub=$("v$family" 1 1) b=$("v$family" 1 3)
  wait_for "v$family: a pings the hub" 10 prints reply pinged a "$hub"
  wait_for "v$family: a pings b" 10 prints reply pinged a "$b"
  expect "v$family: a reaches b and the hub by tcp and udp" "tcp,$b,7001 ok
udp,$b,7001 ok
tcp,$hub,7001 ok
udp,$hub,7001 ok" asked a "tcp,$b,7001" "udp,$b,7001" "tcp,$hub,7001" "udp,$hub,7001"
  wait_for "v$family: c pings the hub in its own network" 10 prints reply oping c 2 "$("v$family" 2 1)"
done
expect "the hub reaches inet" ok asked hub "tcp,${V4[inet]},7000"

rogue a wg0 "$SITE_PREFIX:2::/64" "$(v4_prefix 2)" 203.0.113.1/32 2001:db8:ffff::1/128 \
  "${V6[hub]}/128" "${V4[inet]}/32" "${V6[inet]}/128" "${V6[c]}/128"

# a → everything that is not red: no answer but perhaps the hub's that there is no way.
refused() { # DESC ADDRESS PORT
  expect "$1: ping" "$NO_PING" pinged a "$2"
  expect "$1: tcp, udp" "tcp,$2,$3 $NO_TCP
udp,$2,$3 $NO_UDP" asked a --payload "leak" "tcp,$2,$3" "udp,$2,$3"
}
refused "v4: a → c, through the hub" "$(v4 2 4)" 7001
refused "v6: a → c, through the hub" "$(v6 2 4)" 7001
refused "v4: a → the hub's address in blue" "$(v4 2 1)" 7001
refused "v6: a → the hub's address in blue" "$(v6 2 1)" 7001
refused "v4: a → an address of the hub itself" 203.0.113.1 7000
refused "v6: a → an address of the hub itself" 2001:db8:ffff::1 7000
refused "v6: a → the hub's underlay address" "${V6[hub]}" 7000
refused "v4: a → the underlay through the hub" "${V4[inet]}" 7000
refused "v6: a → the underlay through the hub" "${V6[inet]}" 7000
# Services of the hub that are bound to nothing don't hear a VRF, even at the hub's address there. Without VRFs they do:
# then rules are all that keeps them apart.
if in_vrf hub 1; then
  expect "v4: a → the hub's unbound services" refused asked a "tcp,$(v4 1 1),7000"
  expect "v6: a → the hub's unbound services" refused asked a "tcp,$(v6 1 1),7000"
fi

# Spoofed sources: of blue, of another member of red, of the hub, of the underlay, of loopback.
spoof() { # SOURCE DEST TEXT
  asked a --timeout 0.3 --source "$1" --transparent --payload "$3" "udp,$2,7001" >/dev/null || true
}
number=0
for source in "$(v4 2 4)" "$(v4 1 3)" "$(v4 1 1)" "${V4[c]}" 203.0.113.77; do
  for to in "$(v4 1 1)" "$(v4 1 3)" "$(v4 2 4)"; do spoof "$source" "$to" "spoof-$((number++))"; done
done
for source in "$(v6 2 4)" "$(v6 1 3)" "$(v6 1 1)" "${V6[c]}" 2001:db8:ffff::77; do
  for to in "$(v6 1 1)" "$(v6 1 3)" "$(v6 2 4)"; do spoof "$source" "$to" "spoof-$((number++))"; done
done
asked a --timeout 0.3 --payload "honest" "udp,$(v6 1 3),7001" >/dev/null || true
check "an honest packet arrives" arrived b honest
for host in hub b c inet; do
  refute "$host: none of $number packets with a spoofed source arrives" arrived "$host" spoof-
  refute "$host: nothing leaked" arrived "$host" leak
done

# The other way: c, and the hub's own processes, reach nothing of red; the hub's sockets of one network see only it.
expect "v4: c → b" "$NO_TCP" oasked c 2 "tcp,$(v4 1 3),7001"
expect "v6: c → b" "$NO_TCP" oasked c 2 "tcp,$(v6 1 3),7001"
if in_vrf hub 1; then
  expect "v6: the hub, as blue → b" "$NO_TCP" asked hub --device sdwan-2 "tcp,$(v6 1 3),7001"
  expect "v4: the hub, as blue → b" "$NO_TCP" asked hub --device sdwan-2 "tcp,$(v4 1 3),7001"
else
  expect "v6: the hub, as blue → b" "$NO_TCP" asked hub --source "$(v6 2 1)" "tcp,$(v6 1 3),7001"
  expect "v4: the hub, as blue → b" "$NO_TCP" asked hub --source "$(v4 2 1)" "tcp,$(v4 1 3),7001"
fi
# The underlay sees none of it.
expect "v4: inet → b's overlay address, through the hub" "$NO_PING" pinged inet "$(v4 1 3)"
ip -n wan route add "$(v4_prefix 1)" via "${V4[hub]}"
ip -n wan -6 route add "$SITE_PREFIX:1::/64" via "${V6[hub]}"
expect "v4: inet → b, with a route to the hub" "$NO_PING" pinged inet "$(v4 1 3)"
expect "v6: inet → b, with a route to the hub" "$NO_PING" pinged inet "$(v6 1 3)"
expect "v4: inet → the hub's overlay address" "$NO_UDP" asked inet --payload under4 "udp,$(v4 1 1),7001"
expect "v6: inet → the hub's overlay address" "$NO_UDP" asked inet --payload under6 "udp,$(v6 1 1),7001"
refute "which nothing hears" arrived hub under
