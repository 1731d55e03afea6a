#!/bin/bash
# AllowedIPs follow the FIB: on a hub, what several peers may carry is on the one that the best route leads to.
#
#     lana ── lan0 s1 ─┐       ┌─ h1     network prod (1), both families
#                      ├─ wan ─┤         VIPs ::100 and 100.64.1.100: s1, then s2; s2 has another fleet, and holds them too
#     lanb ── lan0 s2 ─┘       └─ h2     s3 is in the fleet, and never comes
#                                        network flat (2), isolation = "none": hub h1, VIP ::100: s1, then s2
#
# Routes are made by `ip`, as a routing daemon would (protocol 186), in table 10001 of the hubs; for flat in the main one.
. "$(dirname "$0")/lab/lib.sh"

mkhost h1 h2 s1 s2
underlay h1 h2 s1 s2
lan s1 lan0 lana 10.10.0.1/24 fd00:10::1/64
lan s2 lan0 lanb 10.20.0.1/24 fd00:20::1/64
fleet_site
fleet_node h1 1 "${V4[h1]}"
fleet_node h2 2 "${V4[h2]}"
fleet_node s1 3
fleet_node s2 4
fleet_node s3 5
fleet() { # HOLDERS
  local vip
  fleet_network prod 1 hub:h1 hub:h2 s3 \
    '{ node = "s1", lans = [{ subnet = "10.10.0.0/24", interface = "lan0" }, { subnet = "fd00:10::/64", interface = "lan0" }] }' \
    '{ node = "s2", lans = [{ subnet = "10.20.0.0/24", interface = "lan0" }, { subnet = "fd00:20::/64", interface = "lan0" }] }'
  for vip in api:::100 api4:100.64.1.100; do
    printf '\n[[networks.virtual_ips]]\nname = "%s"\naddress = "%s"\nholders = [%s]\n' "${vip%%:*}" "${vip#*:}" "$1" >>"$FLEET/20-prod.toml"
  done
  fleet_rule prod ping any any icmp
  fleet_network flat 2 hub:h1 s1 s2 --isolation '"none"'
  printf '\n[[networks.virtual_ips]]\nname = "flat"\naddress = "::100"\nholders = ["s1", "s2"]\n' >>"$FLEET/20-flat.toml"
}
VIP6=$(v6 1 100) VIP4=$(v4 1 100)

LINK=wg-sdwan-1 TABLE=10001 # what the routes are in and lead over
# on_link HUB PREFIX: the nodes that carry it, by the hub's device.
on_link() {
  local node key nets
  while read -r key nets; do
    for node in h1 h2 s1 s2 s3; do
      if [[ $key = "$(<"$LAB/keys/$node.pub")" && " $nets " = *" $2 "* ]]; then printf '%s ' "$node"; fi
    done
  done < <(on "$1" wg show "$LINK" allowed-ips)
}
carried_by() { [[ $(on_link "$1" "$2") = "${3:+$3 }" ]]; } # HUB PREFIX [NODE]
# routed HUB PREFIX WHERE…: another's route, better than ours; unrouted HUB PREFIX.
family() { case $1 in *:*) echo -6 ;; *) echo -4 ;; esac; }
routed() { ip -n "$1" "$(family "$2")" route replace "$2" proto 186 metric 20 table "$TABLE" "${@:3}"; }
unrouted() { ip -n "$1" "$(family "$2")" route del "$2" table "$TABLE" metric 20; }
# moves HUB PREFIX [NODE]: after the route changed: it is on NODE, or on nobody, within a second.
moves() {
  local start
  start=$(now_ms)
  wait_for "$1: $2 is on ${3:-nobody}" 5 carried_by "$@"
  local took=$(( $(now_ms) - start ))
  check "within a second ($took ms)" test "$took" -lt $((1000 * LAB_SLOW))
}
# blocker HUB SRC DST: what explain finds in the way there, and the fix.
blocker() { sdw "$1" explain "$2" "$3" --json | jq -r '"\(.blocker.check) \(.blocker.fix)"'; }
# said HUB: its condition of the WireGuard plane.
said() { state "$1" '.conditions[] | select(.plane == "wireguard" and .network == "prod") | "\(.state) \(.reason)"'; }

fleet '"s2", "s1"'
publish s2
fleet '"s1", "s2"'
publish h1 h2 s1
start_daemon h1 h2 s1 s2
if has_dummy; then
  for host in h1 h2 s1 s2; do require wait_for "$host: converged" 20 converged "$host"; done
else
  for host in h1 h2; do require wait_for "$host: converged" 20 converged "$host"; done
fi
for net in "$VIP6/128" "$VIP4/32" 10.10.0.0/24 fd00:10::/64; do check "by the fleet alone $net is on s1" carried_by h1 "$net" s1; done
wait_for "the overlay works" 20 prints reply oping h1 1 "$(v6 1 4)"

# --- Every way to say who is next.
routed h1 "$VIP6/128" via fe80::4 dev wg-sdwan-1
moves h1 "$VIP6/128" s2
check "nothing else moved" carried_by h1 "$VIP4/32" s1
# source_of HUB ADDRESS: what the host's own packets there have as their source.
source_of() { ip -n "$1" "$(family "$2")" route get "$2" vrf sdwan-1 | sed -n 's/.* src \([^ ]*\).*/\1/p'; }
if in_vrf h1 1; then expect "the host's own packets have its overlay address, though the route names none" "$(v6 1 1)" source_of h1 "$VIP6"; fi
check "there is nothing to do" sdw h1 plan
check "plan tells why" eval 'sdw h1 plan | grep -qF "prefix $VIP6/128: s2 carries it instead of s1: the route of protocol 186 with metric 20 leads there"'
check "so does status" eval 'state h1 ".notices[].text" | grep -q "^s2 carries it instead of s1"'
expect "and all is well" 'Converged *' said h1
unrouted h1 "$VIP6/128"
moves h1 "$VIP6/128" s1
routed h1 "$VIP6/128" via "$(v6 1 4)" dev wg-sdwan-1
moves h1 "$VIP6/128" s2
routed h1 "$VIP4/32" via "$(v4 1 4)" dev wg-sdwan-1
moves h1 "$VIP4/32" s2
routed h1 "$VIP4/32" via inet6 fe80::2 dev wg-sdwan-1
moves h1 "$VIP4/32" h2
if in_vrf h1 1; then expect "v4: so they have" "$(v4 1 1)" source_of h1 "$VIP4"; fi
unrouted h1 "$VIP4/32"
moves h1 "$VIP4/32" s1
ip -n h1 nexthop add id 77 via fe80::2 dev wg-sdwan-1
ip -n h1 -6 route replace "$VIP6/128" nhid 77 proto 186 metric 20 table 10001
moves h1 "$VIP6/128" h2
unrouted h1 "$VIP6/128"
moves h1 "$VIP6/128" s1
# Only a part of a LAN; and a worse route than ours changes nothing.
routed h1 fd00:20::10/128 via fe80::2 dev wg-sdwan-1
moves h1 fd00:20::10/128 h2
check "the LAN around it stays" carried_by h1 fd00:20::/64 s2
unrouted h1 fd00:20::10/128
moves h1 fd00:20::10/128
ip -n h1 -6 route add "$VIP6/128" via fe80::4 dev wg-sdwan-1 proto 186 metric 2000 table 10001
check "a worse route is heard" until_ok 5 sdw h1 plan
check "and not followed" carried_by h1 "$VIP6/128" s1
ip -n h1 -6 route del "$VIP6/128" metric 2000 table 10001

# --- In the place of our own route: let be, and ours comes back.
ours() { [[ $(ip -n h1 "$(family "$1")" route show "$1" table 10001) = *'proto 241'* ]]; }
for vip in "$VIP6/128" "$VIP4/32"; do
  ip -n h1 "$(family "$vip")" route replace "$vip" via inet6 fe80::4 dev wg-sdwan-1 table 10001 metric 1024
  moves h1 "$vip" s2
  check "there is nothing to do" sdw h1 plan
  refute "it stays in the place of ours" ours "$vip"
  ip -n h1 "$(family "$vip")" route del "$vip" table 10001
  moves h1 "$vip" s1
  wait_for "our route is back" 5 ours "$vip"
done

# --- In the main table only what goes out by the link counts.
LINK=wg-sdwan-2 TABLE=254
FLAT=$(v6 2 100)/128
check "by the fleet alone it is on s1" carried_by h1 "$FLAT" s1
routed h1 "$FLAT" via fe80::4 dev wg-sdwan-2
moves h1 "$FLAT" s2
check "there is nothing to do" sdw h1 plan
unrouted h1 "$FLAT"
moves h1 "$FLAT" s1
LINK=wg-sdwan-1 TABLE=10001

# --- Whoever starts anew leaves it there.
if has_wireguard; then
  routed h1 "$VIP6/128" via fe80::4 dev wg-sdwan-1
  moves h1 "$VIP6/128" s2
  kill_daemon h1
  check "without a daemon there is nothing to do" sdw h1 plan
  start_daemon h1
  wait_for "nor with the next one" 10 converged h1
  check "it was followed all along" carried_by h1 "$VIP6/128" s2
  unrouted h1 "$VIP6/128"
  moves h1 "$VIP6/128" s1
fi

# --- What can't be followed is on nobody, and said.
unmapped() { # WHAT PATTERN WHERE…
  routed h1 "$VIP6/128" "${@:3}"
  note "$1"
  moves h1 "$VIP6/128"
  expect "it is said" "Blocked UnmappedNextHop: *to $VIP6/128 $2: no peer carries it*ip route delete $VIP6/128 table 10001 metric 20*" said h1
  status "and by plan" 1 sdw h1 plan
  expect "explain sends there" 'allowed_ips sdwand plan, *' blocker h1 h1 "$VIP6"
  unrouted h1 "$VIP6/128"
  moves h1 "$VIP6/128" s1
}
unmapped "two next hops" 'has 2 next hops*' nexthop via fe80::3 dev wg-sdwan-1 nexthop via fe80::4 dev wg-sdwan-1
unmapped "no next hop" 'names no next hop' dev wg-sdwan-1
unmapped "nobody's address" 'goes via fe80::99*' via fe80::99 dev wg-sdwan-1
unmapped "a spoke that isn't a holder" 'leads to s3*' via fe80::5 dev wg-sdwan-1
wait_for "and that is the end of it" 5 prints 'Converged *' said h1
routed h1 198.51.100.0/24 via inet6 fe80::4 dev wg-sdwan-1
wait_for "what is beyond the fleet is said" 5 prints 'Blocked *198.51.100.0/24 is to what the fleet gives to no peer*' said h1
check "and on nobody" carried_by h1 198.51.100.0/24
unrouted h1 198.51.100.0/24
routed h1 "$(v6 1 4)/128" via fe80::2 dev wg-sdwan-1
wait_for "a node's own address stays on it, and that is said" 5 prints "Blocked *: s2 keeps it*" said h1
check "it does" carried_by h1 "$(v6 1 4)/128" s2
unrouted h1 "$(v6 1 4)/128"
ip -n h1 -6 route add blackhole "$VIP6/128" proto 186 metric 20 table 10001
moves h1 "$VIP6/128"
unrouted h1 "$VIP6/128"
moves h1 "$VIP6/128" s1

# --- Packets: a move loses none.
# asked_both: how many echo requests came to s1 and s2, of both families.
asked_both() {
  local host
  for host in s1 s2; do on "$host" sh -c 'grep Icmp6InEchos /proc/net/snmp6; grep ^Icmp: /proc/net/snmp'; done |
    awk '/^Icmp6InEchos/ { n += $2 } /InEchos/ && /^Icmp:/ { for (i = 1; i <= NF; i++) if ($i == "InEchos") at = i; next } /^Icmp:/ { n += $at } END { print n }'
}
if has_dummy; then
  has_vips() { [[ $(ip -n "$1" -o addr show dev d-sdwan-1) = *"$VIP4/32"*"$VIP6/128"* ]]; }
  for host in s1 s2; do wait_for "$host has both" 10 has_vips "$host"; done
else
  # What sdwand would do, on the loopback device.
  for host in s1 s2; do
    addresses "$host" lo "$VIP4/32" "$VIP6/128"
    ip -n "$host" rule add from "$VIP4" lookup 10001 priority 1900
    ip -n "$host" -6 rule add from "$VIP6" lookup 10001 priority 1900
  done
fi
for vip in "$VIP6" "$VIP4"; do
  length=128; [[ $vip = *:* ]] || length=32
  wait_for "$vip answers" 10 prints reply oping h1 1 "$vip"
  before=$(asked_both)
  count=0
  oloss h1 1 600 0.005 "$vip" >"$LAB/lost" 2>"$LAB/lost.log" &
  pings=$!
  while kill -0 "$pings" 2>/dev/null; do
    for to in 4:s2 3:s1; do
      routed h1 "$vip/$length" via inet6 "fe80::${to%:*}" dev wg-sdwan-1
      require until_ok 5 carried_by h1 "$vip/$length" "${to#*:}"
      count=$((count + 1))
    done
  done
  wait "$pings" || true
  note "$vip moved $count times"
  check "to and fro" test "$count" -ge 4
  expect "of 600 pings none is lost on its way there" 600 echo $(($(asked_both) - before))
  # What the former holder has answered and isn't here yet is refused: it is no longer whom the hub takes it from.
  check "of the answers, one a move at most ($(<"$LAB/lost"))" test "$(<"$LAB/lost")" -le "$count"
  unrouted h1 "$vip/$length"
done

# --- Hub to hub: s2 loses h1, and h1 reaches what is behind it by h2.
wait_for "lana → lanb" 10 prints reply pinged lana fd00:20::10
wait_for "s2 goes over h1" 30 prints h1 state s2 '.networks[0].active_hub'
on wan nft -f - <<NFT
table ip cut {
  chain forward {
    type filter hook forward priority 0; policy accept;
    ip saddr ${V4[s2]} ip daddr ${V4[h1]} drop
    ip saddr ${V4[h1]} ip daddr ${V4[s2]} drop
  }
}
NFT
wait_for "s2 goes over h2" 20 prints h2 state s2 '.networks[0].active_hub'
expect "lana → lanb is dead" "$NO_PING" pinged lana fd00:20::10
for pair in "10.10.0.0/24 10.20.0.0/24" "fd00:10::/64 fd00:20::/64"; do
  routed h1 "${pair#* }" via inet6 fe80::2 dev wg-sdwan-1
  routed h2 "${pair% *}" via inet6 fe80::1 dev wg-sdwan-1
  moves h1 "${pair#* }" h2
  moves h2 "${pair% *}" h1
done
for address in 10.20.0.10 fd00:20::10; do wait_for "lana → $address by both hubs" 10 prints reply pinged lana "$address"; done
expect "and back" reply pinged lanb fd00:10::10
expect "none is lost" 0 loss lana 50 0.02 fd00:20::10
for pair in "10.10.0.0/24 10.20.0.0/24" "fd00:10::/64 fd00:20::/64"; do
  unrouted h1 "${pair#* }"
  unrouted h2 "${pair% *}"
  moves h1 "${pair#* }" s2
  moves h2 "${pair% *}" s1
done
on wan nft delete table ip cut

stop_daemon h1 h2 s1 s2
ip -n h1 -6 route add fd77::/64 via fe80::4 dev lo proto 186 table 10001 2>/dev/null || ip -n h1 -6 route add unreachable fd77::/64 proto 186 table 10001
for host in h1 h2 s1 s2; do
  check "$host: down" sdw "$host" down
  expect "$host: nothing of ours is left" '' left_over "$host"
done
expect "and what is others' is" '*fd77::/64*' ip -n h1 -6 route show table 10001
